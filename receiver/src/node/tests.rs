//! A node with its workers, without threads, against a sender made of codecs and keys only.

use std::fs;
use std::path::Path;

use nackcast_common::alerts::Kind;
use nackcast_common::control::{Ask, Refusal, Steer};
use nackcast_common::geometry::Geometry;
use nackcast_common::hash::chaining_value;
use nackcast_common::ids::{Epoch, ObjectIndex};
use nackcast_common::keys::EpochSecret;
use nackcast_common::manifest::{Chaining, Content, Entry, Head, Mtime, ObjectKind, ObjectRecord};
use nackcast_common::path::DatasetPath;
use nackcast_common::seal::PacketNumbers;
use nackcast_common::store::Store;
use nackcast_proto::manifest::{EncodedManifest, encode};
use nackcast_proto::pull::{Block, Shelf};
use nackcast_proto::wire::symbol::{PREFIX_LEN, SymbolId};
use nackcast_proto::wire::{Advertisement, ManifestRef, Nack, NackAnswer, NackStatus, header};

use super::*;
use crate::dataset::Settings;
use crate::disk::target::TargetDir;
use crate::engine::{PullEnd, PullWhen};
use crate::shelf::ReceiverShelf;
use crate::testing::{self, CHANNEL, SESSION};

mod watch;

const STEP: Duration = Duration::from_millis(50);
const SIZE: usize = 700_000;

fn sender_address() -> SocketAddr {
    "192.0.2.1:7701".parse().unwrap()
}

fn secret() -> EpochSecret {
    EpochSecret([7; 32])
}

fn content() -> Vec<u8> {
    (0..SIZE).map(|at| (at * at / 7) as u8).collect()
}

/// Everything of a sender that goes over the wire.
struct Sender {
    encoded: EncodedManifest,
    object: ObjectRecord,
    content: Vec<u8>,
    sequence: u64,
    packets: PacketNumbers,
    nack_window: Duration,
    group_size: u32,
}

impl Sender {
    fn new() -> Self {
        let content = content();
        let geometry = Geometry::default();
        let layout = geometry.object(SIZE as u64).unwrap();
        let block = |b: u32| {
            let at = layout.block_offset(b) as usize;
            &content[at..at + layout.block_len(b) as usize]
        };
        let values: Vec<_> =
            (0..layout.block_count()).map(|b| chaining_value(block(b), layout.block_offset(b))).collect();
        let digest = Digest::of(&content);
        let object = ObjectRecord {
            id: geometry.object_id(&digest, SIZE as u64),
            digest,
            layout,
            kind: ObjectKind::File,
            since: Generation(1),
            chaining: Chaining::Inline(values.into()),
        };
        let entry = Entry {
            path: DatasetPath::new(b"file").unwrap(),
            kind: EntryKind::File { size: SIZE as u64, digest, content: Content::Object(ObjectIndex(0)) },
            mode: 0o644,
            mtime: Mtime::default(),
        };
        let head = Head { channel: CHANNEL, generation: Generation(1), parent: None, epoch: Epoch(1), geometry };
        let manifest = Manifest::new(head, vec![object.clone()], vec![entry]).unwrap();
        let encoded = encode(&manifest, &testing::publisher()).unwrap();
        Self {
            encoded,
            object,
            content,
            sequence: 0,
            packets: PacketNumbers::new(),
            nack_window: Duration::from_millis(60),
            group_size: 1,
        }
    }

    fn advertisement(&mut self, now: Time) -> Vec<u8> {
        self.sequence += 1;
        let advertisement = Advertisement {
            manifest: Some(self.encoded.reference),
            nack_window: self.nack_window,
            group_size: self.group_size,
            ..testing::advertisement(now, self.sequence, self.packets.next())
        };
        let body = advertisement.encode(&testing::sender_key());
        seal(DatagramType::Advertisement, SESSION.0, self.sequence, &body)
    }

    /// Symbols of an object, those with an ESI that `which` takes.
    fn symbols(&mut self, object: ObjectId, bytes: &[u8], which: impl Fn(u16) -> bool) -> Vec<Vec<u8>> {
        let layout = Geometry::default().object(bytes.len() as u64).unwrap();
        let size = usize::from(layout.geometry().symbol_size());
        let mut datagrams = Vec::new();
        for block in 0..layout.block_count() {
            for esi in (0..layout.source_symbols(block)).filter(|esi| which(*esi)) {
                let mut body = vec![0; PREFIX_LEN];
                SymbolId { object, block, esi }.write(body.first_chunk_mut().unwrap());
                let start = layout.block_offset(block) as usize + usize::from(esi) * size;
                let end = (start + size).min(layout.block_offset(block) as usize + layout.block_len(block) as usize);
                body.extend_from_slice(&bytes[start..end]);
                body.resize(PREFIX_LEN + size, 0);
                let packet = self.packets.take(1).start;
                datagrams.push(seal(DatagramType::Symbol, SESSION.0, packet, &body));
            }
        }
        datagrams
    }

