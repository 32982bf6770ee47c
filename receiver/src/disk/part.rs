//! Partial objects: a data file of the object's size, a map of what is in it, a side file of repair symbols.
//!
//! - **A map never claims what is not durable.** [`PartStore::sync`] takes a copy of the map in memory,
//!   makes the data durable, then writes the copy to a new file, makes that durable and renames it.
//!   A crash at any point leaves the former map, and the former map stays true: bytes of a verified block
//!   are never written again before a map without it is durable, and a slot of the side file that the map
//!   on disk names is not given to another symbol.
//! - What a map calls verified was verified. What it calls a held symbol was written as it came: it proves
//!   itself when its block is sound.
//! - Failed writing back loses what was written since the last map, so the state then falls back to it.
//! - No file stays open: any number of objects may be partial.

mod map;

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use fixedbitset::FixedBitSet;
use nackcast_common::geometry::Layout;
use nackcast_common::ids::ObjectId;
use nackcast_common::path::PART_DIRECTORY;
use nackcast_common::ranges::RangeSet;
use rustix::fs::{AtFlags, Dir, FallocateFlags, Mode, OFlags};
use rustix::io::Errno;

pub use self::map::MapError;
use self::map::{Map, OpenBlock, SLOTS_MAX};
use super::facts::{Facts, Kind};
use super::target::{TEMPORARY_PREFIX, TargetDir};
use super::{DiskError, errno, lock};

/// Bytes of repair symbols that all side files of a store may hold together.
pub const REPAIR_BYTES_MAX: u64 = 256 << 20;
/// From this many objects on, one `syncfs` is cheaper than a flush of each file.
const FLUSH_EACH_MAX: usize = 8;
/// Largest map that is read: that of the largest object with every second block verified.
const MAP_LEN_MAX: u64 = 1 << 30;

/// What is on disk of one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartState {
    /// The object.
    pub id: ObjectId,
    /// Its size and cut.
    pub layout: Layout,
    /// Blocks that were verified.
    pub verified: RangeSet,
    /// Blocks of which there are some symbols.
    pub open: BTreeMap<u32, OpenSymbols>,
}

/// What is on disk of an unfinished block.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OpenSymbols {
    /// Source symbols, by ESI.
    pub source: FixedBitSet,
    /// ESIs of repair symbols, ascending.
    pub repair: Vec<u16>,
}

/// The bytes of an unfinished block, as far as they are there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldSymbols {
    /// K symbols, one after the other; zero where not held and behind the block's end.
    pub bytes: Vec<u8>,
    /// Which of them are held.
    pub source: FixedBitSet,
    /// Repair symbols by ESI.
    pub repair: Vec<(u16, Vec<u8>)>,
}

/// What became of symbols that were to be written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// Source symbols now at their place.
    pub source: usize,
    /// Repair symbols now in the side file.
    pub repair: usize,
    /// Not kept: held already, of a verified block, or beyond the bound of the side file.
    pub dropped: usize,
}

/// A partial object that could not be taken up again; it was removed and will be received anew.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("discarded partial object {id} in {directory}: {reason}")]
pub struct PartWarning {
    /// The object.
    pub id: ObjectId,
    /// Where it was.
    pub directory: String,
    /// Why.
    pub reason: MapError,
}

/// What was found when a store was opened.
#[derive(Debug, Default)]
pub struct Survivors {
    /// Objects to go on with, by id.
    pub objects: Vec<PartState>,
    /// Objects that were discarded.
    pub warnings: Vec<PartWarning>,
}

/// Why something could not be done with a partial object.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PartError {
    /// The file system refused.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// There is no such partial object.
    #[error("there is no partial object {0}")]
    Unknown(ObjectId),
    /// Bytes do not fit the object: a fault of the caller.
    #[error("object {id} has no such bytes in block {block}")]
    Misfit {
        /// The object.
        id: ObjectId,
        /// The block.
        block: u32,
    },
    /// Blocks are still missing.
    #[error("object {id} still lacks {missing} blocks")]
    Incomplete {
        /// The object.
        id: ObjectId,
        /// How many.
        missing: u64,
    },
}

/// A complete object, ready to be installed; its files go with [`PartStore::remove`].
#[derive(Debug)]
pub struct Finished {
    /// The object.
    pub id: ObjectId,
    /// Its size and cut.
    pub layout: Layout,
    /// Its bytes.
    pub file: File,
}

