//! A node alone: what it sends opens, and its bookkeeping holds.

mod admin;
mod epochs;

use std::sync::Arc;

use bytes::Bytes;
use nackcast_common::geometry::{Geometry, Layout};
use nackcast_common::hash::merge;
use nackcast_common::ids::{Digest, Generation, ObjectIndex, RunId};
use nackcast_common::keys::{EpochSecret, Flow, SenderMaster};
use nackcast_common::manifest::{Chaining, Content, Entry, EntryKind, Head, Manifest, Mtime, ObjectKind, ObjectRecord};
use nackcast_common::path::DatasetPath;
use nackcast_common::units::{BitRate, RateLimit};
use nackcast_proto::manifest::encode;
use nackcast_proto::wire::header::{self, Header};
use nackcast_proto::wire::symbol::SymbolId;
use nackcast_proto::wire::{Advertisement, Role, SenderCertificate};

use super::*;
use crate::config::{Once, ScheduleConfig};
use crate::publish::Published;

const CHANNEL: ChannelId = ChannelId([7; 16]);
const SIZE: usize = 600_000;

/// A node, and a driver that carries out everything at once.
struct Bench {
    node: SenderNode,
    secret: EpochSecret,
    publisher: SigningKey,
    published: Published,
    object: ObjectId,
    layout: Layout,
    content: Bytes,
    now: Time,
    /// Every datagram, with where it went.
    sent: Vec<(Destination, Vec<u8>)>,
    scans: Vec<u64>,
    /// The file can be read.
    is_there: bool,
    /// What else keeps it from being read.
    failure: fn() -> MakeError,
    /// The data socket takes nothing.
    is_full: bool,
    /// Senders that are asked over QUIC.
    calls: Vec<SocketAddr>,
}

impl Bench {
    fn new(once: Option<Once>) -> Self {
        Self::with(once, Role::Primary, 11, Vec::new())
    }

    fn with(once: Option<Once>, role: Role, session: u64, peers: Vec<SocketAddr>) -> Self {
        let (publisher, signer) = (SigningKey::from_seed([1; 32]), SigningKey::from_seed([2; 32]));
        let master = SenderMaster([3; 32]);
        let secret = master.epoch(CHANNEL, Epoch(1));
        let geometry = Geometry::default();
        let content: Bytes = (0..SIZE).map(|i| u8::try_from(i % 251).unwrap_or(0)).collect::<Vec<_>>().into();
        let layout = geometry.object(SIZE as u64).unwrap();
        let values: Vec<_> = (0..layout.block_count()).map(|b| Digest::of(&b.to_be_bytes()).0).collect();
        let digest = merge(&values);
        let object = geometry.object_id(&digest, SIZE as u64);
        let record = ObjectRecord {
            id: object,
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
        let manifest = Arc::new(Manifest::new(head, vec![record], vec![entry]).unwrap());
        let encoded = encode(&manifest, &publisher).unwrap();
        let engine = EngineConfig {
            channel: CHANNEL,
            session: SessionId(session),
            start_number: StartNumber(1),
            epoch: Epoch(1),
            role,
            certificate: SenderCertificate::issue(&publisher, CHANNEL, signer.verifying_key()),
            data_group: "239.1.1.1:7602".parse().unwrap(),
            nack_port: 7701,
            quic_port: 0,
            rate: RateLimit::Fixed(BitRate(100_000_000)),
            auto: crate::RateBounds::default(),
            schedule: ScheduleConfig::default(),
            once,
        };
        let config = NodeConfig {
            name: "news".to_owned(),
            epochs: Epochs::of_master(CHANNEL, master, Epoch(1)),
            signer,
            publisher: publisher.verifying_key(),
            role: RoleConfig { peers, ..RoleConfig::new(role, 7) },
            engine,
        };
        Self {
            node: SenderNode::new(config),
            secret,
            publisher,
            published: Published::new(manifest, encoded),
            object,
            layout,
            content,
            now: Time(1_000_000),
            sent: Vec::new(),
            scans: Vec::new(),
            is_there: true,
            failure: || MakeError::NoSuchObject,
            is_full: false,
            calls: Vec::new(),
        }
    }

    fn publish(&mut self) {
        self.node.publish(self.now, self.published.publication(true, Vec::new()));
    }

    fn work(&mut self, work: Work) {
        match work {
            Work::Make(order) => {
                let (parts, file, layout) = (self.published.objects(), &self.content, self.layout);
                let (is_there, failure) = (self.is_there, self.failure);
                let made = order.make(|(object, block)| match parts.get(&object) {
                    Some(part) => Ok(part.clone()),
                    None if is_there => {
                        let start = block as usize * 262_144;
                        Ok((layout, file.slice(start..(start + 262_144).min(SIZE))))
                    }
                    None => Err(failure()),
                });
                self.node.handle_made(self.now, made);
            }
            Work::RecordPass { object, .. } => self.node.handle_recorded(self.now, &[object]),
            Work::Rescan { number, object } => {
                assert_eq!(object, self.object);
                self.scans.push(number);
            }
            Work::Roll => panic!("few packets were sent"),
            Work::Call(to) => self.calls.push(to),
        }
    }

    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        let mut out = Vec::new();
        while self.now < end {
            self.node.handle_timeout(self.now);
            loop {
                while let Some(work) = self.node.poll_work() {
                    self.work(work);
                }
                let datagrams = if self.is_full {
                    self.node.poll_control(self.now, &mut out)
                } else {
                    self.node.poll_transmit(self.now, &mut out)
                };
                let Some(datagrams) = datagrams else { break };
                assert!(datagrams.to == Destination::Data || datagrams.len == out.len());
                let several = out.chunks_exact(datagrams.len);
                assert!(several.remainder().is_empty());
                self.sent.extend(several.map(|datagram| (datagrams.to, datagram.to_vec())));
            }
            let deadline = self.node.poll_deadline(self.now).map_or(Time::NEVER, |deadline| deadline.at);
            self.now = deadline.max(self.now + Duration::from_micros(100)).min(end);
        }
    }

