//! Makes partial objects durable: first the bytes, then the maps that claim them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use fixedbitset::FixedBitSet;
use nackcast_common::files::{Handle, How};
use nackcast_common::ids::ObjectId;
use nackcast_common::mutation::{Mutation, planted};
use nackcast_common::path::PART_DIRECTORY;
use nackcast_common::ranges::RangeSet;

use super::map::Map;
use super::{DATA, MAP, Part, PartError, PartStore, REPAIR, State, name, shown};
use crate::disk::{DiskError, lock};

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
        let copies: Vec<_> = recordings.iter().filter_map(|(part, _)| Some((*part, part.begin_record()?))).collect();
        if copies.is_empty() {
            return Ok(());
        }
        let directory = match self.target.part_directory() {
            Ok(directory) => directory,
            Err(error) => {
                copies.iter().for_each(|(part, _)| lock(&part.state).changed = true);
                return Err(error.into());
            }
        };
        // What one object lost must not cost the others their record.
        let mut lost = None;
        let mut sound = Vec::with_capacity(copies.len());
        let flushed = !planted(Mutation::MapBeforeData) && self.flush_at_once(&directory, copies.len());
        for (part, copy) in copies {
            match if flushed || planted(Mutation::MapBeforeData) {
                Ok(())
            } else {
                self.flush_data(part, &directory, &copy)
            } {
                Ok(()) => sound.push((part, copy)),
                Err(error) => {
                    if error.is_of_node() {
                        // It was not asked: nothing says that it lost anything.
                        lock(&part.state).changed = true;
                    } else {
                        self.fall_back(part, &directory);
                    }
                    lost.get_or_insert(error);
                }
            }
        }
        // A map whose side file a power cut takes away would be worth less than the one before.
        let named = self.flush_names(&directory, &self.sides_made);
        let result = named.and_then(|()| self.write_maps(&directory, &sound));
        for (part, copy) in sound {
            let mut state = lock(&part.state);
            if result.is_ok() {
                state.pinned = copy.slots().map(|slot| slot as usize).collect();
            } else {
                state.changed = true;
            }
        }
        result?;
        lost.map_or(Ok(()), |error| Err(error.into()))
    }

    /// Many objects are flushed by one call, if that works.
    fn flush_at_once(&self, directory: &Handle, count: usize) -> bool {
        if count <= FLUSH_EACH_MAX || self.flush_each.load(Ordering::Relaxed) {
            return false;
        }
        let flushed = self.flush_all(directory);
        if let Err(error) = &flushed {
            tracing::warn!(%error, "from now on each file is flushed alone");
        }
        flushed.is_ok()
    }

    fn write_maps(&self, directory: &Handle, copies: &[(&Arc<Part>, Map)]) -> Result<(), DiskError> {
        let each = copies.len() <= FLUSH_EACH_MAX || self.flush_each.load(Ordering::Relaxed);
        let flush = if each { Flush::Now } else { Flush::Later };
        let mut temporaries = Vec::with_capacity(copies.len());
        let renamed = self.write_and_rename(directory, copies, flush, &mut temporaries);
        if renamed.is_err() {
            temporaries.iter().for_each(|temporary| self.target.discard_temporary(temporary));
        }
        renamed?;
        self.flush_directory(directory)
    }

    fn write_and_rename(
        &self,
        directory: &Handle,
        copies: &[(&Arc<Part>, Map)],
        flush: Flush,
        temporaries: &mut Vec<String>,
    ) -> Result<(), DiskError> {
        for (part, copy) in copies {
            temporaries.push(self.write_map(part, directory, copy, flush)?);
        }
        if flush == Flush::Later {
            self.flush_all(directory)?;
        }
        let mut renames = copies.iter().zip(temporaries);
        renames.try_for_each(|((part, _), temporary)| self.rename_map(part, directory, temporary))
    }

    fn flush_data(&self, part: &Part, directory: &Handle, copy: &Map) -> Result<(), DiskError> {
        let lost = |suffix, cause| self.target.lost(shown(&name(part.id, suffix)).as_bytes(), cause);
        self.open_data(part, How::Read)?.sync_data().map_err(|cause| lost(DATA, cause))?;
        if copy.slots().next().is_some() {
            let side_name = name(part.id, REPAIR);
            let side = directory.open(side_name.as_bytes(), How::Read);
            let side = side.map_err(|cause| self.fail("open", &side_name, 0, cause))?;
            side.sync_data().map_err(|cause| lost(REPAIR, cause))?;
        }
        Ok(())
    }

    fn flush_all(&self, directory: &Handle) -> Result<(), DiskError> {
        directory.sync_file_system().map_err(|cause| {
            self.flush_each.store(true, Ordering::Relaxed);
            self.target.lost(PART_DIRECTORY.as_bytes(), cause)
        })
    }

    /// Makes the names in the directory durable, if the mark says that it is needed.
    pub(super) fn flush_names(&self, directory: &Handle, mark: &AtomicBool) -> Result<(), DiskError> {
        if mark.swap(false, Ordering::Relaxed)
            && let Err(error) = self.flush_directory(directory)
        {
            mark.store(true, Ordering::Relaxed);
            return Err(error);
        }
        Ok(())
    }

    fn flush_directory(&self, directory: &Handle) -> Result<(), DiskError> {
        directory.sync().map_err(|cause| self.fail("write back", "", 0, cause))
    }

    fn write_map(&self, part: &Part, directory: &Handle, map: &Map, flush: Flush) -> Result<String, DiskError> {
        let bytes = map.encode(part.id, &part.layout);
        let temporary = self.target.temporary_name();
        let write = || {
            let file = directory.open(temporary.as_bytes(), How::Make)?;
            file.write_all_at(&bytes, 0)?;
            if flush == Flush::Now { file.sync() } else { Ok(()) }
        };
        write().map_err(|cause| {
            self.target.discard_temporary(&temporary);
            self.fail("write", &name(part.id, MAP), bytes.len() as u64, cause)
        })?;
        Ok(temporary)
    }

    fn rename_map(&self, part: &Part, directory: &Handle, temporary: &str) -> Result<(), DiskError> {
        let map_name = name(part.id, MAP);
        directory
            .rename(temporary.as_bytes(), &**directory, map_name.as_bytes())
            .map_err(|cause| self.fail("write", &map_name, 0, cause))
    }

    /// What was written of an object since its last record may be lost: only what the map on disk claims can be
    /// relied on. Gives the blocks that are left.
    ///
    /// # Errors
    /// When there is no such object, or the file system refuses.
    pub fn distrust(&self, id: ObjectId) -> Result<RangeSet, PartError> {
        let part = self.part(id)?;
        let directory = self.target.part_directory()?;
        let recording = lock(&part.recording);
        self.fall_back(&part, &directory);
        drop(recording);
        Ok(self.state(id).map(|state| state.verified).unwrap_or_default())
    }

    pub(super) fn fall_back(&self, part: &Part, directory: &Handle) {
        let symbol = u64::from(part.layout.geometry().symbol_size());
        let mut state = lock(&part.state);
        let lost = state.map.slots().count() as u64 * symbol;
        let loaded = self.load(directory, part.id);
        self.repair_bytes.fetch_sub(lost, Ordering::Relaxed);
        if let Ok(Some(on_disk)) = loaded {
            *state = State { changed: true, ..std::mem::take(&mut *lock(&on_disk.state)) };
        } else {
            // There is no map, or it cannot be read now but perhaps after a restart: nothing may be written under
            // its claims, so the object begins anew.
            *state = State::default();
            drop(state);
            lock(&self.parts).remove(&part.id);
            self.maps_removed.store(true, Ordering::Relaxed);
        }
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
