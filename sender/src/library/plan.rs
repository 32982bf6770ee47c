//! The next generation's tables: which objects there are, in which order, and which file's bytes are where.
//!
//! - Contents are told apart by digest: equal files share an object or a slice.
//! - A content that the former generation had keeps its `since`. Its pack stays as it is while all of it is
//!   in use; what survives of other packs goes into packs of old contents only, which keep the latest
//!   `since` of their members: receivers hold those bytes, so that nothing is sent unasked.
//! - The same files and the same former generation give the same tables.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::Arc;

use nackcast_common::geometry::Geometry;
use nackcast_common::ids::{Digest, Generation, ObjectId, ObjectIndex};
use nackcast_common::manifest::{
    self, Chaining, ChainingValue, Entry, EntryKind, INLINE_CHAINING_MAX, ObjectKind, ObjectRecord,
};
use nackcast_common::path::DatasetPath;

use super::content::{Member, ObjectSource};
use super::former::{Former, FormerPack};
use super::gather::{FileFacts, Tally, hash_drafts};
use super::hashing::Sums;
use super::packs::{Draft, LostPart, Pack, Packer, Part, capacity};
use super::problem::{Problem, ProblemKind};
use super::root::Root;
use super::spill::Spill;

/// With more packs than this that are less than half full (of one priority), they are merged.
const SMALL_PACKS_MAX: usize = 8;

/// The tables.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) objects: Vec<ObjectRecord>,
    pub(super) sources: Vec<ObjectSource>,
    pub(super) entries: Vec<Entry>,
}

/// What planning works with.
pub(super) struct Planner<'a> {
    pub(super) root: &'a Root,
    pub(super) geometry: Geometry,
    pub(super) next: Generation,
    pub(super) tally: &'a Tally<'a>,
    pub(super) spill: &'a Spill,
}

/// Who uses a content.
struct Use<'a> {
    /// The first of its paths.
    path: &'a DatasetPath,
    size: u64,
    /// The highest of its paths.
    priority: i32,
    sums: &'a Sums,
}

type Uses<'a> = HashMap<Digest, Use<'a>>;

/// Objects that stand together in the table: one that carries files, and its hash lists before it.
struct Group {
    priority: i32,
    path: DatasetPath,
    rows: Vec<(ObjectRecord, ObjectSource)>,
    carried: Carried,
}

enum Carried {
    Whole(Digest),
    Slices(Vec<(Digest, u64)>),
}

impl Group {
    /// The object that carries files.
    fn id(&self) -> Option<ObjectId> {
        self.rows.last().map(|(record, _)| record.id)
    }
}