    /// Opens everything that was sent; the file's symbols by their ESIs.
    fn symbols(&self) -> Vec<(SymbolId, Vec<u8>)> {
        let mut symbols = Vec::new();
        for (to, datagram) in &self.sent {
            let mut datagram = datagram.clone();
            let head = Header::read(&datagram).unwrap();
            let key = self.secret.flow_key(CHANNEL, head.session, head.flow);
            let body = key.open_in_place(head.packet_number, header::LEN, &mut datagram).unwrap();
            match to {
                Destination::Data => {
                    assert_eq!((head.datagram_type, head.flow), (DatagramType::Symbol, Flow::Data));
                    let (id, symbol) = SymbolId::read(body).unwrap();
                    symbols.extend((id.object == self.object).then(|| (id, symbol.to_vec())));
                }
                Destination::Advertised if head.datagram_type == DatagramType::Advertisement => {
                    let key = self.publisher.verifying_key();
                    assert!(Advertisement::decode(body, &key, CHANNEL).unwrap().session.0 == head.session);
                }
                Destination::Advertised => assert_eq!(head.datagram_type, DatagramType::Digest),
                Destination::Receiver(_) => assert_eq!(head.datagram_type, DatagramType::NackAnswer),
                Destination::Sender(_) => panic!("there is no other sender"),
            }
        }
        symbols
    }

    fn packet_numbers(&self, session: u64, flow: Flow) -> Vec<u64> {
        let heads = self.sent.iter().map(|(_, datagram)| Header::read(datagram).unwrap());
        heads.filter(|head| (head.session, head.flow) == (session, flow)).map(|head| head.packet_number).collect()
    }

    /// The whole file is in what was sent.
    fn assert_sent(&self) {
        let symbols = self.symbols();
        for block in 0..self.layout.block_count() {
            for esi in 0..self.layout.source_symbols(block) {
                let id = SymbolId { object: self.object, block, esi };
                let (_, symbol) = symbols.iter().find(|(other, _)| *other == id).expect("every symbol is sent");
                let start = block as usize * 262_144 + usize::from(esi) * 1400;
                let end = (start + 1400).min((block as usize + 1) * 262_144).min(SIZE);
                assert_eq!(&symbol[..end - start], &self.content[start..end]);
            }
        }
    }
}

fn soon() -> Option<Once> {
    Some(Once { expect: None, linger: Duration::from_millis(300) })
}

#[test]
fn what_it_sends_opens_and_every_number_is_used_once() {
    let mut bench = Bench::new(soon());
    bench.publish();
    bench.run(Duration::from_secs(10));
    bench.assert_sent();
    assert_eq!(bench.node.ending(bench.now), Ending::Now);
    for flow in [Flow::Advertisement, Flow::Data] {
        let numbers = bench.packet_numbers(11, flow);
        assert!(numbers.len() > 10 && numbers.iter().copied().eq(0..numbers.len() as u64));
    }
    let (summary, is_success) = bench.node.summary();
    assert!(is_success && summary.sent_bytes > SIZE as u64, "{summary:?}");
}

