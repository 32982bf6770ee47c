//! The receiver's dataset worker on the model disk: how a dataset ends.

#![expect(clippy::unwrap_used, reason = "a test may fail")]

use std::collections::BTreeMap;
use std::path::Path;

use nackcast_common::files::How;
use nackcast_common::geometry::Geometry;
use nackcast_common::ids::{ChannelId, Digest, Epoch, Generation};
use nackcast_common::keys::SigningKey;
use nackcast_common::manifest::{Content, Entry, EntryKind, Head, Manifest, Mtime};
use nackcast_common::path::DatasetPath;
use nackcast_common::store::MemoryStore;
use nackcast_proto::manifest::encode;
use nackcast_receiver::dataset::{Order, Report, Settings};
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
    workers: Workers,
}

impl Place {
    fn new() -> Self {
        let disk = Disk::new(DiskSettings { seed: 1, capacity: 1 << 30, privileged: false });
        for path in [INTO, STATE] {
            disk.files().make_directory(Path::new(path), 0o755).unwrap();
        }
        let settings = Settings {
            channel: CHANNEL,
            publisher: publisher().verifying_key(),
            mode_mask: 0o777,
            overwrite: false,
            prune: true,
        };
        let target = TargetDir::open(disk.files(), Path::new(INTO)).unwrap();
        let workers = Workers::open(settings, target, MemoryStore::new().store(), Path::new(STATE)).unwrap();
        Self { disk, workers }
    }

    /// Takes a generation of empty files: nothing of it need be fetched.
    fn take(&mut self, generation: u64, names: impl Iterator<Item = String>) {
        let entry = |name: String| Entry {
            path: DatasetPath::new(name.as_bytes()).unwrap(),
            kind: EntryKind::File { size: 0, digest: Digest::of(b""), content: Content::Empty },
            mode: 0o644,
            mtime: Mtime::default(),
        };
        let head = Head {
            channel: CHANNEL,
            generation: Generation(generation),
            parent: None,
            epoch: Epoch(1),
            geometry: Geometry::default(),
        };
        let manifest = Manifest::new(head, Vec::new(), names.map(entry).collect()).unwrap();
        let encoded = encode(&manifest, &publisher()).unwrap();
        let pieces = std::iter::once(encoded.root).chain(encoded.parts);
        let blobs: BTreeMap<_, _> = pieces.map(|piece| (piece.digest, piece.bytes)).collect();
        let reports = self.order(Order::Assemble { hash: encoded.reference.hash, blobs });
        assert!(matches!(&reports[..], [Report::Wants(wants)] if wants.objects.is_empty()), "{reports:?}");
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
    let [Report::Trouble(_), Report::Finished { whole: false }, Report::Wants(_)] = &reports[..] else {
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
