//! From paths to facts: hashes what the cache does not know, and packs small new contents on the way.
//!
//! Small files are read in waves: the bytes of a wave are at hand when its packs are hashed, so that no
//! small file is read twice, and memory stays bounded whatever the number of files. While one wave is packed,
//! the next is read, so that no thread waits for what only one can do.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};

use nackcast_common::geometry::Geometry;
use nackcast_common::ids::{Digest, Generation};
use nackcast_common::path::DatasetPath;
use rayon::prelude::*;

use super::cache::HashCache;
use super::former::Former;
use super::hashing::{Hashed, Sums, hash_file};
use super::packs::{Draft, LostPart, Pack, Packer, Part, capacity};
use super::problem::Problem;
use super::root::{Root, Stamp};
use super::walk::Found;
use super::{LibraryConfig, Progress};

/// Bytes that a wave may hold in memory; two are held at a time.
const WAVE_BYTES: u64 = 16 << 20;

/// What is known of a file after hashing.
#[derive(Debug)]
pub(super) struct FileFacts {
    pub(super) path: DatasetPath,
    pub(super) mode: u32,
    pub(super) stamp: Stamp,
    pub(super) sums: Sums,
    pub(super) priority: i32,
}

/// All files, and packs for those small contents that no former generation had.
#[derive(Debug)]
pub(super) struct Gathered {
    pub(super) files: Vec<FileFacts>,
    pub(super) fresh: Vec<Pack>,
    pub(super) lost: Vec<LostPart>,
    pub(super) cache: HashCache,
}

/// What gathering works with.
pub(super) struct Gatherer<'a> {
    pub(super) config: &'a LibraryConfig,
    pub(super) root: &'a Root,
    pub(super) cache: &'a HashCache,
    pub(super) former: &'a Former,
    pub(super) next: Generation,
    pub(super) tally: &'a Tally<'a>,
}

/// Counts what was hashed and tells the caller.
pub(super) struct Tally<'a> {
    bytes: AtomicU64,
    files: AtomicU64,
    bytes_total: u64,
    files_total: u64,
    report: &'a (dyn Fn(Progress) + Sync),
}

impl<'a> Tally<'a> {
    /// Counts towards the files that the cache does not know.
    pub(super) fn new<'f>(unknown: impl Iterator<Item = &'f Found>, report: &'a (dyn Fn(Progress) + Sync)) -> Self {
        let (files_total, bytes_total) = unknown.fold((0, 0_u64), |(n, b), f| (n + 1, b.saturating_add(f.stamp.size)));
        Self { bytes: AtomicU64::new(0), files: AtomicU64::new(0), bytes_total, files_total, report }
    }

    /// Bytes that were read, of files hashed and of packs read again.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    pub(super) fn on_read(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.tell();
    }

    fn on_file(&self) {
        self.files.fetch_add(1, Ordering::Relaxed);
        self.tell();
    }

    fn tell(&self) {
        (self.report)(Progress {
            files: self.files.load(Ordering::Relaxed),
            files_total: self.files_total,
            bytes: self.bytes(),
            bytes_total: self.bytes_total,
        });
    }
}

/// A file with its facts; the bytes are there when it is small and was read just now.
struct Looked {
    facts: FileFacts,
    bytes: Option<Vec<u8>>,
    /// When hashing began; none for a file that the cache knew.
    started_ms: Option<u64>,
}

