//! What is on the disk: inodes with what a running system sees of them, and what a power cut would leave.
//!
//! - Of a file, each page is durable or not on its own; length and attributes are two more such pieces.
//! - Of a directory, each name is. A rename is two names.
//! - What a symbolic link says is durable at once: real systems write it with the inode.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use nackcast_common::files::Kind;
use nackcast_common::manifest::Mtime;

/// Bytes that are written as one.
pub(super) const PAGE: u64 = 4096;

pub(super) type Page = Arc<[u8; 4096]>;
pub(super) type Name = Box<[u8]>;

/// The bytes of a file; a page that is not there is zeros.
#[derive(Clone, Debug, Default)]
pub(super) struct Bytes {
    pub(super) pages: BTreeMap<u64, Page>,
    pub(super) len: u64,
}

impl Bytes {
    pub(super) fn read(&self, buffer: &mut [u8], offset: u64) -> usize {
        let left = usize::try_from(self.len.saturating_sub(offset)).unwrap_or(usize::MAX);
        let count = buffer.len().min(left);
        for (page, within, range) in pieces(offset, count) {
            match self.pages.get(&page) {
                Some(bytes) => buffer[range.clone()].copy_from_slice(&bytes[within..within + range.len()]),
                None => buffer[range].fill(0),
            }
        }
        count
    }

    /// Writes; gives the pages that changed.
    pub(super) fn write(&mut self, bytes: &[u8], offset: u64) -> Vec<u64> {
        let mut changed = Vec::new();
        for (page, within, range) in pieces(offset, bytes.len()) {
            let stored = self.pages.entry(page).or_insert_with(|| Arc::new([0; 4096]));
            Arc::make_mut(stored)[within..within + range.len()].copy_from_slice(&bytes[range]);
            changed.push(page);
        }
        self.len = self.len.max(offset + bytes.len() as u64);
        changed
    }

    /// How many pages a write would add.
    pub(super) fn missing(&self, offset: u64, count: usize) -> u64 {
        pieces(offset, count).filter(|(page, ..)| !self.pages.contains_key(page)).count() as u64
    }

    /// Makes a range zero; gives the pages that changed.
    pub(super) fn punch(&mut self, offset: u64, len: u64) -> Vec<u64> {
        let end = offset.saturating_add(len);
        let touched: Vec<_> = self.pages.range(offset / PAGE..end.div_ceil(PAGE)).map(|(page, _)| *page).collect();
        for page in &touched {
            let start = page * PAGE;
            if offset <= start && end >= start + PAGE {
                self.pages.remove(page);
            } else if let Some(stored) = self.pages.get_mut(page) {
                let from = at(offset.max(start) - start);
                let to = at(end.min(start + PAGE) - start);
                Arc::make_mut(stored)[from..to].fill(0);
            }
        }
        touched
    }

    /// Cuts or lengthens; gives the pages that changed.
    pub(super) fn set_len(&mut self, len: u64) -> Vec<u64> {
        let changed = if len < self.len { self.punch(len, u64::MAX - len) } else { Vec::new() };
        self.len = len;
        changed
    }
}

/// The pages of a range: page, place in it, and place in the range.
fn pieces(offset: u64, count: usize) -> impl Iterator<Item = (u64, usize, std::ops::Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        if done >= count {
            return None;
        }
        let place = offset + done as u64;
        let within = at(place % PAGE);
        let len = (at(PAGE) - within).min(count - done);
        let range = done..done + len;
        done += len;
        Some((place / PAGE, within, range))
    })
}

/// A place within a page.
fn at(place: u64) -> usize {
    usize::try_from(place).unwrap_or(usize::MAX)
}

/// What is in an inode.
#[derive(Clone, Debug)]
pub(super) enum Content {
    File { now: Bytes, durable: Bytes, dirty: BTreeSet<u64> },
    Directory { now: BTreeMap<Name, u64>, durable: BTreeMap<Name, u64>, dirty: BTreeSet<Name> },
    Symlink(Vec<u8>),
}

/// Mode and modification time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Attributes {
    pub(super) mode: u32,
    pub(super) mtime: Mtime,
}

#[derive(Clone, Debug)]
pub(super) struct Inode {
    pub(super) content: Content,
    pub(super) now: Attributes,
    pub(super) durable: Attributes,
    pub(super) ctime: Mtime,
    pub(super) links: u32,
    pub(super) opens: u32,
    /// Neither named nor open.
    pub(super) gone: bool,
    pub(super) errors: Errors,
}

impl Inode {
    pub(super) fn new(content: Content, mode: u32, time: Mtime) -> Self {
        let now = Attributes { mode, mtime: time };
        Self { content, now, durable: now, ctime: time, links: 1, opens: 0, gone: false, errors: Errors::default() }
    }

    pub(super) fn file(mode: u32, time: Mtime) -> Self {
        let content = Content::File { now: Bytes::default(), durable: Bytes::default(), dirty: BTreeSet::new() };
        Self::new(content, mode, time)
    }

    pub(super) fn directory(mode: u32, time: Mtime) -> Self {
        let content = Content::Directory { now: BTreeMap::new(), durable: BTreeMap::new(), dirty: BTreeSet::new() };
        Self::new(content, mode, time)
    }

    pub(super) const fn kind(&self) -> Kind {
        match self.content {
            Content::File { .. } => Kind::File,
            Content::Directory { .. } => Kind::Directory,
            Content::Symlink(_) => Kind::Symlink,
        }
    }

    /// Pages that it takes, with one for itself.
    pub(super) fn pages(&self) -> u64 {
        match &self.content {
            Content::File { now, .. } => now.pages.len() as u64 + 1,
            Content::Directory { .. } | Content::Symlink(_) => 1,
        }
    }
}

/// Failures of writing back, told once to each handle as Linux does: one opened later is told what nobody was.
#[derive(Clone, Debug, Default)]
pub(super) struct Errors {
    count: u64,
    told: bool,
}

impl Errors {
    pub(super) const fn add(&mut self) {
        self.count += 1;
        self.told = false;
    }

    /// Whether there is one that nobody was told of.
    pub(super) const fn is_untold(&self) -> bool {
        self.count > 0 && !self.told
    }

    /// What a handle that is opened now has seen.
    pub(super) const fn seen_at_open(&self) -> u64 {
        if self.told { self.count } else { 0 }
    }

    /// Whether there is one that the handle has not seen; then it has.
    pub(super) const fn tell(&mut self, seen: &mut u64) -> bool {
        let new = self.count > *seen;
        if new {
            *seen = self.count;
            self.told = true;
        }
        new
    }
}
