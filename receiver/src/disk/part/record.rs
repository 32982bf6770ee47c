//! Makes partial objects durable: first the bytes, then the maps that claim them.

use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use fixedbitset::FixedBitSet;
use nackcast_common::ids::ObjectId;
use nackcast_common::ranges::RangeSet;
use rustix::fs::OFlags;

use super::map::Map;
use super::{MAP, Part, PartError, PartStore, REPAIR, State, name, open_at};
use crate::disk::{DiskError, errno, lock};

/// From this many objects on, one `syncfs` is cheaper than a flush of each file.
const FLUSH_EACH_MAX: usize = 8;

impl PartStore {
    /// Makes durable what is there of one object.
    ///
    /// # Errors
    /// As [`PartStore::sync`].
    pub fn record(&self, id: ObjectId) -> Result<(), PartError> {
        self.part(id)?;
        self.sync(&[id])
    }

    /// Makes durable what is there of these objects: first the bytes, then the maps that claim them. Objects
    /// that are unknown or have not changed cost nothing.
    ///
    /// # Errors
    /// When the file system refuses. If it did not store the bytes, the objects fall back to what was last
    /// recorded: ask [`PartStore::state`] again.
    pub fn sync(&self, ids: &[ObjectId]) -> Result<(), PartError> {
        // In one order everywhere, so that two threads never wait for each other.
        let mut ids = ids.to_vec();
        ids.sort_unstable();
        ids.dedup();
        let parts: Vec<_> = ids.into_iter().filter_map(|id| self.part(id).ok()).collect();
        let recordings: Vec<_> = parts.iter().map(|part| (part, lock(&part.recording))).collect();
        let mut copies: Vec<_> =
            recordings.iter().filter_map(|(part, _)| Some((*part, part.begin_record()?))).collect();
        if copies.is_empty() {
            return Ok(());
        }
        let directory = self.target.part_directory()?;
        if let Err(error) = self.flush_copies(&directory, &copies) {
            copies.iter().for_each(|(part, _)| self.fall_back(part, &directory));
            return Err(error.into());
        }
        let result = self.write_maps(&directory, &copies);
        for (part, copy) in copies.drain(..) {
            let mut state = lock(&part.state);
            if result.is_ok() {
                state.pinned = copy.slots().map(|slot| slot as usize).collect();
            } else {
                state.changed = true;
            }
        }
        Ok(result?)
    }

    fn flush_copies(&self, directory: &OwnedFd, copies: &[(&Arc<Part>, Map)]) -> Result<(), DiskError> {
        if copies.len() > FLUSH_EACH_MAX {
            return self.flush_all(directory);
        }
        copies.iter().try_for_each(|(part, copy)| self.flush_data(part, directory, copy))
    }

    fn write_maps(&self, directory: &OwnedFd, copies: &[(&Arc<Part>, Map)]) -> Result<(), DiskError> {
        let flush = if copies.len() > FLUSH_EACH_MAX { Flush::Later } else { Flush::Now };
        let mut temporaries = Vec::with_capacity(copies.len());
        for (part, copy) in copies {
            temporaries.push(self.write_map(part, directory, copy, flush)?);
        }
        if flush == Flush::Later {
            self.flush_all(directory)?;
        }
        for ((part, _), temporary) in copies.iter().zip(&temporaries) {
            self.rename_map(part, directory, temporary)?;
        }
        self.flush_directory(directory)
    }

    /// Takes back that blocks are verified, at once also on disk: their bytes were found damaged.
    ///
    /// # Errors
    /// When there is no such object, or the file system refuses.
    pub fn forget_blocks(&self, id: ObjectId, blocks: &RangeSet) -> Result<(), PartError> {
        let part = self.part(id)?;
        let recording = lock(&part.recording);
        let mut state = lock(&part.state);
        for range in blocks.ranges() {
            state.map.verified.remove(range);
        }
        state.changed = true;
        // With the lock held, so that nothing is written over them while the map on disk has them.
        let copy = state.map.clone();
        let directory = self.target.part_directory()?;
        self.flush_data(&part, &directory, &copy)?;
        let temporary = self.write_map(&part, &directory, &copy, Flush::Now)?;
        self.rename_map(&part, &directory, &temporary)?;
        self.flush_directory(&directory)?;
        state.pinned = copy.slots().map(|slot| slot as usize).collect();
        state.changed = false;
        drop(recording);
        Ok(())
    }