/// The partial objects of one target.
#[derive(Debug)]
pub struct PartStore {
    target: Arc<TargetDir>,
    parts: Mutex<HashMap<ObjectId, Arc<Part>>>,
    repair_bytes: AtomicU64,
    repair_bytes_max: u64,
}

#[derive(Debug)]
struct Part {
    id: ObjectId,
    layout: Layout,
    /// Held while bytes are written too: writes of one object do not overtake each other.
    state: Mutex<State>,
    /// Held while a map is written: maps of one object do not overtake each other.
    recording: Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    map: Map,
    /// Slots of the side file that the map on disk names: not to be written.
    pinned: FixedBitSet,
    /// Whether the map on disk says less.
    changed: bool,
}

impl PartStore {
    /// Takes the target for this process, and up what a former run left in it.
    ///
    /// # Errors
    /// When another process receives into the target, or the directory cannot be read.
    pub fn open(target: &Arc<TargetDir>) -> Result<(Self, Survivors), DiskError> {
        Self::with_repair_bound(target, REPAIR_BYTES_MAX)
    }

    fn with_repair_bound(target: &Arc<TargetDir>, bound: u64) -> Result<(Self, Survivors), DiskError> {
        target.lock()?;
        let store = Self {
            target: Arc::clone(target),
            parts: Mutex::default(),
            repair_bytes: AtomicU64::new(0),
            repair_bytes_max: bound,
        };
        let mut survivors = Survivors::default();
        if let Some(directory) = target.existing_part_directory()? {
            store.take_up(&directory, &mut survivors)?;
            target.remove_part_directory()?;
        }
        survivors.objects.sort_by_key(|o| o.id);
        Ok((store, survivors))
    }

    fn take_up(&self, directory: &OwnedFd, survivors: &mut Survivors) -> Result<(), DiskError> {
        let fail = |cause| self.target.fail("read", PART_DIRECTORY.as_bytes(), 0, cause);
        let mut ids = std::collections::BTreeSet::new();
        for entry in Dir::read_from(directory).map_err(fail)? {
            let entry = entry.map_err(fail)?;
            let name = entry.file_name().to_bytes();
            if name.starts_with(TEMPORARY_PREFIX.as_bytes()) {
                // What a crash left of an install or of a map.
                self.unlink(directory, entry.file_name())?;
            } else if let Some(id) = object_of(name) {
                ids.insert(id);
            }
        }
        for id in ids {
            match self.load(directory, id) {
                Ok(Some(part)) => {
                    survivors.objects.push(part.show(&lock(&part.state)));
                    lock(&self.parts).insert(id, part);
                }
                Ok(None) => self.unlink_all(directory, id)?,
                Err(reason) => {
                    let directory_shown = self.target.show(PART_DIRECTORY.as_bytes());
                    survivors.warnings.push(PartWarning { id, directory: directory_shown, reason });
                    self.unlink_all(directory, id)?;
                }
            }
        }
        Ok(())
    }

    /// The object as its map on disk says; none when it was never recorded, or is installed already.
    fn load(&self, directory: &OwnedFd, id: ObjectId) -> Result<Option<Arc<Part>>, MapError> {
        let (map_name, data_name) = (name(id, MAP), name(id, DATA));
        let Ok(data) = Facts::at(directory, &data_name) else { return Ok(None) };
        let bytes = match open_at(directory, &map_name, OFlags::RDONLY) {
            Ok(file) => read_bounded(&file).map_err(|_| MapError::Checksum)?,
            Err(Errno::NOENT) => return Ok(None),
            Err(_) => return Err(MapError::Checksum),
        };
        let (layout, map) = Map::decode(id, &bytes)?;
        if data.kind != Kind::File || data.size != layout.size() {
            return Err(MapError::Data);
        }
        // An install may have been interrupted after it gave the file its final mode.
        rustix::fs::chmodat(directory, &data_name, Mode::RUSR | Mode::WUSR, AtFlags::empty())
            .map_err(|_| MapError::Data)?;
        let symbol = u64::from(layout.geometry().symbol_size());
        let side_len = Facts::at(directory, name(id, REPAIR)).map_or(0, |f| f.size);
        if map.slots().any(|slot| (u64::from(slot) + 1) * symbol > side_len) {
            return Err(MapError::Data);
        }
        let count = map.slots().count() as u64;
        self.repair_bytes.fetch_add(count * symbol, Ordering::Relaxed);
        let pinned = map.slots().map(|slot| slot as usize).collect();
        let state = Mutex::new(State { map, pinned, changed: false });
        Ok(Some(Arc::new(Part { id, layout, state, recording: Mutex::new(()) })))
    }