    fn manifest_symbols(&mut self) -> Vec<Vec<u8>> {
        let encoded = self.encoded.clone();
        let mut datagrams = Vec::new();
        for part in std::iter::once(&encoded.root).chain(&encoded.parts) {
            let id = Geometry::default().object_id(&part.digest, part.bytes.len() as u64);
            datagrams.extend(self.symbols(id, &part.bytes, |_| true));
        }
        datagrams
    }

    fn file_symbols(&mut self, which: impl Fn(u16) -> bool) -> Vec<Vec<u8>> {
        let content = std::mem::take(&mut self.content);
        let datagrams = self.symbols(self.object.id, &content, which);
        self.content = content;
        datagrams
    }

    /// Opens a NACK and takes note of it.
    fn answer(&self, run: RunId, datagram: &mut [u8]) -> Vec<u8> {
        let header = Header::read(datagram).unwrap();
        assert_eq!((header.session, header.datagram_type), (run.0, DatagramType::Nack));
        let key = secret().flow_key(CHANNEL, run.0, Flow::ToSender);
        let body = key.open_in_place(header.packet_number, header::LEN, datagram).unwrap();
        let nack = Nack::decode(body).unwrap();
        let answer = NackAnswer {
            run,
            channel: CHANNEL,
            session: SESSION,
            nack: header.packet_number,
            nonce: nack.nonce,
            status: NackStatus::Noted,
            wait: Duration::from_millis(500),
            ..NackAnswer::default()
        };
        seal(DatagramType::NackAnswer, SESSION.0, header.packet_number, &answer.encode(Some(&testing::sender_key())))
    }
}

fn seal(datagram_type: DatagramType, session: u64, packet_number: u64, body: &[u8]) -> Vec<u8> {
    let flow = datagram_type.flow();
    let header = Header { datagram_type, flow, epoch_low: 1, session, packet_number };
    let mut datagram = Vec::new();
    header.seal(&secret().flow_key(CHANNEL, session, flow), body, &mut datagram);
    datagram
}

/// A node and its workers, one step after the other.
struct Rig {
    now: Time,
    node: ReceiverNode,
    blocks: blocks::Blocks,
    dataset: dataset::Dataset,
    shelf: ReceiverShelf,
    sent: Vec<Vec<u8>>,
}

impl Rig {
    fn new(home: &Path, run: u64) -> Self {
        let (into, state) = (home.join("into"), home.join("state"));
        fs::create_dir_all(&into).unwrap();
        let publisher = testing::publisher().verifying_key();
        let settings = Settings { channel: CHANNEL, publisher, mode_mask: 0o777, overwrite: false, prune: false };
        let (store, _) = Store::open(&state.join("store")).unwrap();
        let workers =
            Workers::open(settings, TargetDir::open(nackcast_common::files::linux(), &into).unwrap(), store, &state)
                .unwrap();
        assert_eq!(workers.warnings, Vec::<String>::new());
        let ticket = Ticket {
            channel: CHANNEL,
            name: "test".into(),
            publisher,
            advertise: "239.1.1.1:7600".parse().unwrap(),
            senders: Vec::new(),
            epoch: Epoch(1),
            secret: Some(secret()),
        };
        let config = NodeConfig {
            ticket,
            into: "into".into(),
            run: RunId(run),
            seed: 5,
            remembered: workers.remembered,
            nack_retry: Duration::from_millis(200),
            nack_budget: 4,
            memory: 32 << 20,
            scan: Duration::from_secs(600),
            once: true,
            own_sender: None,
        };
        let node = ReceiverNode::new(Time::ZERO, config);
        let Workers { blocks, dataset, shelf, .. } = workers;
        Self { now: Time::ZERO, node, blocks, dataset, shelf, sent: Vec::new() }
    }