#[test]
fn the_same_inputs_give_the_same_bytes() {
    let sent = || {
        let mut bench = Bench::new(None);
        bench.publish();
        bench.run(Duration::from_secs(3));
        bench.sent
    };
    assert!(sent() == sent());
}

#[test]
fn a_full_data_socket_holds_up_content_only() {
    let mut bench = Bench::new(None);
    bench.publish();
    bench.is_full = true;
    bench.run(Duration::from_secs(3));
    assert!(bench.packet_numbers(11, Flow::Data).is_empty());
    assert!(bench.packet_numbers(11, Flow::Advertisement).len() > 10);
    bench.is_full = false;
    bench.run(Duration::from_secs(10));
    bench.assert_sent();
}

#[test]
fn a_nack_is_opened_and_answered_to_whoever_sent_it() {
    let mut bench = Bench::new(None);
    bench.publish();
    bench.run(Duration::from_secs(10));
    let from = "192.0.2.5:4000".parse().unwrap();
    let heard = bench.node.opener().open(from, &mut sealed_nack(&bench.secret, CHANNEL, 5, 3)).unwrap();
    let Heard::Nack(heard) = heard else { panic!("a NACK") };
    assert_eq!((heard.run, heard.packet), (RunId(5), 3));
    // It echoes the last advertisement, as a receiver's does.
    let mut heard = heard;
    (heard.nack.session, heard.nack.time, heard.nack.missing_ids) = (SessionId(11), bench.now.0, vec![bench.object]);
    bench.node.handle_nack(bench.now, &heard);
    bench.sent.clear();
    bench.run(Duration::from_secs(10));
    let answers = bench.sent.iter().filter(|(to, _)| *to == Destination::Receiver(from)).count();
    assert_eq!(answers, 1);
    bench.assert_sent();
}

#[test]
fn a_file_that_cannot_be_read_is_scanned_for_and_served_again_when_it_is_back() {
    let mut bench = Bench::new(soon());
    bench.is_there = false;
    bench.publish();
    bench.run(Duration::from_secs(10));
    assert_eq!((bench.scans.as_slice(), bench.symbols().len()), ([1].as_slice(), 0));
    assert_eq!(bench.node.ending(bench.now), Ending::Running, "a scan may find it again");
    bench.is_there = true;
    bench.node.handle_scanned(bench.now, ScanResult { is_read: true, answers: 1, ..ScanResult::default() });
    let nack = HeardNack {
        from: "192.0.2.5:4000".parse().unwrap(),
        run: RunId(5),
        packet: 1,
        epoch: Epoch(1),
        nack: nackcast_proto::wire::Nack {
            channel: CHANNEL,
            session: SessionId(11),
            time: bench.now.0,
            missing_ids: vec![bench.object],
            ..nackcast_proto::wire::Nack::default()
        },
    };
    bench.node.handle_nack(bench.now, &nack);
    bench.run(Duration::from_secs(10));
    bench.assert_sent();
    assert_eq!(bench.node.ending(bench.now), Ending::Now);
    let (summary, is_success) = bench.node.summary();
    assert!(!is_success && summary.problems.len() == 1, "it was not sent as it was: {summary:?}");
}

#[test]
fn a_new_session_has_new_keys_and_numbers_from_zero() {
    let mut bench = Bench::new(None);
    bench.publish();
    bench.run(Duration::from_secs(1));
    bench.node.roll(bench.now, SessionId(12), StartNumber(2));
    bench.run(Duration::from_secs(10));
    bench.assert_sent();
    assert_eq!(bench.packet_numbers(12, Flow::Advertisement)[0], 0);
    let last = Header::read(&bench.sent.last().unwrap().1).unwrap();
    assert_eq!(last.session, 12);
}

#[test]
fn draining_ends_when_what_runs_is_sent_or_time_is_up() {
    let mut bench = Bench::new(None);
    bench.node.drain(bench.now);
    assert_eq!(bench.node.ending(bench.now), Ending::Now, "there is nothing to finish");
    let mut bench = Bench::new(None);
    bench.publish();
    bench.run(Duration::from_secs(10));
    bench.node.drain(bench.now);
    assert_eq!(bench.node.ending(bench.now), Ending::WhenSent);
    assert_eq!(bench.node.ending(bench.now + DRAIN_MAX), Ending::Now);
}

