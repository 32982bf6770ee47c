//! From a comparison to what must be fetched.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use fixedbitset::FixedBitSet;
use nackcast_common::geometry::Layout;
use nackcast_common::ids::{Digest, ObjectId, ObjectIndex};
use nackcast_common::manifest::{Chaining, Content, Entry, EntryKind, Manifest, ObjectKind, ObjectRecord};
use nackcast_common::path::DatasetPath;
use nackcast_common::ranges::RangeSet;
use nackcast_common::units::ByteCount;

use super::finish::is_forbidden;
use super::{CompareError, Dataset, Report, ScanReport, has_object};
use crate::disk::facts::FileStamp;
use crate::disk::install::Source;
use crate::disk::part::PartState;
use crate::disk::scan::{self, Comparison, Depth, Difference, Options, Progress, Status};
use crate::disk::seed::{BlockCheck, seed};
use crate::engine::{Want, Wants};

/// Names shown of entries that stand in the way.
const SHOWN_MAX: usize = 20;

/// Entries that do not stand as the manifest says, each a line. Times of directories do not count: others change them.
pub(super) fn differing<'a>(manifest: &'a Manifest, comparison: &'a Comparison) -> impl Iterator<Item = String> + 'a {
    manifest.entries().iter().zip(&comparison.entries).filter_map(|(entry, status)| match status {
        Status::Same => None,
        Status::MetadataDiffers if entry.kind == EntryKind::Directory => None,
        Status::Missing => Some(format!("{} is missing", entry.path)),
        Status::MetadataDiffers => Some(format!("{}: mode or time", entry.path)),
        Status::Differs(what) => Some(format!("{}: {}", entry.path, describe(*what))),
        Status::Unreadable(cause) => Some(format!("{}: {cause}", entry.path)),
    })
}

impl ScanReport {
    pub(crate) fn new(manifest: &Manifest, comparison: &Comparison) -> Self {
        let mut report = Self {
            generation: manifest.head().generation.0,
            entries: manifest.entries().len() as u64,
            extra: comparison.extra.len() as u64,
            ..Self::default()
        };
        for (entry, status) in manifest.entries().iter().zip(&comparison.entries) {
            match status {
                Status::Same => {}
                Status::MetadataDiffers if entry.kind == EntryKind::Directory => {}
                Status::Missing => report.missing.push(entry.path.to_string()),
                Status::MetadataDiffers => report.damaged.push(format!("{}: mode or time", entry.path)),
                Status::Differs(what) => report.damaged.push(format!("{}: {}", entry.path, describe(*what))),
                Status::Unreadable(cause) => report.damaged.push(format!("{}: {cause}", entry.path)),
            }
        }
        report
    }
}

fn describe(difference: Difference) -> String {
    match difference {
        Difference::Kind(kind) => format!("is a {kind:?}").to_lowercase(),
        Difference::Size(size) => format!("has {size} bytes"),
        Difference::Content => "content".into(),
        Difference::LinkTarget => "link target".into(),
    }
}

impl Dataset {
    /// Looks at the directory; nothing is changed.
    pub(super) fn look(&self, manifest: &Manifest, depth: Depth) -> Result<Comparison, CompareError> {
        let known = |path: &DatasetPath| self.record.stamp(path);
        let chaining = |record: &ObjectRecord| self.values(record);
        let options = Options {
            depth,
            mode_mask: self.settings.mode_mask,
            known: &known,
            chaining: &chaining,
            make_chaining: true,
            progress: &Progress::default(),
        };
        Ok(scan::scan(&self.target, manifest, options)?)
    }

    /// Compares, does what needs no fetching, and says what is wanted.
    pub(super) fn compare(&mut self, depth: Depth) -> Result<Option<(Wants, ScanReport)>, CompareError> {
        let Some((hash, manifest)) = self.manifest.clone() else { return Ok(None) };
        let comparison = self.look(&manifest, depth)?;
        self.settle(hash, manifest, comparison, depth).map(Some)
    }