impl Gatherer<'_> {
    /// Hashes all files. `found` are files only.
    pub(super) fn gather(&self, found: Vec<Found>, problems: &mut Vec<Problem>) -> Gathered {
        let (large, mut small): (Vec<_>, Vec<_>) =
            found.into_iter().partition(|f| f.stamp.size >= u64::from(self.geometry().block_size()));
        let mut gathered =
            Gathered { files: Vec::new(), fresh: Vec::new(), lost: Vec::new(), cache: self.cache.successor() };
        let mut packing = Packing { packer: Packer::new(capacity(self.geometry())), seen: HashSet::new() };
        // They come sorted by path, and this sort is stable.
        small.par_sort_by_cached_key(|f| std::cmp::Reverse(self.config.priority(&f.path)));
        let mut small = small.into_iter();
        let mut looked = self.look_at(large);
        loop {
            let next = next_wave(&mut small);
            if looked.is_empty() && next.is_empty() {
                break;
            }
            let pack = || self.take_all(looked, &mut packing, &mut gathered, problems);
            (looked, ()) = rayon::join(|| self.look_at(next), pack);
        }
        self.hash_packs(packing.packer.finish(), &mut gathered);
        gathered
    }

    fn geometry(&self) -> Geometry {
        self.config.geometry
    }

    fn look_at(&self, wave: Vec<Found>) -> Vec<Result<Looked, Problem>> {
        wave.into_par_iter().map(|found| self.look(found)).collect()
    }

    fn take_all(
        &self,
        wave: Vec<Result<Looked, Problem>>,
        packing: &mut Packing,
        into: &mut Gathered,
        problems: &mut Vec<Problem>,
    ) {
        for result in wave {
            match result {
                Ok(looked) => self.take(looked, packing, into),
                Err(problem) => problems.push(problem),
            }
        }
        self.hash_packs(packing.packer.take_full(), into);
    }

    fn look(&self, found: Found) -> Result<Looked, Problem> {
        let priority = self.config.priority(&found.path);
        if let Some(sums) = self.known(&found) {
            let facts = FileFacts { path: found.path, mode: found.mode, stamp: found.stamp, sums, priority };
            return Ok(Looked { facts, bytes: None, started_ms: None });
        }
        let hashed =
            hash_file(self.root, &found.path, &found.stamp, self.geometry(), &|bytes| self.tally.on_read(bytes));
        self.tally.on_file();
        let Hashed { stamp, mode, sums, bytes, started_ms } =
            hashed.map_err(|what| Problem::new(found.path.as_path(), what))?;
        let facts = FileFacts { path: found.path, mode, stamp, sums, priority };
        Ok(Looked { facts, bytes, started_ms: Some(started_ms) })
    }

    fn known(&self, found: &Found) -> Option<Sums> {
        self.cache.get(&found.path, &found.stamp).cloned()
    }

    fn take(&self, looked: Looked, packing: &mut Packing, into: &mut Gathered) {
        let Looked { facts, bytes, started_ms } = looked;
        match started_ms {
            Some(started_ms) => into.cache.insert(&facts.path, facts.stamp, &facts.sums, started_ms),
            None => into.cache.keep(&facts.path, facts.stamp, &facts.sums),
        }
        let (size, digest) = (facts.stamp.size, facts.sums.digest);
        let small = size > 0 && size < u64::from(self.geometry().block_size());
        if small && self.former.since(&digest).is_none() && packing.seen.insert(digest) {
            let (path, priority, since) = (facts.path.clone(), facts.priority, self.next);
            packing.packer.push(Part { path, size, digest, priority, since, bytes });
        }
        into.files.push(facts);
    }

    fn hash_packs(&self, drafts: Vec<Draft>, into: &mut Gathered) {
        let (packs, lost) = hash_drafts(drafts, self.root, self.geometry(), self.tally);
        into.fresh.extend(packs);
        into.lost.extend(lost);
    }
}

/// New small contents on their way into packs.
struct Packing {
    packer: Packer,
    seen: HashSet<Digest>,
}

/// Hashes packs in parallel.
pub(super) fn hash_drafts(
    drafts: Vec<Draft>,
    root: &Root,
    geometry: Geometry,
    tally: &Tally<'_>,
) -> (Vec<Pack>, Vec<LostPart>) {
    let results: Vec<_> =
        drafts.into_par_iter().map(|draft| draft.hash(root, geometry, &|bytes| tally.on_read(bytes))).collect();
    let mut lost = Vec::new();
    let mut packs = Vec::with_capacity(results.len());
    for (pack, missing) in results {
        packs.extend(pack);
        lost.extend(missing);
    }
    (packs, lost)
}

/// Takes files until their bytes make a wave.
fn next_wave(files: &mut impl Iterator<Item = Found>) -> Vec<Found> {
    let (mut wave, mut bytes) = (Vec::new(), 0);
    while bytes < WAVE_BYTES
        && let Some(found) = files.next()
    {
        bytes += found.stamp.size;
        wave.push(found);
    }
    wave
}