/// Hands what one node sent to another sender over to that one.
fn deliver(from: &mut Bench, address: SocketAddr, to: &mut Bench) -> usize {
    let mut opener = to.node.opener();
    let mut count = 0;
    for (destination, mut datagram) in std::mem::take(&mut from.sent) {
        if !matches!(destination, Destination::Sender(_)) {
            from.sent.push((destination, datagram));
            continue;
        }
        count += 1;
        match opener.open(address, &mut datagram).unwrap() {
            Heard::Nack(nack) => to.node.handle_nack(to.now, &nack),
            Heard::Probe(probe) => to.node.handle_probe(to.now, &probe),
        }
    }
    count
}

fn address(of: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, of], 7701))
}

/// A NACK for the file to the backup, session 12.
fn nack_to_backup(backup: &Bench) -> HeardNack {
    let nack = nackcast_proto::wire::Nack {
        channel: CHANNEL,
        session: SessionId(12),
        time: backup.now.0,
        nonce: 5,
        missing_ids: vec![backup.object],
        ..nackcast_proto::wire::Nack::default()
    };
    HeardNack { from: address(9), run: RunId(5), packet: 1, epoch: Epoch(1), nack }
}

/// A primary that sent everything, and a backup that knows where to ask it.
fn primary_and_backup() -> (Bench, Bench) {
    let mut primary = Bench::new(None);
    let mut backup = Bench::with(None, Role::Backup, 12, vec![address(1)]);
    primary.publish();
    primary.run(Duration::from_secs(10));
    let publication = backup.published.publication(false, Vec::new());
    backup.node.publish(backup.now, publication);
    backup.run(Duration::from_secs(10));
    assert!(backup.symbols().is_empty(), "it stands by");
    let advertised = backup.packet_numbers(12, Flow::Advertisement).len();
    assert!((9..=12).contains(&advertised), "once a second: {advertised}");
    primary.sent.clear();
    backup.sent.clear();
    (primary, backup)
}

#[test]
fn a_backup_forwards_a_nack_to_a_primary_that_serves() {
    let (mut primary, mut backup) = primary_and_backup();
    let nack = nack_to_backup(&backup);
    backup.node.handle_nack(backup.now, &nack);
    backup.run(Duration::from_millis(5));
    assert_eq!(deliver(&mut backup, address(2), &mut primary), 1, "it asks");
    assert_eq!(backup.calls, [address(1)], "on both ways");
    primary.run(Duration::from_millis(5));
    assert_eq!(deliver(&mut primary, address(1), &mut backup), 1, "and is answered");
    backup.run(Duration::from_millis(5));
    let answers: Vec<_> = backup.sent.iter().filter(|(to, _)| *to == Destination::Receiver(address(9))).collect();
    let [(_, answer)] = answers[..] else { panic!("one answer: {}", answers.len()) };
    let mut answer = answer.clone();
    let key = backup.secret.flow_key(CHANNEL, 12, Flow::ToReceiver);
    let number = Header::read(&answer).unwrap().packet_number;
    let body = key.open_in_place(number, header::LEN, &mut answer).unwrap();
    let answer = nackcast_proto::wire::NackAnswer::decode(body, None).unwrap();
    assert_eq!((answer.status, answer.nonce), (nackcast_proto::wire::NackStatus::PrimaryAlive, 5));
    assert_eq!(deliver(&mut backup, address(2), &mut primary), 1, "the NACK is forwarded");
    primary.run(Duration::from_secs(10));
    primary.sent.retain(|(to, _)| !matches!(to, Destination::Sender(_)));
    primary.assert_sent();
    backup.run(Duration::from_secs(10));
    assert_eq!(backup.packet_numbers(12, Flow::Data), [0; 0], "nothing of it comes from the backup");
}

#[test]
fn a_backup_whose_primary_is_silent_serves_the_nack_that_it_holds() {
    let (_, mut backup) = primary_and_backup();
    let nack = nack_to_backup(&backup);
    backup.node.handle_nack(backup.now, &nack);
    backup.run(Duration::from_secs(10));
    backup.sent.retain(|(to, _)| !matches!(to, Destination::Sender(_)));
    backup.assert_sent();
}

#[test]
fn a_backup_whose_primary_answers_over_quic_only_does_not_take_over() {
    let (mut primary, mut backup) = primary_and_backup();
    let nack = nack_to_backup(&backup);
    backup.node.handle_nack(backup.now, &nack);
    backup.run(Duration::from_millis(5));
    assert_eq!(backup.calls, [address(1)]);
    primary.node.handle_call(primary.now, &backup.node.standing(backup.now));
    let path = crate::role::Path::Quic { came: backup.now, took: Duration::ZERO };
    backup.node.handle_standing(backup.now, address(1), path, &primary.node.standing(primary.now));
    backup.run(Duration::from_secs(10));
    assert_eq!(backup.node.role_state(), crate::role::State::Standby);
    assert_eq!(backup.packet_numbers(12, Flow::Data), [0; 0]);
}