    /// Does what a comparison shows and needs no fetching, and says what is wanted.
    pub(super) fn settle(
        &mut self,
        hash: Digest,
        manifest: Arc<Manifest>,
        mut comparison: Comparison,
        depth: Depth,
    ) -> Result<(Wants, ScanReport), CompareError> {
        if comparison.entries.iter().any(|s| matches!(s, Status::Differs(Difference::Kind(_))))
            || comparison.extra.iter().any(|e| e.in_the_way)
        {
            self.clear_the_way(&manifest)?;
            comparison = self.look(&manifest, depth)?;
        }
        self.keep_made_chaining(&manifest, &mut comparison);
        self.readmit(&manifest, &comparison);
        let report = ScanReport::new(&manifest, &comparison);
        self.check_ours(&manifest, &comparison)?;
        self.tell_damage(&manifest, &comparison);
        self.mark(&manifest, &comparison)?;
        let stamps: Vec<_> = comparison
            .stamps
            .iter()
            .filter_map(|(at, stamp)| Some((manifest.entries().get(*at)?.path.clone(), Some(*stamp))))
            .collect();
        self.record.put_stamps(&stamps)?;
        self.wanted.clear();
        let lacking = self.settle_entries(&manifest, &comparison)?;
        let objects = self.wants(&manifest, &comparison, &lacking)?;
        let wanted: BTreeSet<ObjectId> =
            objects.iter().filter_map(|w| manifest.object(w.index)).map(|o| o.id).collect();
        self.parts.retain(|id| wanted.contains(&id))?;
        self.warn_of_space(&manifest, &objects);
        tracing::debug!(lacking = lacking.len(), objects = objects.len(), "compared");
        Ok((Wants { manifest, hash, objects }, report))
    }

    /// What had something in its way is wanted again when nothing stands there any more.
    fn readmit(&mut self, manifest: &Manifest, comparison: &Comparison) {
        let standing = manifest.entries().iter().zip(&comparison.entries);
        let differing = standing.filter(|(_, status)| matches!(status, Status::Differs(_)));
        let obstacles: BTreeSet<_> = differing.map(|(entry, _)| entry.path.as_bytes()).collect();
        let is_blocked = |entry: &Entry| {
            obstacles.contains(entry.path.as_bytes()) || entry.path.ancestors().any(|above| obstacles.contains(above))
        };
        self.refused.retain(|at| manifest.entries().get(*at).is_some_and(is_blocked));
    }

    /// Refuses to replace what is not ours.
    fn check_ours(&self, manifest: &Manifest, comparison: &Comparison) -> Result<(), CompareError> {
        if self.record.is_ours()? {
            return Ok(());
        }
        let differs = |(entry, status): (&Entry, &Status)| match status {
            Status::Differs(what) => Some(format!("{}: {}", entry.path, describe(*what))),
            Status::Unreadable(cause) if is_forbidden(*cause) => Some(format!("{}: {cause}", entry.path)),
            Status::Same | Status::MetadataDiffers | Status::Missing | Status::Unreadable(_) => None,
        };
        let foreign: Vec<_> = manifest.entries().iter().zip(&comparison.entries).filter_map(differs).collect();
        if !foreign.is_empty() && !self.settings.overwrite {
            let more = foreign.len().saturating_sub(SHOWN_MAX);
            let mut shown: Vec<_> = foreign.into_iter().take(SHOWN_MAX).collect();
            if more > 0 {
                shown.push(format!("and {more} more"));
            }
            return Err(CompareError::NotOurs(shown));
        }
        // A disk that cannot be read now makes nothing somebody else's, nor ours.
        let unread = |(entry, status): (&Entry, &Status)| match status {
            Status::Unreadable(cause) => Some(CompareError::Unread(entry.path.to_string(), *cause)),
            Status::Same | Status::MetadataDiffers | Status::Missing | Status::Differs(_) => None,
        };
        if let Some(error) = manifest.entries().iter().zip(&comparison.entries).find_map(unread)
            && !self.settings.overwrite
        {
            return Err(error);
        }
        self.record.make_ours()?;
        Ok(())
    }

    /// Says on record where we are going to put something, and which files are no longer what their stamps say: else
    /// the next quick scan would take a stamp's word.
    fn mark(&self, manifest: &Manifest, comparison: &Comparison) -> Result<(), CompareError> {
        let standing = || manifest.entries().iter().zip(&comparison.entries);
        let missing = standing().filter(|(_, status)| matches!(status, Status::Missing));
        self.record.claim(missing.map(|(entry, _)| &entry.path))?;
        let differing = standing().filter(|(_, status)| matches!(status, Status::Differs(_)));
        let rotten = differing
            .filter(|(entry, _)| self.was_sound(entry) && self.is_still_ours(&entry.path).is_ok_and(|ours| ours));
        self.record.doubt(rotten.map(|(entry, _)| &entry.path))?;
        Ok(())
    }

