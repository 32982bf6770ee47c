//! A life of a target directory: boots, work, kills, power cuts; and what must be true after each.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use nackcast_common::files::{Files, Handle, How, Kind};
use nackcast_common::ids::ObjectId;
use nackcast_common::manifest::{Content, Entry, EntryKind};
use nackcast_common::path::{DatasetPath, PART_DIRECTORY};
use nackcast_common::ranges::RangeSet;
use nackcast_receiver::disk::install::{InstallError, Installer, Policy, Source};
use nackcast_receiver::disk::part::{Finished, PartStore};
use nackcast_receiver::disk::target::TargetDir;
use nackcast_testbed::sim::disk::{Disk, Faults, Settings};
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};

use super::content::{Dataset, Object, generations};

const BOOTS: u64 = 8;
const STEPS: usize = 60;
const TARGET: &str = "/target";

/// What a disk with faults still has to keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mood {
    /// What was told to be durable is there.
    Trusting,
    /// Only that nothing wrong is there: what cannot be read may be given up.
    Wary,
}

/// What happened in a life.
#[derive(Debug, Default)]
pub(crate) struct Life {
    pub(crate) cuts: u64,
    pub(crate) installed: u64,
    pub(crate) taken_up: u64,
}

impl Life {
    pub(crate) fn add(&mut self, other: &Self) {
        self.cuts += other.cuts;
        self.installed += other.installed;
        self.taken_up += other.taken_up;
    }
}

/// What must be there after a power cut.
#[derive(Default)]
struct Promised {
    /// Which generation's entry stands at a path.
    installed: BTreeMap<DatasetPath, usize>,
    recorded: BTreeMap<ObjectId, RangeSet>,
}

/// Lives through some boots; panics, naming the seed, when anything is wrong.
pub(crate) fn live(seed: u64, mood: Mood, faults: Faults) -> Life {
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
    let mut disk = Disk::new(Settings { seed, capacity: 1 << 20, privileged: false });
    let datasets = generations();
    let objects: BTreeMap<_, _> = datasets.iter().flat_map(|d| d.objects.clone()).collect();
    disk.make_directory(Path::new(TARGET), 0o755).unwrap();
    disk.open_directory(Path::new("/")).unwrap().sync().unwrap();
    let mut promised = Promised::default();
    let mut life = Life::default();
    for boot in 0..BOOTS {
        let at = format!("seed {seed}, boot {boot}");
        disk.set_faults(Faults::default());
        check_names(&disk, &datasets, &promised, mood, &at);
        let target = TargetDir::open(disk.files(), Path::new(TARGET)).unwrap();
        let (store, survivors) = PartStore::open(&target).unwrap();
        life.taken_up += survivors.objects.len() as u64;
        check_claims(&store, &objects, &at);
        for (id, recorded) in &promised.recorded {
            let held = store.state(*id).map(|s| s.verified).unwrap_or_default();
            assert!(mood == Mood::Wary || recorded.iter().all(|b| held.contains(b)), "{at}: {id} lost {recorded:?}");
        }
        disk.set_faults(faults);
        disk.stop_after(Some(rng.random_range(1..600)));
        let installer = Installer::new(Arc::clone(&target), Policy::default());
        let mut run = Run { rng, disk: &disk, store, installer, datasets: &datasets, promised, life, at };
        run.work(&objects);
        Run { rng, promised, life, .. } = run;
        disk.stop_after(None);
        // What is dropped at a kill still tidies up; at a power cut it does not matter.
        if rng.random_bool(0.8) {
            disk = disk.crash(rng.random());
            life.cuts += 1;
        }
    }
    life
}

/// Every map is true, read through the store.
fn check_claims(store: &PartStore, objects: &BTreeMap<ObjectId, Object>, at: &str) {
    for object in objects.values() {
        let Some(state) = store.state(object.id) else { continue };
        for block in state.verified.iter() {
            let read = store.read_block(object.id, block).unwrap();
            assert!(read == object.block(block), "{at}: block {block} of {} is not what the map says", object.id);
        }
        for (block, open) in &state.open {
            let held = store.load_symbols(object.id, *block).unwrap();
            for esi in open.source.ones().map(|esi| u16::try_from(esi).unwrap()) {
                let range = object.layout.symbol_range(*block, esi);
                assert!(held.bytes[range] == *object.source(*block, esi), "{at}: block {block} symbol {esi}");
            }
            for (esi, symbol) in held.repair {
                assert!(symbol == object.repair(*block, esi), "{at}: block {block} repair symbol {esi}");
            }
        }
    }
}