    fn settle(&mut self) {
        while let Some(order) = self.node.poll_order() {
            match order {
                Order::Blocks(order) => {
                    self.blocks.handle(order);
                    while let Some(report) = self.blocks.poll_report() {
                        self.node.handle_block_report(self.now, report);
                    }
                }
                Order::Dataset(order) => {
                    self.dataset.handle(order);
                    while let Some(report) = self.dataset.poll_report() {
                        self.node.handle_dataset_report(self.now, report);
                    }
                }
            }
        }
        while let Some((to, datagram)) = self.node.poll_transmit() {
            assert_eq!(to, sender_address());
            self.sent.push(datagram.to_vec());
        }
    }

    fn hear(&mut self, datagrams: Vec<Vec<u8>>) {
        for mut datagram in datagrams {
            self.node.handle_data_datagram(self.now, self.now, &mut datagram);
            self.settle();
        }
    }

    /// Time passes, an advertisement comes, NACKs are answered.
    fn step(&mut self, sender: &mut Sender) {
        self.now += STEP;
        let already = self.sent.len();
        let from = SocketAddr::new(sender_address().ip(), 40_000);
        self.node.handle_advertisement_datagram(self.now, from, &mut sender.advertisement(self.now));
        self.settle();
        if self.node.poll_deadline().is_some_and(|deadline| deadline.at <= self.now) {
            self.node.handle_timeout(self.now);
            self.settle();
        }
        for mut nack in self.sent[already..].iter().cloned() {
            let mut answer = sender.answer(self.node.config.run, &mut nack);
            self.node.handle_answer_datagram(self.now, sender_address(), &mut answer);
        }
        self.settle();
    }

    fn steps_until(&mut self, sender: &mut Sender, what: &str, done: impl Fn(&ReceiverNode) -> bool) {
        for _ in 0..1000 {
            if done(&self.node) {
                return;
            }
            self.step(sender);
        }
        panic!("never {what}: {:?}", self.node.engine.snapshot());
    }

    /// Up to a manifest that the dataset was compared with.
    fn begin(&mut self, sender: &mut Sender) {
        self.step(sender);
        self.hear(sender.manifest_symbols());
        self.steps_until(sender, "a manifest", |node| node.engine.snapshot().has_manifest);
    }
}

fn is_over(node: &ReceiverNode) -> bool {
    node.ended().is_some()
}

fn received(home: &Path) -> Rig {
    let (mut rig, mut sender) = (Rig::new(home, 3), Sender::new());
    rig.begin(&mut sender);
    let symbols = sender.file_symbols(|_| true);
    rig.hear(symbols);
    rig.steps_until(&mut sender, "complete", is_over);
    rig
}

#[test]
fn a_file_is_received_without_sockets_threads_and_clock_and_always_alike() {
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let rig = received(one.path());
    assert_eq!(rig.node.ended(), Some(&End::Complete));
    assert!(fs::read(one.path().join("into/file")).unwrap() == content());
    let summary = rig.node.summary();
    assert!(summary.complete && summary.problems.is_empty(), "{summary:?}");
    assert_eq!((summary.files, summary.bytes, summary.generation), (1, SIZE as u64, 1));
    assert!(rig.sent.len() > 1);
    let again = received(other.path());
    assert!(again.sent == rig.sent && again.now == rig.now, "the same inputs give the same datagrams");
}

#[test]
fn reports_do_not_wait_for_a_long_nack_window() {
    let home = tempfile::tempdir().unwrap();
    let (mut rig, mut sender) = (Rig::new(home.path(), 3), Sender::new());
    (sender.nack_window, sender.group_size) = (Duration::from_secs(30), 12);
    // Steps for the advertisement, and the moment over which a greeting is spread.
    let moment = STEP * 2 + Duration::from_millis(200);
    rig.step(&mut sender);
    rig.steps_until(&mut sender, "greeted", |node| node.engine.snapshot().nacks > 0);
    assert!(rig.now <= Time::ZERO + moment, "{:?}", rig.now);
    rig.hear(sender.manifest_symbols());
    rig.steps_until(&mut sender, "a manifest", |node| node.engine.snapshot().has_manifest);
    let symbols = sender.file_symbols(|_| true);
    rig.hear(symbols);
    rig.steps_until(&mut sender, "whole", |node| node.engine.snapshot().complete);
    let (whole, said) = (rig.now, rig.node.engine.snapshot().nacks);
    rig.steps_until(&mut sender, "said so", |node| node.engine.snapshot().nacks > said);
    assert!(rig.now <= whole + moment, "{:?} after {whole:?}", rig.now);
}