    /// Begins an object; one that is there already goes on.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn create(&self, layout: Layout, id: ObjectId) -> Result<PartState, PartError> {
        if let Ok(part) = self.part(id) {
            if part.layout == layout {
                return Ok(part.show(&lock(&part.state)));
            }
            self.remove(id)?;
        }
        let directory = self.target.part_directory()?;
        let data_name = name(id, DATA);
        self.unlink_all(&directory, id)?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
        let made = open_at(&directory, &data_name, flags)
            .and_then(|file| rustix::fs::ftruncate(&file, layout.size()))
            .map_err(|cause| self.fail("make", &data_name, layout.size(), cause));
        if let Err(error) = made {
            self.unlink_all(&directory, id)?;
            return Err(error.into());
        }
        let state = Mutex::new(State { changed: true, ..State::default() });
        let part = Arc::new(Part { id, layout, state, recording: Mutex::new(()) });
        let shown = part.show(&lock(&part.state));
        lock(&self.parts).insert(id, part);
        Ok(shown)
    }

    /// What is there of an object.
    #[must_use]
    pub fn state(&self, id: ObjectId) -> Option<PartState> {
        let part = self.part(id).ok()?;
        let state = lock(&part.state);
        Some(part.show(&state))
    }

    /// Writes a block whose bytes were verified.
    ///
    /// # Errors
    /// When there is no such object or block, or the file system refuses.
    pub fn write_block(&self, id: ObjectId, block: u32, bytes: &[u8]) -> Result<(), PartError> {
        let part = self.part(id)?;
        if bytes.is_empty() || bytes.len() != part.layout.block_len(block) as usize {
            return Err(PartError::Misfit { id, block });
        }
        let mut state = lock(&part.state);
        if state.map.verified.contains(block) {
            return Ok(());
        }
        let file = self.open_data(&part, OFlags::WRONLY)?;
        let offset = part.layout.block_offset(block);
        write_or_punch(&file, bytes, offset).map_err(|cause| self.fail_data(&part, &file, cause))?;
        self.forget_symbols(&part, &mut state, block);
        state.map.verified.insert(block..block + 1);
        state.changed = true;
        Ok(())
    }

    /// Writes symbols of a block that is not finished: source symbols to their place, repair symbols to the
    /// side file as far as its bound allows. Nothing is verified.
    ///
    /// # Errors
    /// When there is no such object, block or ESI, a symbol is not of the symbol size (the last source symbol
    /// may come without its padding), or the file system refuses.
    pub fn write_symbols<'a>(
        &self,
        id: ObjectId,
        block: u32,
        symbols: impl IntoIterator<Item = (u16, &'a [u8])>,
    ) -> Result<Kept, PartError> {
        let part = self.part(id)?;
        let source_count = part.layout.source_symbols(block);
        let symbol_size = usize::from(part.layout.geometry().symbol_size());
        let (mut source, mut repair) = (BTreeMap::new(), BTreeMap::new());
        for (esi, bytes) in symbols {
            let least = if esi < source_count { part.layout.symbol_range(block, esi).len() } else { symbol_size };
            if esi >= part.layout.esi_end(block) || !(least..=symbol_size).contains(&bytes.len()) {
                return Err(PartError::Misfit { id, block });
            }
            let kind = if esi < source_count { &mut source } else { &mut repair };
            kind.insert(esi, &bytes[..least]);
        }
        let all = source.len() + repair.len();
        let mut state = lock(&part.state);
        if state.map.verified.contains(block) {
            return Ok(Kept { dropped: all, ..Kept::default() });
        }
        let mut kept = Kept::default();
        kept.source = self.write_source(&part, &mut state, block, source)?;
        kept.repair = self.write_repair(&part, &mut state, block, repair)?;
        kept.dropped = all - kept.source - kept.repair;
        Ok(kept)
    }

    fn write_source(
        &self,
        part: &Part,
        state: &mut State,
        block: u32,
        mut symbols: BTreeMap<u16, &[u8]>,
    ) -> Result<usize, PartError> {
        if let Some(held) = state.map.open.get(&block) {
            symbols.retain(|esi, _| !held.source.contains((*esi).into()));
        }
        if symbols.is_empty() {
            return Ok(0);
        }
        let file = self.open_data(part, OFlags::WRONLY)?;
        let start = part.layout.block_offset(block);
        for (esi, run) in runs(&symbols) {
            let offset = start + part.layout.symbol_range(block, esi).start as u64;
            file.write_all_at(&run, offset).map_err(|e| self.fail_data(part, &file, errno(&e)))?;
        }
        let held = state.open_block(part, block);
        held.source.extend(symbols.keys().map(|esi| usize::from(*esi)));
        state.changed = true;
        Ok(symbols.len())
    }

    fn write_repair(
        &self,
        part: &Part,
        state: &mut State,
        block: u32,
        mut symbols: BTreeMap<u16, &[u8]>,
    ) -> Result<usize, PartError> {
        let held = state.map.open.get(&block).map_or(0, |held| {
            symbols.retain(|esi, _| !held.repair.contains_key(esi));
            held.repair.len()
        });
        // More than K of them can be of no use.
        let room = usize::from(part.layout.source_symbols(block)).saturating_sub(held);
        if symbols.is_empty() || room == 0 {
            return Ok(0);
        }
        let side_name = name(part.id, REPAIR);
        let symbol = u64::from(part.layout.geometry().symbol_size());
        let fail = |cause| self.fail("write", &side_name, symbol, cause);
        let directory = self.target.part_directory()?;
        let file = open_at(&directory, &side_name, OFlags::WRONLY | OFlags::CREATE).map_err(fail)?;
        let mut written = 0;
        for ((esi, bytes), slot) in symbols.into_iter().take(room).zip(state.free_slots()) {
            if !self.reserve_repair(symbol) {
                break;
            }
            if let Err(error) = file.write_all_at(bytes, u64::from(slot) * symbol) {
                self.repair_bytes.fetch_sub(symbol, Ordering::Relaxed);
                return Err(fail(errno(&error)).into());
            }
            state.open_block(part, block).repair.insert(esi, slot);
            state.changed = true;
            written += 1;
        }
        Ok(written)
    }

    fn reserve_repair(&self, bytes: u64) -> bool {
        let room = |used: u64| used.checked_add(bytes).filter(|sum| *sum <= self.repair_bytes_max);
        self.repair_bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, room).is_ok()
    }

    /// The symbols of an unfinished block.
    ///
    /// # Errors
    /// When there is no such object or block, or the file system refuses.
    pub fn load_symbols(&self, id: ObjectId, block: u32) -> Result<HeldSymbols, PartError> {
        let part = self.part(id)?;
        let count = usize::from(part.layout.source_symbols(block));
        if count == 0 {
            return Err(PartError::Misfit { id, block });
        }
        let state = lock(&part.state);
        let symbol = usize::from(part.layout.geometry().symbol_size());
        let mut bytes = vec![0; count * symbol];
        let Some(open) = state.map.open.get(&block) else {
            return Ok(HeldSymbols { bytes, source: FixedBitSet::with_capacity(count), repair: Vec::new() });
        };
        if !open.source.is_clear() {
            let file = self.open_data(&part, OFlags::RDONLY)?;
            let data = &mut bytes[..part.layout.block_len(block) as usize];
            file.read_exact_at(data, part.layout.block_offset(block))
                .map_err(|e| self.fail_data(&part, &file, errno(&e)))?;
            for esi in open.source.zeroes().filter_map(|esi| u16::try_from(esi).ok()) {
                data[part.layout.symbol_range(block, esi)].fill(0);
            }
        }
        let repair = self.read_repair(&part, open)?;
        Ok(HeldSymbols { bytes, source: open.source.clone(), repair })
    }

    fn read_repair(&self, part: &Part, open: &OpenBlock) -> Result<Vec<(u16, Vec<u8>)>, PartError> {
        if open.repair.is_empty() {
            return Ok(Vec::new());
        }
        let side_name = name(part.id, REPAIR);
        let fail = |cause| self.fail("read", &side_name, 0, cause);
        let file = open_at(&*self.target.part_directory()?, &side_name, OFlags::RDONLY).map_err(fail)?;
        let symbol = part.layout.geometry().symbol_size();
        let mut symbols = Vec::with_capacity(open.repair.len());
        for (esi, slot) in &open.repair {
            let mut bytes = vec![0; symbol.into()];
            file.read_exact_at(&mut bytes, u64::from(*slot) * u64::from(symbol)).map_err(|e| fail(errno(&e)))?;
            symbols.push((*esi, bytes));
        }
        Ok(symbols)
    }

    /// The bytes of a verified block.
    ///
    /// # Errors
    /// When the block is not there, or the file system refuses.
    pub fn read_block(&self, id: ObjectId, block: u32) -> Result<Vec<u8>, PartError> {
        let part = self.part(id)?;
        if !lock(&part.state).map.verified.contains(block) {
            return Err(PartError::Misfit { id, block });
        }
        let file = self.open_data(&part, OFlags::RDONLY)?;
        let mut bytes = vec![0; part.layout.block_len(block) as usize];
        file.read_exact_at(&mut bytes, part.layout.block_offset(block))
            .map_err(|e| self.fail_data(&part, &file, errno(&e)))?;
        Ok(bytes)
    }

    /// Drops the symbols of an unfinished block, since together they made a wrong one.
    ///
    /// # Errors
    /// When there is no such object.
    pub fn discard_symbols(&self, id: ObjectId, block: u32) -> Result<(), PartError> {
        let part = self.part(id)?;
        let mut state = lock(&part.state);
        self.forget_symbols(&part, &mut state, block);
        Ok(())
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

    /// The object's file, when every block of it is verified.
    ///
    /// # Errors
    /// When blocks are missing, or the file system refuses.
    pub fn finish(&self, id: ObjectId) -> Result<Finished, PartError> {
        let part = self.part(id)?;
        let missing = u64::from(part.layout.block_count()) - lock(&part.state).map.verified.count();
        if missing > 0 {
            return Err(PartError::Incomplete { id, missing });
        }
        let file = self.open_data(&part, OFlags::RDWR)?;
        Ok(Finished { id, layout: part.layout, file })
    }

    /// Removes all that is there of an object; nothing to remove is fine.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn remove(&self, id: ObjectId) -> Result<(), DiskError> {
        let part = lock(&self.parts).remove(&id);
        // A map that is just being written must not come after.
        let _recording = part.as_ref().map(|part| lock(&part.recording));
        if let Some(part) = &part {
            let state = std::mem::take(&mut *lock(&part.state));
            let count = state.map.slots().count() as u64;
            self.repair_bytes.fetch_sub(count * u64::from(part.layout.geometry().symbol_size()), Ordering::Relaxed);
        }
        match self.target.existing_part_directory()? {
            Some(directory) => self.unlink_all(&directory, id),
            None => Ok(()),
        }
    }

    /// Removes every object that is no longer wanted; says which.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn retain(&self, wanted: impl Fn(ObjectId) -> bool) -> Result<Vec<ObjectId>, DiskError> {
        let mut gone: Vec<_> = lock(&self.parts).keys().copied().filter(|id| !wanted(*id)).collect();
        gone.sort_unstable();
        gone.iter().try_for_each(|id| self.remove(*id))?;
        Ok(gone)
    }

    /// How many objects are partial.
    #[must_use]
    pub fn len(&self) -> usize {
        lock(&self.parts).len()
    }

    /// Whether nothing is partial.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn part(&self, id: ObjectId) -> Result<Arc<Part>, PartError> {
        lock(&self.parts).get(&id).cloned().ok_or(PartError::Unknown(id))
    }

    fn open_data(&self, part: &Part, flags: OFlags) -> Result<File, DiskError> {
        let data_name = name(part.id, DATA);
        open_at(&*self.target.part_directory()?, &data_name, flags)
            .map_err(|cause| self.fail("open", &data_name, 0, cause))
    }

    fn forget_symbols(&self, part: &Part, state: &mut MutexGuard<'_, State>, block: u32) {
        if let Some(open) = state.map.open.remove(&block) {
            let bytes = open.repair.len() as u64 * u64::from(part.layout.geometry().symbol_size());
            self.repair_bytes.fetch_sub(bytes, Ordering::Relaxed);
            state.changed = true;
        }
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
    fn fall_back(&self, part: &Part, directory: &OwnedFd) {
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

    fn unlink(&self, directory: &OwnedFd, file: &std::ffi::CStr) -> Result<(), DiskError> {
        match rustix::fs::unlinkat(directory, file, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT | Errno::ISDIR) => Ok(()),
            Err(cause) => Err(self.fail("remove", &file.to_string_lossy(), 0, cause)),
        }
    }

    /// The map first: data without a map claims nothing.
    fn unlink_all(&self, directory: &OwnedFd, id: ObjectId) -> Result<(), DiskError> {
        for suffix in [MAP, DATA, REPAIR] {
            let file = name(id, suffix);
            match rustix::fs::unlinkat(directory, &file, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(cause) => return Err(self.fail("remove", &file, 0, cause)),
            }
        }
        Ok(())
    }

    fn fail(&self, action: &'static str, file: &str, needed: u64, cause: Errno) -> DiskError {
        self.target.fail(action, format!("{PART_DIRECTORY}/{file}").as_bytes(), needed, cause)
    }

    /// An error of the data file, with what the object still needs on disk.
    fn fail_data(&self, part: &Part, file: &File, cause: Errno) -> DiskError {
        let stored = Facts::of(file).map_or(0, |f| f.stored);
        self.fail("write", &name(part.id, DATA), part.layout.size().saturating_sub(stored), cause)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Flush {
    Now,
    Later,
}

impl Part {
    fn show(&self, state: &State) -> PartState {
        let open = state.map.open.iter().map(|(block, held)| {
            (*block, OpenSymbols { source: held.source.clone(), repair: held.repair.keys().copied().collect() })
        });
        PartState { id: self.id, layout: self.layout, verified: state.map.verified.clone(), open: open.collect() }
    }

    /// A copy of the map to be recorded; none when the one on disk says the same. Until the end, slots of
    /// both are kept.
    fn begin_record(&self) -> Option<Map> {
        let mut state = lock(&self.state);
        if !state.changed {
            return None;
        }
        state.changed = false;
        let copy = state.map.clone();
        state.pinned.extend_slots(&copy);
        Some(copy)
    }
}

impl State {
    fn open_block(&mut self, part: &Part, block: u32) -> &mut OpenBlock {
        self.map.open.entry(block).or_insert_with(|| OpenBlock {
            source: FixedBitSet::with_capacity(part.layout.source_symbols(block).into()),
            repair: BTreeMap::new(),
        })
    }

    /// Slots that neither this map nor the one on disk names.
    fn free_slots(&self) -> impl Iterator<Item = u32> + use<> {
        let mut taken = self.pinned.clone();
        taken.extend_slots(&self.map);
        (0..SLOTS_MAX).filter(move |slot| !taken.contains(*slot as usize))
    }
}

trait ExtendSlots {
    fn extend_slots(&mut self, map: &Map);
}

impl ExtendSlots for FixedBitSet {
    fn extend_slots(&mut self, map: &Map) {
        self.extend(map.slots().map(|slot| slot as usize));
    }
}

const DATA: &str = "data";
const MAP: &str = "map";
const REPAIR: &str = "repair";

fn name(id: ObjectId, suffix: &str) -> String {
    format!("{id}.{suffix}")
}

/// The name of an object's data file in the part directory.
pub(super) fn data_name(id: ObjectId) -> String {
    name(id, DATA)
}

/// Which object a file belongs to.
fn object_of(file: &[u8]) -> Option<ObjectId> {
    let (id, suffix) = std::str::from_utf8(file).ok()?.split_once('.')?;
    let id = ObjectId(u64::from_str_radix(id, 16).ok()?);
    [DATA, MAP, REPAIR].into_iter().any(|s| s == suffix && name(id, s).as_bytes() == file).then_some(id)
}

fn open_at(directory: impl AsFd, file: &str, flags: OFlags) -> Result<File, Errno> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    rustix::fs::openat(directory, file, flags, Mode::RUSR | Mode::WUSR).map(File::from)
}

fn read_bounded(file: &File) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(MAP_LEN_MAX).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// A block of zeros becomes a hole, so that sparse files stay sparse.
fn write_or_punch(file: &File, bytes: &[u8], offset: u64) -> Result<(), Errno> {
    if bytes.iter().all(|b| *b == 0) {
        let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        if rustix::fs::fallocate(file, hole, offset, bytes.len() as u64).is_ok() {
            return Ok(());
        }
    }
    file.write_all_at(bytes, offset).map_err(|e| errno(&e))
}

/// Symbols that lie side by side, joined: (first ESI, bytes).
fn runs(symbols: &BTreeMap<u16, &[u8]>) -> Vec<(u16, Vec<u8>)> {
    let mut runs: Vec<(u16, Vec<u8>)> = Vec::new();
    let mut next = None;
    for (esi, bytes) in symbols {
        match runs.last_mut() {
            Some((_, run)) if next == Some(*esi) => run.extend_from_slice(bytes),
            _ => runs.push((*esi, bytes.to_vec())),
        }
        next = esi.checked_add(1);
    }
    runs
}

#[cfg(test)]
mod tests;