/// Under every name stands what one of the generations has there, whole; and what was promised.
fn check_names(disk: &Disk, datasets: &[Dataset; 2], promised: &Promised, mood: Mood, at: &str) {
    let mut seen = BTreeMap::new();
    let target = disk.open_directory(Path::new(TARGET)).unwrap();
    walk(&target, b"", &mut |directory, name, path| {
        let facts = directory.facts_at(name).unwrap();
        let entries: Vec<_> = datasets.iter().map(|d| (d, d.manifest.entry(path))).collect();
        let is = |dataset: &Dataset, entry: &Entry| match &entry.kind {
            EntryKind::Symlink { target } => {
                facts.kind == Kind::Symlink && directory.read_symlink(name).unwrap() == **target
            }
            EntryKind::Directory => facts.kind == Kind::Directory,
            EntryKind::File { content, .. } => {
                facts.kind == Kind::File && {
                    let place = directory.open(name, How::Place).unwrap();
                    place.set_mode(facts.mode | 0o400).unwrap();
                    let bytes = directory.open(name, How::Read).unwrap().read_to_end(u64::MAX).unwrap();
                    place.set_mode(facts.mode).unwrap();
                    bytes == content_of(dataset, entry, *content)
                }
            }
        };
        let which: BTreeSet<usize> =
            (0..).zip(&entries).filter(|(_, (d, e))| e.is_some_and(|e| is(d, e))).map(|(nth, _)| nth).collect();
        assert!(!which.is_empty(), "{at}: wrong bytes at {}: {facts:?}", path.escape_ascii());
        seen.insert(path.to_vec(), (which, facts));
    });
    for (path, generation) in &promised.installed {
        let Some((which, facts)) = seen.get(path.as_bytes()) else { panic!("{at}: {path} is gone") };
        let entry = datasets[*generation].manifest.entry(path.as_bytes()).unwrap();
        assert!(which.contains(generation), "{at}: {path} is of another generation");
        let file = matches!(entry.kind, EntryKind::File { .. });
        assert!(!file || (facts.mode, facts.mtime) == (entry.mode, entry.mtime), "{at}: {path}: {facts:?} {mood:?}");
    }
}

fn content_of(dataset: &Dataset, entry: &Entry, content: Content) -> Vec<u8> {
    let (Content::Object(index) | Content::Slice { pack: index, .. }) = content else { return Vec::new() };
    let EntryKind::File { size, .. } = entry.kind else { return Vec::new() };
    let bytes = &dataset.objects[&dataset.manifest.object(index).unwrap().id].bytes;
    let start = if let Content::Slice { offset, .. } = content { usize::try_from(offset).unwrap() } else { 0 };
    bytes[start..start + usize::try_from(size).unwrap()].to_vec()
}

/// Every name but directories that no generation lists.
fn walk(directory: &Handle, path: &[u8], each: &mut impl FnMut(&Handle, &[u8], &[u8])) {
    for name in directory.names().unwrap() {
        let whole = if path.is_empty() { name.to_vec() } else { [path, b"/", &name].concat() };
        if whole == PART_DIRECTORY.as_bytes() {
            continue;
        }
        if directory.facts_at(&name).unwrap().kind == Kind::Directory {
            walk(&directory.open(&name, How::Directory).unwrap(), &whole, each);
        } else {
            each(directory, &name, &whole);
        }
    }
}

/// One boot.
struct Run<'a> {
    rng: Xoshiro256PlusPlus,
    disk: &'a Disk,
    store: PartStore,
    installer: Installer,
    datasets: &'a [Dataset; 2],
    promised: Promised,
    life: Life,
    at: String,
}

