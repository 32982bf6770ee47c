//! What becomes durable when, and what a power cut leaves.
//!
//! Nothing is assumed of the order in which unsynced pieces reach the disk: after a crash each page, length,
//! attribute and name that was not synced is the old or the new one, each by its own throw.

use std::collections::BTreeMap;

use super::faults::{Dice, Faults};
use super::inodes::{Bytes, Content, Inode, PAGE};
use super::{Disk, State};

/// How much of a file is made durable.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Extent {
    Data,
    All,
}

impl Disk {
    /// The disk as the next boot finds it after a power cut at this moment. This one goes on as if nothing had
    /// happened, so that many crash points can be tried in one run.
    #[must_use]
    pub fn crash(&self, seed: u64) -> Self {
        let state = self.state();
        let mut dice = Dice::new(seed);
        let mut inodes: BTreeMap<_, _> =
            state.inodes.iter().map(|(number, inode)| (*number, survivor(inode, &mut dice))).collect();
        let links = links(&inodes);
        inodes.retain(|number, inode| {
            inode.links = links.get(number).copied().unwrap_or(0);
            inode.links > 0
        });
        let used = inodes.values().map(Inode::pages).sum();
        Self::of(State {
            inodes,
            used,
            dice,
            left: None,
            errors: super::inodes::Errors::default(),
            locks: BTreeMap::new(),
            counts: super::Counts::default(),
            ..state.clone()
        })
    }
}

fn survivor(inode: &Inode, dice: &mut Dice) -> Inode {
    let attributes = if inode.now != inode.durable && dice.coin() { inode.now } else { inode.durable };
    let content = match &inode.content {
        Content::File { now, durable, dirty } => {
            let mut left = durable.clone();
            for page in dirty.iter().filter(|_| dice.coin()) {
                match now.pages.get(page) {
                    Some(bytes) => drop(left.pages.insert(*page, bytes.clone())),
                    None => drop(left.pages.remove(page)),
                }
            }
            left.len = if now.len != durable.len && dice.coin() { now.len } else { durable.len };
            cut(&mut left);
            Content::File { now: left.clone(), durable: left, dirty: std::collections::BTreeSet::new() }
        }
        Content::Directory { now, durable, dirty } => {
            let mut left = durable.clone();
            for name in dirty.iter().filter(|_| dice.coin()) {
                match now.get(name) {
                    Some(number) => drop(left.insert(name.clone(), *number)),
                    None => drop(left.remove(name)),
                }
            }
            Content::Directory { now: left.clone(), durable: left, dirty: std::collections::BTreeSet::new() }
        }
        Content::Symlink(to) => Content::Symlink(to.clone()),
    };
    Inode { content, ctime: inode.ctime, ..Inode::new(Content::Symlink(Vec::new()), attributes.mode, attributes.mtime) }
}

/// Nothing lies behind the end.
fn cut(bytes: &mut Bytes) {
    let len = bytes.len;
    bytes.punch(len, u64::MAX - len);
}

/// How many names each inode has, from the root.
fn links(inodes: &BTreeMap<u64, Inode>) -> BTreeMap<u64, u32> {
    let mut links = BTreeMap::from([(super::ROOT, 1)]);
    let mut left = vec![super::ROOT];
    while let Some(number) = left.pop() {
        if let Some(Inode { content: Content::Directory { now, .. }, .. }) = inodes.get(&number) {
            for child in now.values() {
                let count = links.entry(*child).or_insert(0);
                *count += 1;
                if *count == 1 {
                    left.push(*child);
                }
            }
        }
    }
    links
}

impl State {
    /// Writes back all of one inode.
    pub(super) fn write_back(&mut self, number: u64, extent: Extent) {
        let Self { inodes, dice, faults, errors, counts, used, .. } = self;
        let Some(inode) = inodes.get_mut(&number).filter(|inode| !inode.gone) else { return };
        *used -= inode.pages();
        let mut lost = false;
        match &mut inode.content {
            Content::File { now, durable, dirty } => {
                counts.stored += dirty.len() as u64 * PAGE;
                for page in std::mem::take(dirty) {
                    lost |= !write_page(now, durable, page, dice, faults);
                }
                durable.len = now.len;
                cut(durable);
            }
            Content::Directory { now, durable, dirty } => {
                counts.stored += dirty.len() as u64 * PAGE;
                durable.clone_from(now);
                dirty.clear();
            }
            Content::Symlink(_) => {}
        }
        if extent == Extent::All {
            inode.durable = inode.now;
        }
        *used += inode.pages();
        if lost {
            counts.lost += 1;
            inode.errors.add();
            errors.add();
        }
    }

    /// The system may write back something of an inode that was just changed, by itself.
    pub(super) fn maybe_write_back(&mut self, number: u64) {
        let Self { inodes, dice, faults, errors, used, counts, .. } = self;
        if !dice.falls(faults.write_back) {
            return;
        }
        let Some(inode) = inodes.get_mut(&number).filter(|inode| !inode.gone) else { return };
        *used -= inode.pages();
        match &mut inode.content {
            Content::File { now, durable, dirty } => {
                let chosen = dice.below(dirty.len() + 2);
                if let Some(page) = dirty.iter().nth(chosen).copied() {
                    dirty.remove(&page);
                    if !write_page(now, durable, page, dice, faults) {
                        counts.lost += 1;
                        inode.errors.add();
                        errors.add();
                    }
                } else if chosen == dirty.len() {
                    durable.len = now.len;
                } else {
                    inode.durable = inode.now;
                }
            }
            Content::Directory { now, durable, dirty } => {
                if !dirty.is_empty()
                    && let Some(name) = dirty.iter().nth(dice.below(dirty.len())).cloned()
                {
                    match now.get(&name) {
                        Some(child) => drop(durable.insert(name.clone(), *child)),
                        None => drop(durable.remove(&name)),
                    }
                    dirty.remove(&name);
                }
            }
            Content::Symlink(_) => inode.durable = inode.now,
        }
        *used += inode.pages();
    }
}

/// Stores a page, or loses it: then what was there before stays, and the running system sees the one or the other.
fn write_page(now: &mut Bytes, durable: &mut Bytes, page: u64, dice: &mut Dice, faults: &Faults) -> bool {
    let lost = dice.falls(faults.write_back_error);
    let (from, to) = match lost {
        false => (&*now, durable),
        true if dice.coin() => (&*durable, now),
        true => return false,
    };
    match from.pages.get(&page) {
        Some(bytes) => drop(to.pages.insert(page, bytes.clone())),
        None => drop(to.pages.remove(&page)),
    }
    !lost
}