impl Planner<'_> {
    /// Makes the tables. `entries` hold what is no file; `fresh` are the packs of new small contents.
    pub(super) fn plan(
        &self,
        mut entries: Vec<Entry>,
        files: &[FileFacts],
        fresh: Vec<Pack>,
        mut lost: Vec<LostPart>,
        former: Former,
        problems: &mut Vec<Problem>,
    ) -> io::Result<Plan> {
        let uses = uses(files);
        let mut groups = self.large_groups(&uses, &former, problems)?;
        let others: HashSet<_> = groups.iter().flat_map(|g| g.rows.iter().map(|(record, _)| record.id)).collect();
        let packs = self.old_packs(&uses, former, &others, !fresh.is_empty(), &mut lost);
        let packs = self.distinct(packs.into_iter().chain(fresh), &others, &mut lost);
        groups.extend(packs.into_iter().map(|pack| self.pack_group(pack, &uses)));
        groups.sort_unstable_by(|a, b| (Reverse(a.priority), &a.path).cmp(&(Reverse(b.priority), &b.path)));
        problems.extend(lost.into_iter().map(|(part, what)| Problem::new(part.path.as_path(), what)));

        let places = places(&groups);
        let (objects, sources) = groups.into_iter().flat_map(|g| g.rows).unzip();
        let told: HashSet<_> = problems.iter().map(|p| p.path.clone()).collect();
        for file in files {
            match places.get(&file.sums.digest) {
                Some(content) => entries.push(entry(file, *content)),
                None if file.stamp.size == 0 => entries.push(entry(file, manifest::Content::Empty)),
                None if told.contains(file.path.as_path()) => {}
                // Its bytes were to come from another path, which was lost.
                None => problems.push(Problem::new(file.path.as_path(), ProblemKind::Changed)),
            }
        }
        entries.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        Ok(Plan { objects, sources, entries })
    }

    fn block_size(&self) -> u64 {
        self.geometry.block_size().into()
    }

    fn large_groups(&self, uses: &Uses<'_>, former: &Former, problems: &mut Vec<Problem>) -> io::Result<Vec<Group>> {
        let mut groups = Vec::new();
        for (digest, used) in uses.iter().filter(|(_, used)| used.size >= self.block_size()) {
            let since = former.since(digest).unwrap_or(self.next);
            let mut rows = Vec::new();
            let source = ObjectSource::File(used.path.clone());
            self.describe(used.sums, used.size, ObjectKind::File, since, source, &mut rows)?;
            groups.push(Group {
                priority: used.priority,
                path: used.path.clone(),
                rows,
                carried: Carried::Whole(*digest),
            });
        }
        let is_list = |(record, _): &&(ObjectRecord, ObjectSource)| record.kind == ObjectKind::Chaining;
        let lists: HashSet<_> = groups.iter().flat_map(|g| g.rows.iter().filter(is_list)).map(|(r, _)| r.id).collect();
        groups.retain(|group| {
            let clash = group.id().is_some_and(|id| lists.contains(&id));
            if clash {
                problems.push(Problem::new(group.path.as_path(), ProblemKind::Clash));
            }
            !clash
        });
        Ok(groups)
    }

    /// Appends the object's row, after those of its hash lists.
    fn describe(
        &self,
        sums: &Sums,
        size: u64,
        kind: ObjectKind,
        since: Generation,
        source: ObjectSource,
        rows: &mut Vec<(ObjectRecord, ObjectSource)>,
    ) -> io::Result<()> {
        let layout = self.geometry.object(size).map_err(io::Error::other)?;
        let chaining = match &sums.chaining {
            None => Chaining::Digest,
            Some(values) if layout.block_count() <= INLINE_CHAINING_MAX => Chaining::Inline(Arc::clone(values)),
            Some(values) => Chaining::Object(self.list(values, since, rows)?),
        };
        let (digest, id) = (sums.digest, self.geometry.object_id(&sums.digest, size));
        rows.push((ObjectRecord { id, digest, layout, kind, since, chaining }, source));
        Ok(())
    }

    /// Appends the rows of a hash list.
    fn list(
        &self,
        values: &[ChainingValue],
        since: Generation,
        rows: &mut Vec<(ObjectRecord, ObjectSource)>,
    ) -> io::Result<ObjectId> {
        let bytes = values.as_flattened();
        let sums = Sums::of(bytes, self.geometry);
        let id = self.geometry.object_id(&sums.digest, bytes.len() as u64);
        let source = self.spill.keep(id, &sums.digest, bytes)?;
        self.describe(&sums, bytes.len() as u64, ObjectKind::Chaining, since, source, rows)?;
        Ok(id)
    }

    /// The packs of contents that the former generation had.
    fn old_packs(
        &self,
        uses: &Uses<'_>,
        former: Former,
        others: &HashSet<ObjectId>,
        other_change: bool,
        lost: &mut Vec<LostPart>,
    ) -> Vec<Pack> {
        let generation = former.generation();
        let mut left: HashMap<Digest, Generation> = uses
            .iter()
            .filter(|(_, used)| used.size < self.block_size())
            .filter_map(|(digest, _)| Some((*digest, former.since(digest)?)))
            .collect();
        let mut kept = Vec::new();
        for pack in former.into_packs() {
            let whole = pack.slices.iter().all(|s| left.contains_key(&s.digest));
            if whole && !others.contains(&pack.record.id) {
                for slice in &pack.slices {
                    left.remove(&slice.digest);
                }
                kept.push(reuse(pack, uses));
            }
        }
        // Merging makes new objects, so it waits for a scan that makes a new generation anyway.
        if other_change || !left.is_empty() {
            let (stay, merge) = self.worth_merging(kept, generation);
            kept = stay;
            left.extend(merge.iter().flat_map(|pack| pack.slices.iter().map(|(digest, _)| (*digest, pack.since))));
        }
        let (packs, missing) = hash_drafts(self.draft(left, uses), self.root, self.geometry, self.tally);
        lost.extend(missing);
        kept.extend(packs);
        kept
    }

    /// Splits packs into those that stay, and small ones of which there are too many.
    fn worth_merging(&self, packs: Vec<Pack>, generation: Generation) -> (Vec<Pack>, Vec<Pack>) {
        // What came with the last generation may still be on its first pass.
        let small = |pack: &Pack| pack.size() < capacity(self.geometry) / 2 && pack.since < generation;
        let priority = |pack: &Pack| pack.parts.first().map(|p| p.priority);
        let mut count: HashMap<Option<i32>, usize> = HashMap::new();
        for pack in packs.iter().filter(|p| small(p)) {
            *count.entry(priority(pack)).or_default() += 1;
        }
        let many = |pack: &Pack| count.get(&priority(pack)).is_some_and(|n| *n > SMALL_PACKS_MAX);
        packs.into_iter().partition(|pack| !(small(pack) && many(pack)))
    }

    fn draft(&self, contents: HashMap<Digest, Generation>, uses: &Uses<'_>) -> Vec<Draft> {
        let mut parts: Vec<Part> =
            contents.into_iter().filter_map(|(digest, since)| part(uses, &digest, since)).collect();
        parts.sort_unstable_by(|a, b| (Reverse(a.priority), &a.path).cmp(&(Reverse(b.priority), &b.path)));
        let mut packer = Packer::new(capacity(self.geometry));
        parts.into_iter().for_each(|part| packer.push(part));
        packer.finish()
    }

    /// Packs of the same bytes become one; one with the bytes of another kind of object is cut in two.
    fn distinct(
        &self,
        packs: impl Iterator<Item = Pack>,
        others: &HashSet<ObjectId>,
        lost: &mut Vec<LostPart>,
    ) -> Vec<Pack> {
        let mut known: HashMap<ObjectId, usize> = HashMap::new();
        let mut result: Vec<Pack> = Vec::new();
        let mut waiting: Vec<Pack> = packs.collect();
        waiting.reverse();
        while let Some(mut pack) = waiting.pop() {
            let id = self.geometry.object_id(&pack.sums.digest, pack.size());
            if others.contains(&id) {
                if pack.parts.len() == 1 {
                    lost.extend(pack.parts.pop().map(|part| (part, ProblemKind::Clash)));
                    continue;
                }
                let (halves, missing) = hash_drafts(pack.split().into(), self.root, self.geometry, self.tally);
                lost.extend(missing);
                waiting.extend(halves.into_iter().rev());
            } else if let Some(same) = known.get(&id) {
                result[*same].slices.append(&mut pack.slices);
            } else {
                known.insert(id, result.len());
                result.push(pack);
            }
        }
        result
    }

    fn pack_group(&self, pack: Pack, uses: &Uses<'_>) -> Group {
        let size = pack.size();
        let used = || pack.slices.iter().filter_map(|(digest, _)| uses.get(digest));
        let priority = used().map(|u| u.priority).max().unwrap_or_default();
        let first = used().map(|u| u.path).min().or(pack.parts.first().map(|p| &p.path));
        let path = first.cloned().unwrap_or_else(|| unreachable!("a pack has at least one part"));
        let mut offset = 0;
        let members = pack.parts.into_iter().map(|Part { path, size, digest, .. }| {
            offset += size;
            Member { path, offset: offset - size, size, digest }
        });
        let source = ObjectSource::Pack(members.collect());
        let chaining = pack.sums.chaining.map_or(Chaining::Digest, Chaining::Inline);
        let layout = self.geometry.object(size).unwrap_or_else(|_| unreachable!("a pack has at most eight blocks"));
        let (id, digest, since) = (self.geometry.object_id(&pack.sums.digest, size), pack.sums.digest, pack.since);
        let record = ObjectRecord { id, digest, layout, kind: ObjectKind::Pack, since, chaining };
        Group { priority, path, rows: vec![(record, source)], carried: Carried::Slices(pack.slices) }
    }
}