    fn flush_data(&self, part: &Part, directory: &OwnedFd, copy: &Map) -> Result<(), DiskError> {
        let file = self.open_data(part, OFlags::WRONLY)?;
        rustix::fs::fdatasync(&file).map_err(|cause| self.fail_data(part, &file, cause))?;
        if copy.slots().next().is_some() {
            let side_name = name(part.id, REPAIR);
            open_at(directory, &side_name, OFlags::WRONLY)
                .and_then(|file| rustix::fs::fdatasync(&file))
                .map_err(|cause| self.fail("write", &side_name, 0, cause))?;
        }
        Ok(())
    }

    fn flush_all(&self, directory: &OwnedFd) -> Result<(), DiskError> {
        rustix::fs::syncfs(directory).map_err(|cause| self.fail("write back", "", 0, cause))
    }

    fn flush_directory(&self, directory: &OwnedFd) -> Result<(), DiskError> {
        rustix::fs::fsync(directory).map_err(|cause| self.fail("write back", "", 0, cause))
    }

    fn write_map(&self, part: &Part, directory: &OwnedFd, map: &Map, flush: Flush) -> Result<String, DiskError> {
        let bytes = map.encode(part.id, &part.layout);
        let temporary = self.target.temporary_name();
        let write = || {
            let file = open_at(directory, &temporary, OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL)?;
            file.write_all_at(&bytes, 0).map_err(|e| errno(&e))?;
            if flush == Flush::Now { rustix::fs::fsync(&file) } else { Ok(()) }
        };
        write().map_err(|cause| {
            self.target.discard_temporary(&temporary);
            self.fail("write", &name(part.id, MAP), bytes.len() as u64, cause)
        })?;
        Ok(temporary)
    }

    fn rename_map(&self, part: &Part, directory: &OwnedFd, temporary: &str) -> Result<(), DiskError> {
        let map_name = name(part.id, MAP);
        rustix::fs::renameat(directory, temporary, directory, &map_name)
            .map_err(|cause| self.fail("write", &map_name, 0, cause))
    }

    /// The system lost bytes that it had taken: only what the map on disk claims can be relied on.
    pub(super) fn fall_back(&self, part: &Part, directory: &OwnedFd) {
        let symbol = u64::from(part.layout.geometry().symbol_size());
        let mut state = lock(&part.state);
        let lost = state.map.slots().count() as u64 * symbol;
        let loaded = self.load(directory, part.id).ok().flatten();
        self.repair_bytes.fetch_sub(lost, Ordering::Relaxed);
        *state = match loaded {
            Some(on_disk) => std::mem::take(&mut *lock(&on_disk.state)),
            None => State::default(),
        };
        state.changed = true;
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Flush {
    Now,
    Later,
}

impl Part {
    /// A copy of the map to be recorded; none when the one on disk says the same. Until the end, slots of
    /// both are kept.
    fn begin_record(&self) -> Option<Map> {
        let mut state = lock(&self.state);
        if !state.changed || state.finished {
            return None;
        }
        state.changed = false;
        let copy = state.map.clone();
        state.pinned.extend_slots(&copy);
        Some(copy)
    }
}

/// Adds the slots that a map names.
pub(super) trait ExtendSlots {
    fn extend_slots(&mut self, map: &Map);
}

impl ExtendSlots for FixedBitSet {
    fn extend_slots(&mut self, map: &Map) {
        self.extend(map.slots().map(|slot| slot as usize));
    }
}
