//! Partial objects: a data file of the object's size, a map of what is in it, a side file of repair symbols.
//!
//! - **A map never claims what is not durable.** [`PartStore::sync`] takes a copy of the map in memory,
//!   makes the data durable, then writes the copy to a new file, makes that durable and renames it.
//!   A crash at any point leaves the former map, and the former map stays true: bytes of a verified block
//!   are never written again before a map without it is durable, and a slot of the side file that the map
//!   on disk names is not given to another symbol.
//! - What a map calls verified was verified. What it calls a held symbol was written as it came: it proves
//!   itself when its block is sound.
//! - Failed writing back loses what was written since the last map, so the state then falls back to it. Each
//!   file is asked: a flush of the whole file system tells of a loss once, and not whose it was.
//! - No map speaks of a later file: a removed map is durably gone before a data file of the same name is made.
//! - No file stays open: any number of objects may be partial.

#[cfg(feature = "fuzzing")]
pub(crate) mod fuzz;
mod map;
mod record;
mod symbols;

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use fixedbitset::FixedBitSet;
use nackcast_common::files::{Errno, Handle, How, Kind};
use nackcast_common::geometry::Layout;
use nackcast_common::ids::ObjectId;
use nackcast_common::mutation::{Mutation, planted};
use nackcast_common::path::PART_DIRECTORY;
use nackcast_common::ranges::RangeSet;

use self::map::Map;
pub use self::map::{MapError, RepairPlace, repair_places};
pub use self::symbols::{HeldSymbols, Kept};
use super::target::{TEMPORARY_PREFIX, TargetDir};
use super::{DiskError, lock};

/// Bytes of repair symbols that all side files of a store may hold together.
pub const REPAIR_BYTES_MAX: u64 = 256 << 20;
/// Largest map that is read: that of the largest object with every second block verified.
const MAP_LEN_MAX: u64 = 1 << 30;
/// Bytes that are written to see whether a block can be kept: one of the default size.
const ROOM: usize = 256 << 10;
/// Of a data file, until it is installed.
const DATA_MODE: u32 = 0o600;

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
    pub file: Handle,
}