impl Run<'_> {
    fn work(&mut self, objects: &BTreeMap<ObjectId, Object>) {
        let all: Vec<_> = objects.values().collect();
        for _ in 0..STEPS {
            let object = all[self.rng.random_range(0..all.len())];
            match self.rng.random_range(0..20) {
                0..6 => self.write_blocks(object),
                6..11 => self.write_symbols(object),
                11 => {
                    let block = self.rng.random_range(0..object.layout.block_count());
                    self.store.discard_symbols(object.id, block).ok();
                }
                12..15 => self.record(&[object.id]),
                15 => self.record(&objects.keys().copied().collect::<Vec<_>>()),
                16..19 => self.install(objects),
                _ => self.finish(),
            }
            if self.disk.stopped() {
                return;
            }
        }
    }

    fn write_blocks(&mut self, object: &Object) {
        if self.store.create(object.layout, object.id).is_err() {
            return;
        }
        for block in 0..object.layout.block_count() {
            if self.rng.random_bool(0.5) {
                self.store.write_block(object.id, block, object.block(block)).ok();
            }
        }
    }

    fn write_symbols(&mut self, object: &Object) {
        if self.store.create(object.layout, object.id).is_err() {
            return;
        }
        let block = self.rng.random_range(0..object.layout.block_count());
        let k = object.layout.source_symbols(block);
        let esis: Vec<u16> = (0..k + 20).filter(|_| self.rng.random_bool(0.3)).collect();
        let bytes = |esi| if esi < k { object.source(block, esi).to_vec() } else { object.repair(block, esi) };
        let symbols: Vec<_> = esis.into_iter().map(|esi| (esi, bytes(esi))).collect();
        self.store.write_symbols(object.id, block, symbols.iter().map(|(esi, b)| (*esi, &b[..]))).ok();
    }

    fn record(&mut self, ids: &[ObjectId]) {
        if self.store.sync(ids).is_ok() {
            for id in ids {
                if let Some(state) = self.store.state(*id) {
                    self.promised.recorded.insert(*id, state.verified);
                }
            }
        }
    }

    /// What can be installed of a generation, as the dataset thread does it.
    fn install(&mut self, objects: &BTreeMap<ObjectId, Object>) {
        let generation = self.rng.random_range(0..2);
        let dataset = &self.datasets[generation];
        let mut installed = Vec::new();
        let mut finished: Vec<Finished> = Vec::new();
        for (index, members) in dataset.manifest.members() {
            let id = dataset.manifest.object(index).unwrap().id;
            let object = &objects[&id];
            if self.rng.random_bool(0.4) {
                self.fill(object);
            }
            let Ok(whole) = self.store.finish(id) else { continue };
            let staged = self.stage(dataset, &members, &whole);
            match staged {
                Ok(()) => installed.push(id),
                Err(InstallError::Disk(_)) => self.distrust(id),
                Err(InstallError::WrongBytes { .. }) => self.remove(id),
                Err(error) => panic!("{}: {error}", self.at),
            }
            finished.push(whole);
        }
        for entry in dataset.manifest.entries() {
            if matches!(entry.kind, EntryKind::Symlink { .. }) && self.installer.stage(entry, Source::Nothing).is_ok() {
                self.promised.installed.remove(&entry.path);
            }
        }
        match self.installer.commit() {
            Ok(outcomes) => {
                for outcome in outcomes {
                    if outcome.result.is_ok() {
                        self.promised.installed.insert(outcome.path, generation);
                        self.life.installed += 1;
                    }
                }
                installed.into_iter().for_each(|id| self.remove(id));
            }
            Err(_) => installed.into_iter().for_each(|id| self.distrust(id)),
        }
    }

    fn stage(&mut self, dataset: &Dataset, members: &[usize], whole: &Finished) -> Result<(), InstallError> {
        for (nth, at) in members.iter().enumerate() {
            let entry = &dataset.manifest.entries()[*at];
            let EntryKind::File { content, .. } = entry.kind else { continue };
            let source = match content {
                Content::Slice { offset, .. } => Source::Slice { pack: whole, offset },
                _ if nth + 1 == members.len() => Source::Object(whole),
                _ => Source::CopyOf(whole),
            };
            self.promised.installed.remove(&entry.path);
            self.promised.recorded.remove(&whole.id);
            self.installer.stage(entry, source)?;
        }
        Ok(())
    }

    fn fill(&mut self, object: &Object) {
        if self.store.create(object.layout, object.id).is_ok() {
            for block in 0..object.layout.block_count() {
                self.store.write_block(object.id, block, object.block(block)).ok();
            }
        }
    }

    fn distrust(&mut self, id: ObjectId) {
        self.promised.recorded.remove(&id);
        self.store.distrust(id).ok();
    }

    fn remove(&mut self, id: ObjectId) {
        self.promised.recorded.remove(&id);
        self.store.remove(id).ok();
    }

    /// Removes what the second generation does not have, and gives directories their modes.
    fn finish(&mut self) {
        let dataset = &self.datasets[1];
        let left: Vec<_> = self.datasets[0]
            .manifest
            .entries()
            .iter()
            .map(|e| e.path.clone())
            .filter(|path| dataset.manifest.entry(path.as_bytes()).is_none())
            .collect();
        self.promised.installed.retain(|path, _| !left.contains(path));
        self.installer.prune(&left, &dataset.manifest).ok();
        self.installer.finish_directories(&dataset.manifest).ok();
    }
}