    /// This content was once seen under this path.
    fn was_sound(&self, entry: &Entry) -> bool {
        match &entry.kind {
            EntryKind::File { digest, .. } => self.record.stamp(&entry.path).is_some_and(|s| s.content == *digest),
            EntryKind::Directory | EntryKind::Symlink { .. } => false,
        }
    }

    /// Tells of what was sound and is not, once until it is sound again.
    fn tell_damage(&mut self, manifest: &Manifest, comparison: &Comparison) {
        let is_bad = |status: &Status| matches!(status, Status::Differs(_) | Status::Missing | Status::Unreadable(_));
        let standing = manifest.entries().iter().zip(&comparison.entries).enumerate();
        let bad = standing.filter(|(_, (_, status))| is_bad(status));
        let damaged: BTreeSet<usize> = bad
            .filter(|(at, (entry, _))| self.damaged.contains(at) || self.was_sound(entry))
            .map(|(at, _)| at)
            .collect();
        let news: Vec<_> = damaged.difference(&self.damaged).filter_map(|at| manifest.entries().get(*at)).collect();
        if !news.is_empty() {
            let paths = news.iter().take(SHOWN_MAX).map(|entry| entry.path.to_string()).collect();
            let count = news.len() as u64;
            self.tell(Report::Damaged { paths, count });
        }
        self.damaged = damaged;
    }

    /// Entries that need no fetching are put right; returns the others.
    fn settle_entries(&mut self, manifest: &Manifest, comparison: &Comparison) -> Result<Vec<usize>, CompareError> {
        let seen: BTreeMap<usize, FileStamp> = comparison.stamps.iter().copied().collect();
        let mut lacking = Vec::new();
        let here = self.content_here(manifest, comparison)?;
        // Mode and time of what is moved are set before.
        let leaving = here.values().filter_map(|(from, leaving)| leaving.is_some().then_some(from));
        let moved = self.suspend(leaving.filter(|from| self.is_still_ours(from).is_ok_and(|ours| ours)))?;
        let (mut untidy, mut directories) = (Vec::new(), Vec::new());
        let (mut links, mut foreign) = (Vec::new(), Vec::new());
        for (at, (entry, status)) in manifest.entries().iter().zip(&comparison.entries).enumerate() {
            // What differs where we never put anything is somebody else's.
            if matches!(status, Status::Differs(_)) && !self.settings.overwrite && !self.record.knows(&entry.path) {
                foreign.push(entry.path.clone());
                let why =
                    format!("{} stands in the way and is not ours: move it away, or give --overwrite", entry.path);
                self.blocked.insert(at, why.clone());
                if self.refused.insert(at) {
                    self.tell(Report::Trouble(why));
                }
                continue;
            }
            match (status, &entry.kind) {
                // What was made, and not recorded since the disk failed after.
                (Status::Same | Status::MetadataDiffers, EntryKind::Directory)
                    if self.record.is_vacant(&entry.path) =>
                {
                    directories.push(entry.path.clone());
                }
                (Status::Same, EntryKind::Symlink { .. }) if self.record.is_vacant(&entry.path) => {
                    links.push((entry.path.clone(), None));
                }
                (Status::Same, _) | (Status::MetadataDiffers, EntryKind::Directory) => self.blocked.remove(at),
                _ if self.refused.contains(&at) => {}
                (Status::MetadataDiffers, _) => {
                    untidy.push((entry, seen.get(&at).copied().or_else(|| self.record.stamp(&entry.path))));
                }
                (_, EntryKind::File { digest, content, .. }) if *content != Content::Empty => {
                    self.wanted.insert(at);
                    let staged = here.get(digest).is_some_and(|(from, leaving)| {
                        self.stage(entry, Source::Local { from, leaving: *leaving }).is_ok()
                    });
                    if !staged {
                        lacking.push(at);
                    }
                }
                (_, EntryKind::File { .. } | EntryKind::Directory | EntryKind::Symlink { .. }) => {
                    if let Err(error) = self.stage(entry, Source::Nothing) {
                        self.trouble(&error);
                        self.block(at, &error);
                    } else if entry.kind == EntryKind::Directory {
                        self.blocked.remove(at);
                        directories.push(entry.path.clone());
                    }
                }
            }
        }
        // They are there already, also if the rest fails.
        let recorded = self.record.put_directories(&directories).and_then(|()| self.record.put_stamps(&links));
        let recorded = recorded.and_then(|()| self.record.disown(&foreign)).map_err(CompareError::from);
        let recorded = recorded.and_then(|()| self.tidy(&untidy));
        // Whatever failed of that: nothing may stay staged, and what is placed gets its stamp.
        let committed = self.commit();
        let settled = self.end_moves(moved, committed.is_ok());
        let results = committed?;
        let mut outcomes = BTreeMap::new();
        let failed: Vec<_> = results.iter().filter(|o| o.result.is_err()).map(|o| o.path.clone()).collect();
        self.record_outcomes(manifest, results, &mut outcomes);
        for path in failed {
            if let Ok(at) = manifest.entries().binary_search_by(|e| e.path.cmp(&path))
                && has_object(&manifest.entries()[at]).is_some()
            {
                lacking.push(at);
            }
        }
        recorded?;
        settled?;
        Ok(lacking)
    }