/// The partial objects of one target.
#[derive(Debug)]
pub struct PartStore {
    target: Arc<TargetDir>,
    parts: Mutex<HashMap<ObjectId, Arc<Part>>>,
    repair_bytes: AtomicU64,
    repair_bytes_max: u64,
    /// Maps were removed, perhaps by a former run, and a power cut may bring them back.
    maps_removed: AtomicBool,
    /// Side files were made whose names are not durable yet.
    sides_made: AtomicBool,
    /// Flushing the whole file system failed once: its word is no longer taken for that of each file.
    flush_each: AtomicBool,
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
    /// Given out to be installed: its data file may be renamed away at any time, so it is no longer recorded.
    finished: bool,
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
            maps_removed: AtomicBool::new(true),
            sides_made: AtomicBool::new(false),
            flush_each: AtomicBool::new(false),
        };
        let mut survivors = Survivors::default();
        if let Some(directory) = target.existing_part_directory()? {
            store.take_up(&directory, &mut survivors)?;
            target.remove_part_directory()?;
        }
        survivors.objects.sort_by_key(|o| o.id);
        Ok((store, survivors))
    }

    fn take_up(&self, directory: &Handle, survivors: &mut Survivors) -> Result<(), DiskError> {
        let fail = |cause| self.target.fail("read", PART_DIRECTORY.as_bytes(), 0, cause);
        let mut ids = std::collections::BTreeSet::new();
        for name in directory.names().map_err(fail)? {
            if name.starts_with(TEMPORARY_PREFIX.as_bytes()) {
                // What a crash left of an install or of a map.
                self.unlink(directory, &name)?;
            } else if let Some(id) = object_of(&name) {
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
    fn load(&self, directory: &Handle, id: ObjectId) -> Result<Option<Arc<Part>>, MapError> {
        let (map_name, data_name) = (name(id, MAP), name(id, DATA));
        let data = match directory.facts_at(data_name.as_bytes()) {
            Ok(data) => data,
            Err(Errno::NOENT) => return Ok(None),
            Err(_) => return Err(MapError::Data),
        };
        let bytes = match directory.open(map_name.as_bytes(), How::Read) {
            Ok(file) => file.read_to_end(MAP_LEN_MAX).map_err(|_| MapError::Checksum)?,
            Err(Errno::NOENT) => return Ok(None),
            Err(_) => return Err(MapError::Checksum),
        };
        let (layout, map) = Map::decode(id, &bytes)?;
        if data.kind != Kind::File || data.size != layout.size() {
            return Err(MapError::Data);
        }
        // A crash while it was installed: only the final name came to be durable, and it is not ours to write to.
        if data.links > 1 {
            return Ok(None);
        }
        // An install may have been interrupted after it gave the file its final mode.
        if data.mode != DATA_MODE {
            let place = directory.open(data_name.as_bytes(), How::Place);
            place.and_then(|data| data.set_mode(DATA_MODE)).map_err(|_| MapError::Data)?;
        }
        let symbol = u64::from(layout.geometry().symbol_size());
        let side_len = directory.facts_at(name(id, REPAIR).as_bytes()).map_or(0, |f| f.size);
        if map.slots().any(|slot| (u64::from(slot) + 1) * symbol > side_len) {
            return Err(MapError::Data);
        }
        let count = map.slots().count() as u64;
        self.repair_bytes.fetch_add(count * symbol, Ordering::Relaxed);
        let pinned = map.slots().map(|slot| slot as usize).collect();
        let state = Mutex::new(State { map, pinned, changed: false, finished: false });
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
        self.flush_names(&directory, &self.maps_removed)?;
        let made = directory
            .open(data_name.as_bytes(), How::Make)
            .and_then(|file| file.set_len(layout.size()))
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
        let file = self.open_data(&part, How::Write)?;
        let offset = part.layout.block_offset(block);
        write_or_punch(&file, bytes, offset).map_err(|cause| self.fail_data(&part, &file, cause))?;
        self.forget_symbols(&part, &mut state, block);
        let off = u32::from(planted(Mutation::BitmapOffByOne) && block + 1 < part.layout.block_count());
        state.map.verified.insert(block..block + 1 + off);
        state.changed = true;
        Ok(())
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
        let file = self.open_data(&part, How::Read)?;
        let mut bytes = vec![0; part.layout.block_len(block) as usize];
        file.read_exact_at(&mut bytes, part.layout.block_offset(block))
            .map_err(|cause| self.fail_data(&part, &file, cause))?;
        Ok(bytes)
    }

    /// The object's file, when every block of it is verified.
    ///
    /// # Errors
    /// When blocks are missing, or the file system refuses.
    pub fn finish(&self, id: ObjectId) -> Result<Finished, PartError> {
        let part = self.part(id)?;
        // A recording that is under way ends first: it must not find the file gone.
        let recording = lock(&part.recording);
        let mut state = lock(&part.state);
        let missing = u64::from(part.layout.block_count()) - state.map.verified.count();
        if missing > 0 {
            return Err(PartError::Incomplete { id, missing });
        }
        state.finished = true;
        drop((state, recording));
        let file = self.open_data(&part, How::Read)?;
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

    /// Whether a block can be kept: the directory takes one, which goes at once.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn try_room(&self) -> Result<(), DiskError> {
        let directory = self.target.part_directory()?;
        let temporary = self.target.temporary_name();
        // No file system can make these smaller, as some do with zeros.
        let mut bytes = vec![0; ROOM];
        blake3::Hasher::new().finalize_xof().fill(&mut bytes);
        let tried = directory.open(temporary.as_bytes(), How::Make).and_then(|file| {
            file.write_all_at(&bytes, 0)?;
            file.sync_data()
        });
        self.target.discard_temporary(&temporary);
        tried.map_err(|cause| self.fail("write", "", ROOM as u64, cause))
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

    /// Whether several threads may write blocks at once.
    pub(super) fn parallel(&self) -> bool {
        self.target.files().parallel()
    }

    fn part(&self, id: ObjectId) -> Result<Arc<Part>, PartError> {
        lock(&self.parts).get(&id).cloned().ok_or(PartError::Unknown(id))
    }

    fn open_data(&self, part: &Part, how: How) -> Result<Handle, DiskError> {
        let data_name = name(part.id, DATA);
        let directory = self.target.part_directory()?;
        let open = || directory.open(data_name.as_bytes(), how);
        let restore = || directory.open(data_name.as_bytes(), How::Place)?.set_mode(DATA_MODE);
        let opened = match open() {
            // An install that was put off has given it its final mode.
            Err(Errno::ACCESS) => restore().and_then(|()| open()),
            other => other,
        };
        opened.map_err(|cause| self.fail("open", &data_name, 0, cause))
    }

    fn unlink(&self, directory: &Handle, file: &[u8]) -> Result<(), DiskError> {
        match directory.remove(file) {
            Ok(()) | Err(Errno::NOENT | Errno::ISDIR) => Ok(()),
            Err(cause) => Err(self.fail("remove", &String::from_utf8_lossy(file), 0, cause)),
        }
    }

    /// The map first: data without a map claims nothing.
    fn unlink_all(&self, directory: &Handle, id: ObjectId) -> Result<(), DiskError> {
        for suffix in [MAP, DATA, REPAIR] {
            let file = name(id, suffix);
            match directory.remove(file.as_bytes()) {
                Ok(()) if suffix == MAP => self.maps_removed.store(true, Ordering::Relaxed),
                Ok(()) => {}
                Err(Errno::NOENT) => {}
                Err(cause) => return Err(self.fail("remove", &file, 0, cause)),
            }
        }
        Ok(())
    }

    fn fail(&self, action: &'static str, file: &str, needed: u64, cause: Errno) -> DiskError {
        self.target.fail(action, shown(file).as_bytes(), needed, cause)
    }

    /// An error of the data file, with what the object still needs on disk.
    fn fail_data(&self, part: &Part, file: &Handle, cause: Errno) -> DiskError {
        let stored = file.facts().map_or(0, |f| f.stored);
        self.fail("write", &name(part.id, DATA), part.layout.size().saturating_sub(stored), cause)
    }
}

impl Part {
    fn show(&self, state: &State) -> PartState {
        let open = state.map.open.iter().map(|(block, held)| {
            (*block, OpenSymbols { source: held.source.clone(), repair: held.repair.keys().copied().collect() })
        });
        PartState { id: self.id, layout: self.layout, verified: state.map.verified.clone(), open: open.collect() }
    }
}

const DATA: &str = "data";
const MAP: &str = "map";
const REPAIR: &str = "repair";

fn name(id: ObjectId, suffix: &str) -> String {
    format!("{id}.{suffix}")
}

/// The path of a file of the part directory in the target.
fn shown(file: &str) -> String {
    format!("{PART_DIRECTORY}/{file}")
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

/// A block of zeros becomes a hole, so that sparse files stay sparse.
fn write_or_punch(file: &Handle, bytes: &[u8], offset: u64) -> Result<(), Errno> {
    if bytes.iter().all(|b| *b == 0) && file.punch_hole(offset, bytes.len() as u64).is_ok() {
        return Ok(());
    }
    file.write_all_at(bytes, offset)
}

#[cfg(test)]
mod tests;
