//! The receiver's dataset worker on the model disk: how a dataset ends, and whose a file is after a power cut.

#![expect(clippy::unwrap_used, reason = "a test may fail")]

use std::collections::BTreeMap;
use std::path::Path;

use nackcast_common::files::{Errno, How};
use nackcast_common::geometry::Geometry;
use nackcast_common::ids::{ChannelId, Digest, Epoch, Generation, ObjectIndex};
use nackcast_common::keys::SigningKey;
use nackcast_common::manifest::{Chaining, Content, Entry, EntryKind, Head, Manifest, Mtime, ObjectKind, ObjectRecord};
use nackcast_common::path::DatasetPath;
use nackcast_common::store::MemoryStore;
use nackcast_proto::manifest::encode;
use nackcast_receiver::dataset::{Order, Report, Settings};
use nackcast_receiver::disk::scan::Depth;
use nackcast_receiver::disk::target::TargetDir;
use nackcast_receiver::node::Workers;
use nackcast_testbed::sim::disk::{Disk, Faults, Settings as DiskSettings};

const CHANNEL: ChannelId = ChannelId([7; 16]);
const INTO: &str = "/into";
const STATE: &str = "/state";

fn publisher() -> SigningKey {
    SigningKey::from_seed([1; 32])
}

struct Place {
    disk: Disk,
    store: MemoryStore,
    workers: Workers,
}

fn entry(path: &str, kind: EntryKind, mode: u32) -> Entry {
    Entry { path: DatasetPath::new(path.as_bytes()).unwrap(), kind, mode, mtime: Mtime::default() }
}

fn empty_file(path: &str) -> Entry {
    entry(path, EntryKind::File { size: 0, digest: Digest::of(b""), content: Content::Empty }, 0o644)
}

impl Place {
    fn new() -> Self {
        let disk = Disk::new(DiskSettings { seed: 1, capacity: 1 << 30, privileged: false });
        for path in [INTO, STATE] {
            disk.files().make_directory(Path::new(path), 0o755).unwrap();
        }
        disk.files().open_directory(Path::new("/")).unwrap().sync().unwrap();
        Self::open(disk, MemoryStore::new())
    }

    fn open(disk: Disk, store: MemoryStore) -> Self {
        let settings = Settings {
            channel: CHANNEL,
            publisher: publisher().verifying_key(),
            mode_mask: 0o777,
            overwrite: false,
            prune: true,
        };
        let (power, files) = (disk.clone(), disk.files());
        store.stop_when(move || power.stopped());
        let target = TargetDir::open(files, Path::new(INTO)).unwrap();
        let workers = Workers::open(settings, target, store.store(), Path::new(STATE)).unwrap();
        Self { disk, store, workers }
    }

    /// The power goes, and comes back; what was not durable survives as the seed says.
    fn cut_power(self, seed: u64) -> Self {
        let disk = self.disk.crash(seed);
        let store = self.store.crash(|steps| usize::try_from(seed).unwrap() % (steps + 1));
        Self::open(disk, store)
    }

    /// Takes a generation of empty files: nothing of it need be fetched.
    fn take(&mut self, generation: u64, names: impl Iterator<Item = String>) {
        let reports = self.assemble(generation, Vec::new(), names.map(|name| empty_file(&name)).collect());
        assert!(matches!(&reports[..], [Report::Wants(wants)] if wants.objects.is_empty()), "{reports:?}");
    }

    fn assemble(&mut self, generation: u64, objects: Vec<ObjectRecord>, entries: Vec<Entry>) -> Vec<Report> {
        let head = Head {
            channel: CHANNEL,
            generation: Generation(generation),
            parent: None,
            epoch: Epoch(1),
            geometry: Geometry::default(),
        };
        let manifest = Manifest::new(head, objects, entries).unwrap();
        let encoded = encode(&manifest, &publisher()).unwrap();
        let pieces = std::iter::once(encoded.root).chain(encoded.parts);
        let blobs: BTreeMap<_, _> = pieces.map(|piece| (piece.digest, piece.bytes)).collect();
        self.order(Order::Assemble { hash: encoded.reference.hash, blobs })
    }