    /// Content that is in the directory under some name, by digest; with the stamp when that name leaves.
    fn content_here(
        &self,
        manifest: &Manifest,
        comparison: &Comparison,
    ) -> Result<BTreeMap<Digest, (DatasetPath, Option<FileStamp>)>, CompareError> {
        let lacks = |status: &Status| !matches!(status, Status::Same | Status::MetadataDiffers);
        let mut here = BTreeMap::new();
        if !comparison.entries.iter().any(lacks) {
            return Ok(here);
        }
        for (entry, status) in manifest.entries().iter().zip(&comparison.entries) {
            if let EntryKind::File { digest, .. } = &entry.kind
                && !lacks(status)
            {
                here.insert(*digest, (entry.path.clone(), None));
            }
        }
        // Files that left the dataset, and files that are to be replaced; what is copied is checked in full.
        let wanted: BTreeSet<Digest> = manifest
            .entries()
            .iter()
            .zip(&comparison.entries)
            .filter(|(_, status)| lacks(status))
            .filter_map(|(entry, _)| match &entry.kind {
                EntryKind::File { digest, .. } => Some(*digest),
                EntryKind::Directory | EntryKind::Symlink { .. } => None,
            })
            .collect();
        for (path, stamp) in self.record.stamps()? {
            if !wanted.contains(&stamp.content) {
                continue;
            }
            let leaves = self.settings.prune && manifest.entry(path.as_bytes()).is_none();
            here.entry(stamp.content).or_insert((path, leaves.then_some(stamp)));
        }
        Ok(here)
    }

    /// The objects of lacking entries, with what is here of them.
    fn wants(
        &self,
        manifest: &Arc<Manifest>,
        comparison: &Comparison,
        lacking: &[usize],
    ) -> Result<Vec<Want>, CompareError> {
        let mut objects: BTreeMap<ObjectIndex, Vec<usize>> = BTreeMap::new();
        for at in lacking {
            if let Some(index) = manifest.entries().get(*at).and_then(has_object) {
                objects.entry(index).or_default().push(*at);
            }
        }
        let mut wants = BTreeMap::new();
        for (index, entries) in objects {
            let Some(record) = manifest.object(index) else { continue };
            let values = self.values(record);
            let check = match (&record.chaining, &values) {
                (Chaining::Digest, _) => Some(BlockCheck::Digest(&record.digest)),
                (_, Some(values)) => Some(BlockCheck::Chaining(values)),
                (_, None) => None,
            };
            if let Some(check) = check {
                self.take_over(manifest, comparison, index, record, check, &entries)?;
            }
            self.want_chaining(manifest, record, &mut wants);
            wants.insert(index, want(index, record.layout, self.parts.state(record.id)));
        }
        Ok(wants.into_values().collect())
    }

    /// Block hashes that are not here are objects to fetch too, and theirs.
    fn want_chaining(&self, manifest: &Manifest, record: &ObjectRecord, wants: &mut BTreeMap<ObjectIndex, Want>) {
        let mut record = record;
        while let Chaining::Object(id) = record.chaining
            && !self.chaining.contains_key(&id)
            && let Some(index) = manifest.index_of(id)
            && let Some(chaining) = manifest.object(index)
        {
            wants.insert(index, want(index, chaining.layout, self.parts.state(id)));
            record = chaining;
        }
    }