#[test]
fn what_was_open_at_the_end_is_not_received_again() {
    let home = tempfile::tempdir().unwrap();
    let (mut rig, mut sender) = (Rig::new(home.path(), 3), Sender::new());
    rig.begin(&mut sender);
    let even = sender.file_symbols(|esi| esi % 2 == 0);
    rig.hear(even);
    rig.node.checkpoint_all();
    rig.settle();
    rig.blocks.sync();
    drop(rig);

    let (mut rig, mut sender) = (Rig::new(home.path(), 4), Sender::new());
    rig.settle();
    rig.steps_until(&mut sender, "compared", |node| node.engine.snapshot().has_manifest);
    rig.step(&mut sender);
    let odd = sender.file_symbols(|esi| esi % 2 == 1);
    rig.hear(odd);
    rig.steps_until(&mut sender, "complete", is_over);
    assert!(fs::read(home.path().join("into/file")).unwrap() == content());
}

#[test]
fn files_that_are_not_ours_end_the_node_untouched() {
    let home = tempfile::tempdir().unwrap();
    fs::create_dir_all(home.path().join("into")).unwrap();
    fs::write(home.path().join("into/file"), b"mine").unwrap();
    let (mut rig, mut sender) = (Rig::new(home.path(), 3), Sender::new());
    rig.step(&mut sender);
    rig.hear(sender.manifest_symbols());
    rig.steps_until(&mut sender, "refused", is_over);
    assert!(matches!(rig.node.ended(), Some(End::NotOurs(paths)) if paths.len() == 1));
    assert_eq!(fs::read(home.path().join("into/file")).unwrap(), b"mine");
}

#[test]
fn a_file_that_appears_where_one_is_on_its_way_is_somebody_elses() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("into/file");
    let (mut rig, mut sender) = (Rig::new(home.path(), 3), Sender::new());
    rig.begin(&mut sender);
    fs::write(&path, b"mine").unwrap();
    rig.hear(sender.file_symbols(|_| true));
    let is_told = |node: &ReceiverNode| node.summary().problems.iter().any(|line| line.contains("--overwrite"));
    rig.steps_until(&mut sender, "told", is_told);
    assert_eq!(fs::read(&path).unwrap(), b"mine");
    drop(rig);

    // A later run knows it, too; and when it is gone, the dataset's file comes.
    let (mut rig, mut sender) = (Rig::new(home.path(), 4), Sender::new());
    rig.settle();
    rig.steps_until(&mut sender, "told again", is_told);
    (0..20).for_each(|_| rig.step(&mut sender));
    assert_eq!(fs::read(&path).unwrap(), b"mine");
    fs::remove_file(&path).unwrap();
    drop(rig);
    received(home.path());
    assert!(fs::read(&path).unwrap() == content());
}

#[test]
fn a_root_of_another_publisher_is_refused() {
    let home = tempfile::tempdir().unwrap();
    let (mut rig, mut sender) = (Rig::new(home.path(), 3), Sender::new());
    // An insider with a certified key, but not the publisher's: it signs a root itself.
    let root = &sender.encoded.root.bytes;
    let mut forged = root.to_vec();
    *forged.last_mut().unwrap() ^= 1;
    let digest = Digest::of(&forged);
    sender.encoded.reference = ManifestRef { hash: digest, ..sender.encoded.reference };
    sender.encoded.root.digest = digest;
    sender.encoded.root.bytes = forged.into();
    rig.step(&mut sender);
    rig.hear(sender.manifest_symbols());
    for _ in 0..20 {
        rig.step(&mut sender);
    }
    assert!(!rig.node.engine.snapshot().has_manifest);
    assert!(rig.node.summary().problems.iter().any(|line| line.contains("refused")), "{:?}", rig.node.summary());
}

#[test]
fn datagrams_may_be_anything() {
    let home = tempfile::tempdir().unwrap();
    let (mut rig, mut sender) = (Rig::new(home.path(), 3), Sender::new());
    rig.step(&mut sender);
    rig.step(&mut sender);
    let (before, from) = (rig.sent.len(), sender_address());
    let mut samples = vec![sender.advertisement(rig.now)];
    samples.extend(sender.manifest_symbols());
    for sample in samples {
        for cut in (0..sample.len()).step_by(7) {
            let mut damaged = sample[..cut].to_vec();
            rig.node.handle_data_datagram(rig.now, rig.now, &mut damaged);
            let mut damaged = sample[..cut].to_vec();
            rig.node.handle_advertisement_datagram(rig.now, from, &mut damaged);
            let mut damaged = sample.clone();
            damaged[cut] ^= 0x10;
            rig.node.handle_answer_datagram(rig.now, from, &mut damaged);
            rig.node.handle_data_datagram(rig.now, rig.now, &mut damaged);
            rig.node.handle_advertisement_datagram(rig.now, from, &mut damaged);
        }
    }
    rig.settle();
    assert_eq!(rig.sent.len(), before);
    assert_eq!(rig.node.engine.snapshot().symbols, 0);
}

