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

#[cfg(feature = "fuzzing")]
pub(crate) mod fuzz;
mod map;
mod record;
mod symbols;

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use fixedbitset::FixedBitSet;
use nackcast_common::geometry::Layout;
use nackcast_common::ids::ObjectId;
use nackcast_common::path::PART_DIRECTORY;
use nackcast_common::ranges::RangeSet;
use rustix::fs::{AtFlags, Dir, FallocateFlags, Mode, OFlags};
use rustix::io::Errno;

use self::map::Map;
pub use self::map::MapError;
pub use self::symbols::{HeldSymbols, Kept};
use super::facts::{Facts, Kind};
use super::target::{TEMPORARY_PREFIX, TargetDir};
use super::{DiskError, errno, lock};

/// Bytes of repair symbols that all side files of a store may hold together.
pub const REPAIR_BYTES_MAX: u64 = 256 << 20;
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

#[cfg(test)]
mod tests;