    fn order(&mut self, order: Order) -> Vec<Report> {
        self.workers.dataset.handle(order);
        std::iter::from_fn(|| self.workers.dataset.poll_report()).collect()
    }

    fn calls(&self) -> u64 {
        self.disk.counts().calls
    }

    fn root(&self) -> nackcast_common::files::Handle {
        self.disk.files().open_directory(Path::new(INTO)).unwrap()
    }
}

fn names(count: usize) -> impl Iterator<Item = String> {
    (0..count).map(|nth| format!("{nth:04}"))
}

fn is_finished(reports: &[Report], wanted: bool) -> bool {
    reports.iter().any(|report| matches!(report, Report::Finished { whole } if *whole == wanted))
}

#[test]
fn a_removal_that_failed_is_named_with_its_cause() {
    let mut place = Place::new();
    place.take(1, names(3).chain(["gone".to_owned()]));
    assert!(is_finished(&place.order(Order::Finish), true));
    place.take(2, names(3));
    place.disk.set_faults(Faults { write_error: 1.0, ..Faults::default() });
    let reports = place.order(Order::Finish);
    assert!(is_finished(&reports, false), "{reports:?}");
    let is_said = |report: &Report| {
        matches!(report, Report::Trouble(line) if line.starts_with("not whole yet: ")
        && line.contains("/into/gone") && line.contains("os error 5"))
    };
    assert!(reports.iter().any(is_said), "{reports:?}");
    place.disk.set_faults(Faults::default());
    assert!(is_finished(&place.order(Order::Finish), true));
    place.root().open(b"gone", How::Read).unwrap_err();
}

#[test]
fn an_end_that_finds_something_looks_once() {
    let mut place = Place::new();
    place.take(1, names(200));
    let before = place.calls();
    assert!(is_finished(&place.order(Order::Finish), true));
    let one_look = place.calls() - before;
    assert!(one_look > 200, "{one_look}");
    place.root().remove(b"0007").unwrap();
    let before = place.calls();
    let reports = place.order(Order::Finish);
    let calls = place.calls() - before;
    assert!(calls < one_look * 3 / 2, "{calls} calls, where a look takes {one_look}");
    // First that it is not the end: wants after that must not order the end at once again.
    let [Report::Trouble(_), Report::Finished { whole: false }, Report::Damaged { .. }, Report::Wants(_)] =
        &reports[..]
    else {
        panic!("{reports:?}")
    };
    place.root().open(b"0007", How::Read).unwrap();
    assert!(is_finished(&place.order(Order::Finish), true));
}

#[test]
fn what_was_changed_after_its_removal_failed_stays() {
    let mut place = Place::new();
    place.take(1, names(3).chain(["gone".to_owned()]));
    assert!(is_finished(&place.order(Order::Finish), true));
    place.take(2, names(3));
    place.disk.set_faults(Faults { write_error: 1.0, ..Faults::default() });
    assert!(is_finished(&place.order(Order::Finish), false));
    place.disk.set_faults(Faults::default());
    place.disk.set_time(Mtime { seconds: 1_000, nanos: 0 });
    place.root().open(b"gone", How::WriteOrMake).unwrap().write_all_at(b"mine", 0).unwrap();
    let reports = place.order(Order::Finish);
    assert!(is_finished(&reports, true), "{reports:?}");
    assert_eq!(place.root().open(b"gone", How::Read).unwrap().read_to_end(100).unwrap(), b"mine");
}