/// Questions of the backup that a node gets: how many it answers.
fn answered(primary: &mut Bench, questions: impl Iterator<Item = HeardProbe>) -> usize {
    primary.sent.clear();
    questions.for_each(|question| primary.node.handle_probe(primary.now, &question));
    primary.run(Duration::from_millis(5));
    primary.sent.iter().filter(|(to, _)| matches!(to, Destination::Sender(_))).count()
}

#[test]
fn a_recorded_question_is_answered_once_and_silences_nobody() {
    let (mut primary, backup) = primary_and_backup();
    let question = |nonce: u64| {
        let probe = nackcast_proto::wire::Probe { nonce, standing: backup.node.standing(backup.now) };
        let kind = nackcast_proto::wire::ProbeKind::Question;
        let body = probe.encode(kind, &SigningKey::from_seed([2; 32]));
        HeardProbe { from: address(2), kind, session: 12, body }
    };
    let mut recorded = std::iter::repeat_with(|| question(1)).take(1000);
    assert_eq!(answered(&mut primary, recorded.by_ref()), 1);
    assert_eq!(answered(&mut primary, std::iter::once(question(2))), 1, "recordings take no room from it");
    // Each costs signatures: of many at once only so many are answered, and later others.
    let many = answered(&mut primary, (3..300).map(question));
    assert!((50..=100).contains(&many), "{many}");
    primary.run(Duration::from_secs(1));
    assert_eq!(answered(&mut primary, std::iter::once(question(300))), 1);
}

#[test]
fn files_that_changed_say_nothing_of_the_disk() {
    fn changed() -> MakeError {
        MakeError::Block(BlockError::Changed { path: DatasetPath::new(b"file").unwrap() })
    }
    fn unreadable() -> MakeError {
        let path = DatasetPath::new(b"file").unwrap();
        MakeError::Block(BlockError::Io { path, source: std::io::Error::other("broken") })
    }
    for (failure, can_read) in [(changed as fn() -> MakeError, true), (unreadable, false)] {
        let mut bench = Bench::new(None);
        (bench.is_there, bench.failure) = (false, failure);
        for packet in 1..=UNREADABLE {
            bench.publish();
            let mut nack = nack_to_backup(&bench);
            (nack.packet, nack.nack.session) = (packet.into(), SessionId(11));
            bench.node.handle_nack(bench.now, &nack);
            bench.run(Duration::from_secs(5));
        }
        assert_eq!(bench.node.can_read, can_read, "{}", failure());
    }
}

#[test]
fn a_sender_that_yields_ends_at_a_block_and_sends_no_more() {
    let mut bench = Bench::new(None);
    bench.publish();
    bench.run(Duration::from_millis(900));
    bench.node.handle_role_command(bench.now, crate::role::RoleCommand::Drain);
    bench.run(Duration::from_secs(10));
    assert_eq!(bench.node.role_state(), crate::role::State::Drained);
    let symbols = bench.symbols();
    for block in 0..bench.layout.block_count() {
        let sent = symbols.iter().filter(|(id, _)| id.block == block && id.esi < bench.layout.source_symbols(block));
        let count = sent.count();
        assert!(count == 0 || count == usize::from(bench.layout.source_symbols(block)), "block {block}: {count}");
    }
    let before = bench.packet_numbers(11, Flow::Data).len();
    bench.node.handle_role_command(bench.now, crate::role::RoleCommand::Resume);
    bench.run(Duration::from_secs(3));
    assert!(bench.packet_numbers(11, Flow::Data).len() >= before);
}

#[test]
fn what_is_lacked_is_unknown_until_it_is_there() {
    let mut bench = Bench::new(None);
    let publication = bench.published.publication(false, Vec::new());
    bench.node.publish(bench.now, publication.clone());
    bench.node.lacks(bench.now, vec![bench.object]);
    let mut nack = nack_to_backup(&bench);
    nack.nack.session = SessionId(11);
    bench.node.handle_nack(bench.now, &nack);
    bench.run(Duration::from_secs(3));
    assert!(bench.symbols().is_empty() && bench.scans.is_empty());
    bench.node.publish(bench.now, publication);
    (nack.packet, nack.nack.time) = (2, bench.now.0);
    bench.node.handle_nack(bench.now, &nack);
    bench.run(Duration::from_secs(10));
    bench.assert_sent();
}