    /// Takes what local files have of an object.
    fn take_over(
        &self,
        manifest: &Manifest,
        comparison: &Comparison,
        index: ObjectIndex,
        record: &ObjectRecord,
        check: BlockCheck<'_>,
        entries: &[usize],
    ) -> Result<(), CompareError> {
        if record.kind == ObjectKind::Pack {
            return self.rebuild_pack(manifest, comparison, index, record, check);
        }
        for at in entries {
            let differs =
                matches!(comparison.entries.get(*at), Some(Status::Differs(Difference::Size(_) | Difference::Content)));
            let Some(entry) = manifest.entries().get(*at) else { continue };
            if differs && let Ok(file) = self.target.open_file(&entry.path) {
                seed(&self.parts, record.id, record.layout, check, &file)?;
                return Ok(());
            }
        }
        Ok(())
    }

    /// Blocks of a pack whose members are all in the directory need not be fetched.
    fn rebuild_pack(
        &self,
        manifest: &Manifest,
        comparison: &Comparison,
        index: ObjectIndex,
        record: &ObjectRecord,
        check: BlockCheck<'_>,
    ) -> Result<(), CompareError> {
        let size = usize::try_from(record.layout.size()).unwrap_or(0);
        let mut bytes = vec![0; size];
        let mut have = RangeSet::new();
        for at in self.members.get(&index).into_iter().flatten() {
            let (Some(entry), Some(status)) = (manifest.entries().get(*at), comparison.entries.get(*at)) else {
                continue;
            };
            let EntryKind::File { size, content: Content::Slice { offset, .. }, .. } = entry.kind else { continue };
            if !matches!(status, Status::Same | Status::MetadataDiffers) {
                continue;
            }
            let (Ok(start), Ok(length)) = (usize::try_from(offset), usize::try_from(size)) else { continue };
            let Some(slice) = bytes.get_mut(start..start + length) else { continue };
            let read = self.target.open_file(&entry.path).ok().and_then(|file| file.read_exact_at(slice, 0).ok());
            if let (Some(()), Ok(start), Ok(end)) = (read, u32::try_from(start), u32::try_from(start + length)) {
                have.insert(start..end);
            }
        }
        let layout = record.layout;
        let mut created = false;
        for block in 0..layout.block_count() {
            let start = u32::try_from(layout.block_offset(block)).unwrap_or(u32::MAX);
            let end = start.saturating_add(layout.block_len(block));
            let whole = have.ranges().any(|r| r.start <= start && r.end >= end);
            let block_bytes = bytes.get(start as usize..end as usize).unwrap_or_default();
            if whole && check.holds(&layout, block, block_bytes) {
                if !created {
                    self.parts.create(layout, record.id)?;
                    created = true;
                }
                self.parts.write_block(record.id, block, block_bytes)?;
            }
        }
        Ok(())
    }

    fn warn_of_space(&mut self, manifest: &Manifest, objects: &[Want]) {
        let needed: u64 = objects
            .iter()
            .filter_map(|w| Some((manifest.object(w.index)?.layout, &w.done)))
            .map(|(layout, done)| {
                let here = done.count() * u64::from(layout.geometry().block_size());
                layout.size().saturating_sub(here)
            })
            .sum();
        if let Ok(free) = self.target.free_bytes()
            && free < needed
        {
            self.tell(Report::Trouble(format!(
                "{} has {} free and the dataset needs {} more: free {} and it goes on by itself",
                super::shown(self.target.path()),
                ByteCount(free),
                ByteCount(needed),
                ByteCount(needed - free),
            )));
        }
    }
}

fn want(index: ObjectIndex, layout: Layout, state: Option<PartState>) -> Want {
    let Some(state) = state.filter(|s| s.layout == layout) else {
        return Want { index, done: RangeSet::new(), held: Vec::new() };
    };
    let held = state.open.into_iter().map(|(block, open)| {
        let mut held = FixedBitSet::with_capacity(layout.esi_end(block).into());
        open.source.ones().for_each(|esi| held.insert(esi));
        open.repair.iter().for_each(|esi| held.insert((*esi).into()));
        (block, held)
    });
    Want { index, done: state.verified, held: held.collect() }
}