#[test]
fn a_directory_that_was_made_before_the_disk_failed_is_ours() {
    let mut place = Place::new();
    place.assemble(1, Vec::new(), vec![entry("directory", EntryKind::Directory, 0o755), empty_file("file")]);
    place.root().remove_directory(b"directory").unwrap();
    place.root().remove(b"file").unwrap();
    place.disk.set_faults(Faults { write_back_error: 1.0, ..Faults::default() });
    let scan = || Order::Scan { depth: Depth::Quick, answer: None };
    let reports = place.order(scan());
    assert!(matches!(&reports[..], [Report::Damaged { .. }, Report::Failed(_)]), "{reports:?}");
    place.root().open(b"directory", How::Directory).unwrap();
    place.disk.set_faults(Faults::default());
    place.order(scan());
    assert!(is_finished(&place.order(Order::Finish), true));
    place.take(2, names(1));
    assert!(is_finished(&place.order(Order::Finish), true));
    assert_eq!(place.root().open(b"directory", How::Directory).unwrap_err(), Errno::NOENT);
}

/// An object of these bytes, and a file that has them.
fn stored(bytes: &[u8], path: &str) -> (ObjectRecord, Entry) {
    let geometry = Geometry::default();
    let (digest, size) = (Digest::of(bytes), bytes.len() as u64);
    let (id, layout) = (geometry.object_id(&digest, size), geometry.object(size).unwrap());
    let (kind, chaining) = (ObjectKind::File, Chaining::Digest);
    let record = ObjectRecord { id, digest, layout, kind, since: Generation(1), chaining };
    let content = Content::Object(ObjectIndex(0));
    (record, entry(path, EntryKind::File { size, digest, content }, 0o644))
}

/// Somebody puts a file there.
fn put_by_hand(place: &Place, name: &[u8], bytes: &[u8]) {
    place.root().open(name, How::Make).unwrap().write_all_at(bytes, 0).unwrap();
    place.root().sync_file_system().unwrap();
}

fn read(place: &Place, name: &[u8]) -> Vec<u8> {
    place.root().open(name, How::Read).unwrap().read_to_end(100).unwrap()
}

#[test]
fn what_comes_where_a_file_was_moved_away_is_somebody_elses() {
    let mut place = Place::new();
    put_by_hand(&place, b"old", b"bytes");
    let (record, old) = stored(b"bytes", "old");
    place.assemble(1, vec![record.clone()], vec![old]);
    assert!(is_finished(&place.order(Order::Finish), true));
    place.assemble(2, vec![record], vec![stored(b"bytes", "new").1]);
    assert_eq!(read(&place, b"new"), b"bytes");
    assert_eq!(place.root().open(b"old", How::Read).unwrap_err(), Errno::NOENT);
    put_by_hand(&place, b"old", b"mine");
    assert!(is_finished(&place.order(Order::Finish), true));
    assert_eq!(read(&place, b"old"), b"mine");
}

#[test]
fn what_was_called_somebody_elses_is_so_after_a_power_cut() {
    for seed in 0..16 {
        let mut place = Place::new();
        put_by_hand(&place, b"a", b"bytes");
        let (record, a) = stored(b"bytes", "a");
        place.assemble(1, vec![record.clone()], vec![a.clone()]);
        assert!(is_finished(&place.order(Order::Finish), true));
        // A copy of the other file would stand there, but that fails.
        let both = || vec![a.clone(), stored(b"bytes", "copy").1];
        place.disk.set_faults(Faults { write_error: 1.0, ..Faults::default() });
        place.assemble(2, vec![record.clone()], both());
        place.disk.set_faults(Faults::default());
        assert_eq!(place.root().open(b"copy", How::Read).unwrap_err(), Errno::NOENT);
        put_by_hand(&place, b"copy", b"mine");
        let reports = place.order(Order::Scan { depth: Depth::Quick, answer: None });
        let is_told = |report: &Report| matches!(report, Report::Trouble(line) if line.contains("not ours"));
        assert!(reports.iter().any(is_told), "{reports:?}");
        let mut place = place.cut_power(seed);
        place.assemble(2, vec![record], both());
        assert_eq!(read(&place, b"copy"), b"mine", "seed {seed}");
    }
}