#[test]
fn objects_are_listed_with_what_is_here() {
    let home = tempfile::tempdir().unwrap();
    let (mut rig, mut sender) = (Rig::new(home.path(), 3), Sender::new());
    rig.begin(&mut sender);
    let rows = |rig: &mut Rig, busy| {
        let (reply, mut answer) = tokio::sync::oneshot::channel();
        rig.node.answer(Ask::Objects { after: None, busy, limit: 10, reply });
        answer.try_recv().unwrap().unwrap()
    };
    let before = rows(&mut rig, true);
    assert_eq!((before.len(), before[0].path.as_str(), before[0].bytes_done), (1, "file", 0));
    let symbols = sender.file_symbols(|_| true);
    rig.hear(symbols);
    rig.steps_until(&mut sender, "complete", is_over);
    assert_eq!(rows(&mut rig, true), []);
    assert_eq!(rows(&mut rig, false)[0].state, "installed");
    let (reply, mut answer) = tokio::sync::oneshot::channel();
    rig.node.answer(Ask::Steer(Steer::Pause, reply));
    assert!(matches!(answer.try_recv().unwrap(), Err(Refusal::NotHere(_))));
}

/// Answers what the node pulls, from another receiver's shelf; what comes from the liar has a wrong byte.
fn give(rig: &mut Rig, shelf: &ReceiverShelf) {
    while let Some(order) = rig.node.poll_pull() {
        match order {
            PullOrder::Manifest { request, .. } => {
                rig.node.handle_offered(rig.now, &shelf.manifest().expect("a receiver that is whole has a manifest"));
                rig.node.handle_pull_over(rig.now, request, PullEnd::Over);
            }
            PullOrder::Fetch { request, source, object, blocks, longest } => {
                for block in blocks {
                    let mut data = shelf.block(object, block).expect("and every block").to_vec();
                    assert!(data.len() < longest);
                    data[7] ^= u8::from(&*source == "liar:7702");
                    rig.node.handle_pulled(rig.now, request, &Block { block, data: data.into() });
                    rig.settle();
                }
                rig.node.handle_pull_over(rig.now, request, PullEnd::Over);
            }
            PullOrder::Cancel { .. } => {}
        }
        rig.settle();
    }
}

#[test]
fn when_nobody_is_heard_everything_comes_from_another_receiver_and_a_liar_is_dropped() {
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let peer = received(one.path());
    peer.shelf.follow(&peer.node);
    let mut rig = Rig::new(other.path(), 4);
    rig.node.allow_pull(rig.now, PullWhen::Last, ["liar:7702", "peer:7702"].map(String::from));
    for _ in 0..1000 {
        if is_over(&rig.node) {
            break;
        }
        let deadline = rig.node.poll_deadline().expect("who waits for nobody still has a deadline");
        rig.now = rig.now.max(deadline.at);
        rig.node.handle_timeout(rig.now);
        rig.settle();
        give(&mut rig, &peer.shelf);
    }
    assert_eq!(rig.node.ended(), Some(&End::Complete));
    assert!(fs::read(other.path().join("into/file")).unwrap() == content());
    let summary = rig.node.summary();
    assert_eq!(summary.pull_sources, ["peer:7702"]);
    assert!(summary.pulled_bytes > SIZE as u64, "with the manifest: {}", summary.pulled_bytes);
    assert!(summary.problems.iter().any(|line| line.contains("liar:7702 gave a wrong block")), "{summary:?}");
    assert!(peer.shelf.given() >= summary.pulled_bytes);
    let found = rig.node.progress(rig.now).findings;
    let of = |kind: Kind| found.iter().find(|finding| finding.kind == kind).map(|finding| finding.subject.as_str());
    assert_eq!((of(Kind::SymbolsWrong), of(Kind::UnicastShare)), (Some("liar:7702"), Some("bytes")), "{found:?}");
    let later = rig.node.progress(rig.now + Duration::from_secs(600)).findings;
    assert!(later.iter().all(|finding| finding.kind != Kind::UnicastShare), "it is over: {later:?}");
    // A file that somebody changed is not given.
    fs::write(one.path().join("into/file"), vec![0; SIZE]).unwrap();
    assert_eq!(peer.shelf.block(Sender::new().object.id, 0), None);
}