fn uses(files: &[FileFacts]) -> Uses<'_> {
    let mut uses: Uses<'_> = HashMap::with_capacity(files.len());
    for file in files.iter().filter(|f| f.stamp.size > 0) {
        let new = Use { path: &file.path, size: file.stamp.size, priority: file.priority, sums: &file.sums };
        let known = uses.entry(file.sums.digest).or_insert(new);
        known.path = known.path.min(&file.path);
        known.priority = known.priority.max(file.priority);
    }
    uses
}

fn part(uses: &Uses<'_>, digest: &Digest, since: Generation) -> Option<Part> {
    let used = uses.get(digest)?;
    let (path, size, priority) = (used.path.clone(), used.size, used.priority);
    Some(Part { path, size, digest: *digest, priority, since, bytes: None })
}

/// A former pack, all of whose contents are in use.
fn reuse(pack: FormerPack, uses: &Uses<'_>) -> Pack {
    let since = pack.record.since;
    let chaining = match pack.record.chaining {
        Chaining::Inline(values) => Some(values),
        Chaining::Digest | Chaining::Object(_) => None,
    };
    Pack {
        parts: pack.tiles.iter().filter_map(|s| part(uses, &s.digest, since)).collect(),
        slices: pack.slices.iter().map(|s| (s.digest, s.offset)).collect(),
        sums: Sums { digest: pack.record.digest, chaining },
        since,
    }
}

fn places(groups: &[Group]) -> HashMap<Digest, manifest::Content> {
    let mut places = HashMap::new();
    let mut end = 0_usize;
    for group in groups {
        end += group.rows.len();
        // The manifest refuses tables that do not fit.
        let index = ObjectIndex(u32::try_from(end - 1).unwrap_or(u32::MAX));
        match &group.carried {
            Carried::Whole(digest) => {
                places.insert(*digest, manifest::Content::Object(index));
            }
            Carried::Slices(slices) => {
                for (digest, offset) in slices {
                    places.entry(*digest).or_insert(manifest::Content::Slice { pack: index, offset: *offset });
                }
            }
        }
    }
    places
}

fn entry(file: &FileFacts, content: manifest::Content) -> Entry {
    Entry {
        path: file.path.clone(),
        kind: EntryKind::File { size: file.stamp.size, digest: file.sums.digest, content },
        mode: file.mode,
        mtime: file.stamp.mtime,
    }
}