/// What two generations have at each of these names is of another kind, content or mode, or moved; the third has a
/// directory there. Wherever the power goes in the second: all was ours, and must make room; but what somebody wrote to
/// stays.
#[test]
fn what_a_power_cut_leaves_of_a_change_is_ours() {
    let contents = [&b"one"[..], b"two", b"three", b"four"];
    let geometry = Geometry::default();
    let objects: Vec<_> = contents
        .iter()
        .map(|bytes| {
            let (digest, layout) = (Digest::of(bytes), geometry.object(bytes.len() as u64).unwrap());
            let id = geometry.object_id(&digest, bytes.len() as u64);
            ObjectRecord {
                id,
                digest,
                layout,
                kind: ObjectKind::File,
                since: Generation(1),
                chaining: Chaining::Digest,
            }
        })
        .collect();
    let file = |path: &str, nth: u32, mode: u32| {
        let bytes = contents[nth as usize];
        let content = Content::Object(ObjectIndex(nth));
        entry(path, EntryKind::File { size: bytes.len() as u64, digest: Digest::of(bytes), content }, mode)
    };
    let link = |path: &str| entry(path, EntryKind::Symlink { target: (*b"anywhere").into() }, 0o777);
    let first = || {
        let (changed, from, mode) = (file("changed", 0, 0o644), file("from", 1, 0o644), file("mode", 2, 0o644));
        vec![changed, from, link("link"), file("mine", 3, 0o644), mode]
    };
    let second = || {
        let (changed, mode) = (file("changed", 2, 0o644), file("mode", 2, 0o600));
        vec![changed, empty_file("link"), mode, file("to", 1, 0o644), file("wanted", 3, 0o644)]
    };
    let third = || {
        let names = ["changed", "from", "link", "mode", "to"];
        let directory = |name: &str| [entry(name, EntryKind::Directory, 0o755), empty_file(&format!("{name}/inside"))];
        names.into_iter().flat_map(directory).collect::<Vec<_>>()
    };
    let is_whole = |place: &mut Place| is_finished(&place.order(Order::Finish), true);
    let mut calls = 0;
    loop {
        for seed in 0..4 {
            let mut place = Place::new();
            for entry in first() {
                let EntryKind::File { content: Content::Object(index), .. } = entry.kind else { continue };
                let made = place.root().open(entry.path.as_bytes(), How::Make).unwrap();
                made.write_all_at(contents[index.0 as usize], 0).unwrap();
                made.set_time(entry.mtime).unwrap();
                made.set_mode(entry.mode).unwrap();
            }
            place.assemble(1, objects.clone(), first());
            assert!(is_whole(&mut place));
            place.disk.set_time(Mtime { seconds: 1_000, nanos: 0 });
            place.root().open(b"mine", How::Write).unwrap().write_all_at(b"mine", 0).unwrap();
            place.root().sync_file_system().unwrap();
            place.disk.stop_after(Some(calls));
            place.assemble(2, objects.clone(), second());
            if !place.disk.stopped() && seed == 0 {
                assert!(calls > 50, "{calls} calls, each of which the power left out");
            }
            let was_cut = place.disk.stopped();
            let mut place = place.cut_power(seed);
            place.disk.set_time(Mtime { seconds: 2_000, nanos: 0 });
            let reports = place.assemble(3, objects.clone(), third());
            assert!(is_whole(&mut place), "power cut after {calls} calls, seed {seed}: {reports:?}");
            assert_eq!(
                place.root().open(b"mine", How::Read).unwrap().read_to_end(9).unwrap(),
                b"mine",
                "{calls}, {seed}"
            );
            if !was_cut && seed == 3 {
                return;
            }
        }
        calls += 1;
    }
}
