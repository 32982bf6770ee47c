//! A whole sending node on loopback, heard by a receiver that is just enough to check what it says.

#![expect(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use nackcast_common::admission::Admission;
use nackcast_common::clock::{Clock, Time};
use nackcast_common::control::{self, Ask};
use nackcast_common::geometry::Geometry;
use nackcast_common::ids::{ChannelId, Digest, Epoch, Generation, ObjectId};
use nackcast_common::keys::{EpochSecret, Flow, SenderMaster, Side, SigningKey, VerifyingKey};
use nackcast_common::manifest::Manifest;
use nackcast_common::net::quic::Client;
use nackcast_common::net::{GroupSocket, UnicastSocket, interface};
use nackcast_common::units::{BitRate, RateLimit};
use nackcast_proto::manifest::decode_root;
use nackcast_proto::pull::{Block, Member, Offer, ProbeReply, Request};
use nackcast_proto::wire::header::{self, DatagramType, Header};
use nackcast_proto::wire::symbol::SymbolId;
use nackcast_proto::wire::{Advertisement, Nack, NackAnswer, NackStatus, Role, SenderCertificate, SenderState};
use nackcast_sender::{ChannelConfig, Config, Control, Once, Progress, RunError, ScheduleConfig, Summary, run};
use tempfile::TempDir;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

const CHANNEL: ChannelId = ChannelId([0x42; 16]);
const RUN: u64 = 0x7777;
const PATIENCE: Duration = Duration::from_secs(20);

/// Keys and directories that several runs share.
struct Place {
    dir: TempDir,
    publisher: SigningKey,
    sender: SigningKey,
    master: SenderMaster,
    secret: EpochSecret,
    group: SocketAddr,
}

impl Place {
    fn new(group: &str) -> Self {
        let dir = TempDir::new().unwrap();
        fs::create_dir(dir.path().join("content")).unwrap();
        let master = SenderMaster::generate();
        Self {
            dir,
            publisher: SigningKey::generate(),
            sender: SigningKey::generate(),
            secret: master.epoch(CHANNEL, Epoch(3)),
            master,
            group: group.parse().unwrap(),
        }
    }

    fn content(&self) -> std::path::PathBuf {
        self.dir.path().join("content")
    }

    fn state(&self) -> std::path::PathBuf {
        self.dir.path().join("state")
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        fs::write(self.content().join(name), bytes).unwrap();
    }

    fn config(&self, once: Option<Once>) -> Config {
        Config {
            channels: vec![ChannelConfig {
                channel: CHANNEL,
                name: "news".to_owned(),
                directory: self.content(),
                follow: None,
                advertise: self.group,
                publisher: Some(self.publisher.clone()),
                publisher_key: self.publisher.verifying_key(),
                sender: self.sender.clone(),
                certificate: SenderCertificate::issue(&self.publisher, CHANNEL, self.sender.verifying_key()),
                master: self.master.clone(),
                admission: Admission { epoch: Epoch(3), receivers: None },
            }],
            role: Role::Primary,
            rank: 0,
            peers: Vec::new(),
            epoch_overlap: Duration::from_secs(1),
            late_after: Duration::from_secs(600),
            drain_limit: Duration::from_secs(10),
            interface: Some("lo".to_owned()),
            listen: "127.0.0.1:0".parse().unwrap(),
            identity: SigningKey::generate(),
            unicast_rate: RateLimit::Fixed(BitRate(100_000_000)),
            rate: RateLimit::Fixed(BitRate(100_000_000)),
            auto: nackcast_sender::RateBounds::default(),
            ttl: 0,
            dscp: 0,
            schedule: ScheduleConfig { interval: Duration::from_millis(50), ..ScheduleConfig::default() },
            exclude: vec!["*.tmp".to_owned()],
            priorities: Vec::new(),
            geometry: Geometry::default(),
            state: self.state(),
            rescan: Duration::ZERO,
            watch: false,
            once,
        }
    }
}

/// A node in a task.
struct Running {
    shutdown: CancellationToken,
    requests: mpsc::Sender<control::Request>,
    progress: watch::Receiver<Progress>,
    task: tokio::task::JoinHandle<Result<Summary, RunError>>,
}

impl Running {
    fn start(config: Config) -> Self {
        let (requests, asked) = mpsc::channel(1);
        let (progress_sender, progress) = watch::channel(Progress::default());
        let shutdown = CancellationToken::new();
        let control = Control { shutdown: shutdown.clone(), requests: asked, progress: progress_sender };
        Self { shutdown, requests, progress, task: tokio::spawn(run(config, control)) }
    }

    async fn end(self) -> Summary {
        tokio::time::timeout(PATIENCE, self.task).await.expect("it ends in time").unwrap().unwrap()
    }
}

/// Hears everything of a channel.
struct Listener {
    master: SenderMaster,
    publisher: VerifyingKey,
    sender: VerifyingKey,
    advertisements: GroupSocket,
    data: GroupSocket,
    unicast: UnicastSocket,
    clock: Clock,
    /// The last one, and when it was heard.
    last: Option<(Advertisement, Time)>,
    symbols: BTreeMap<(ObjectId, u32), BTreeMap<u16, Vec<u8>>>,
    datagrams: u64,
    nacks: u64,
}

impl Listener {
    fn new(place: &Place) -> Self {
        let lo = interface::resolve(Some("lo"), place.group.ip()).unwrap();
        let mut data = place.group;
        data.set_port(data.port() + 1);
        Self {
            master: place.master.clone(),
            publisher: place.publisher.verifying_key(),
            sender: place.sender.verifying_key(),
            advertisements: GroupSocket::bind(place.group, &lo, &[]).unwrap(),
            data: GroupSocket::bind(data, &lo, &[]).unwrap(),
            unicast: UnicastSocket::bind("127.0.0.1:0".parse().unwrap()).unwrap(),
            clock: Clock::start(),
            last: None,
            symbols: BTreeMap::new(),
            datagrams: 0,
            nacks: 0,
        }
    }

    fn open(&self, datagram: &mut [u8]) -> (Header, Vec<u8>) {
        let head = Header::read(datagram).unwrap();
        let key = self.master.epoch(CHANNEL, Epoch(head.epoch_low.into())).flow_key(CHANNEL, head.session, head.flow);
        let body = key.open_in_place(head.packet_number, header::LEN, datagram).expect("sealed by the channel");
        (head, body.to_vec())
    }

    /// Listens until `found` finds something.
    async fn until<T>(&mut self, what: &str, mut found: impl FnMut(&Self) -> Option<T>) -> T {
        let listening = async {
            loop {
                if let Some(found) = found(self) {
                    return found;
                }
                self.hear().await;
            }
        };
        tokio::time::timeout(PATIENCE, listening).await.unwrap_or_else(|_| panic!("never heard: {what}"))
    }

    async fn hear(&mut self) {
        let (mut advertised, mut content) = (Vec::new(), Vec::new());
        tokio::select! {
            heard = self.advertisements.recv(|_, datagram| advertised.push(datagram.to_vec())) => { heard.unwrap(); }
            heard = self.data.recv(|_, datagram| content.push(datagram.to_vec())) => { heard.unwrap(); }
        }
        for mut datagram in advertised {
            let (head, body) = self.open(&mut datagram);
            if head.datagram_type == DatagramType::Advertisement {
                let advertisement = Advertisement::decode(&body, &self.publisher, CHANNEL).unwrap();
                assert_eq!(advertisement.session.0, head.session);
                self.last = Some((advertisement, self.clock.now()));
            }
        }
        for mut datagram in content {
            let (head, body) = self.open(&mut datagram);
            assert_eq!((head.datagram_type, head.flow), (DatagramType::Symbol, Flow::Data));
            let (id, symbol) = SymbolId::read(&body).unwrap();
            self.symbols.entry((id.object, id.block)).or_default().insert(id.esi, symbol.to_vec());
            self.datagrams += 1;
        }
    }

    /// A block from its source symbols.
    fn block(&self, object: ObjectId, block: u32, length: usize) -> Option<Vec<u8>> {
        let symbols = self.symbols.get(&(object, block))?;
        let k = length.div_ceil(1400);
        let mut bytes = Vec::new();
        for esi in 0..k {
            bytes.extend(symbols.get(&u16::try_from(esi).unwrap())?);
        }
        bytes.truncate(length);
        Some(bytes)
    }

    fn one_block_object(&self, digest: Digest, length: u32) -> Option<Vec<u8>> {
        let geometry = Geometry::default();
        let bytes = self.block(geometry.object_id(&digest, length.into()), 0, length as usize)?;
        assert_eq!(Digest::of(&bytes), digest, "what was sent is what was promised");
        Some(bytes)
    }

    fn manifest(&self) -> Option<Manifest> {
        let reference = self.last.as_ref()?.0.manifest?;
        let root = self.one_block_object(reference.hash, reference.length)?;
        let root = decode_root(&root, &self.publisher, CHANNEL).unwrap();
        let parts: Option<BTreeMap<Digest, Vec<u8>>> =
            root.parts().map(|(digest, len)| Some((digest, self.one_block_object(digest, len)?))).collect();
        let parts = parts?;
        Some(root.assemble(|digest| parts.get(digest).map(|bytes| bytes.clone().into())).unwrap())
    }

    /// The manifest of a generation later than this one, when all its objects are here and right.
    fn dataset(&self, after: Generation) -> Option<Manifest> {
        let manifest = self.manifest().filter(|m| m.head().generation > after)?;
        for object in manifest.objects() {
            let mut whole = Vec::new();
            for block in 0..object.layout.block_count() {
                whole.extend(self.block(object.id, block, object.layout.block_len(block) as usize)?);
            }
            assert_eq!(Digest::of(&whole), object.digest);
        }
        Some(manifest)
    }

    /// Sends a NACK and waits for its signed answer.
    async fn nack(&mut self, demand: impl FnOnce(&mut Nack)) -> NackAnswer {
        let (advertisement, heard_at) = self.last.clone().unwrap();
        self.nacks += 1;
        let mut nack = Nack {
            channel: CHANNEL,
            session: advertisement.session,
            sequence: advertisement.sequence,
            time: advertisement.time,
            hold: self.clock.now().since(heard_at),
            manifest: advertisement.manifest.map_or(0, |m| m.hash.prefix()),
            generation: advertisement.generation,
            nonce: 99,
            ..Nack::default()
        };
        demand(&mut nack);
        let head = Header {
            datagram_type: DatagramType::Nack,
            flow: Flow::ToSender,
            epoch_low: 3,
            session: RUN,
            packet_number: self.nacks,
        };
        let mut datagram = Vec::new();
        let secret = self.master.epoch(CHANNEL, Epoch(3));
        head.seal(&secret.flow_key(CHANNEL, RUN, Flow::ToSender), &nack.encode(), &mut datagram);
        let to = SocketAddr::new("127.0.0.1".parse().unwrap(), advertisement.nack_port);
        // Rubbish first: it must not matter.
        self.unicast.send_to(&[0x5a; 700], to).await.unwrap();
        self.unicast.send_to(&datagram, to).await.unwrap();
        let mut buffer = vec![0; 2000];
        let (len, _) = tokio::time::timeout(PATIENCE, self.unicast.recv_from(&mut buffer)).await.unwrap().unwrap();
        let (head, body) = self.open(&mut buffer[..len]);
        assert_eq!((head.flow, head.session), (Flow::ToReceiver, advertisement.session.0));
        let answer = NackAnswer::decode(&body, Some(&self.sender)).unwrap();
        assert_eq!((answer.run.0, answer.nack, answer.nonce), (RUN, self.nacks, 99));
        answer
    }
}

fn noise(len: usize, seed: u8) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut bytes);
    bytes
}

fn soon() -> Once {
    Once { expect: None, linger: Duration::from_millis(300) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_is_sent_once_and_a_receiver_is_counted() {
    let place = Place::new("239.255.72.1:47201");
    place.write("large", &noise(1_500_000, 1));
    place.write("small", b"hello");
    place.write("empty", b"");
    place.write("not.tmp", b"left out");
    let mut listener = Listener::new(&place);
    let node = Running::start(place.config(Some(Once { expect: Some(1), linger: Duration::from_millis(300) })));
    listener.until("a manifest", |l| l.last.as_ref()?.0.manifest).await;
    assert!(listener.symbols.is_empty(), "it waits for one receiver");
    assert_eq!(listener.nack(|_| {}).await.status, NackStatus::Noted);
    let manifest = listener.until("everything", |l| l.dataset(Generation(0))).await;
    let names: Vec<_> = manifest.entries().iter().map(|e| e.path.to_string()).collect();
    assert_eq!(names, ["empty", "large", "small"]);
    listener.nack(|nack| nack.complete = true).await;
    let summary = node.end().await;
    assert!(summary.success, "{summary:?}");
    let channel = &summary.channels[0];
    assert_eq!((channel.receivers, channel.receivers_complete), (1, 1));
    assert_eq!(channel.generation, manifest.head().generation.0);
    assert!(channel.problems.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_expected_receivers_it_does_not_succeed() {
    let place = Place::new("239.255.72.2:47203");
    place.write("small", b"hello");
    let mut listener = Listener::new(&place);
    let node = Running::start(place.config(Some(Once { expect: Some(1), linger: Duration::from_millis(300) })));
    listener.until("a manifest", |l| l.last.as_ref()?.0.manifest).await;
    listener.nack(|_| {}).await;
    let summary = node.end().await;
    assert!(!summary.success && summary.channels[0].receivers_complete == 0, "{summary:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_sender_sends_what_nacks_ask_and_goes_on_counting() {
    let place = Place::new("239.255.72.3:47205");
    place.write("large", &noise(600_000, 2));
    let first = Running::start(place.config(Some(soon()))).end().await;
    assert!(first.success && first.channels[0].sent_bytes > 600_000, "{first:?}");

    let mut listener = Listener::new(&place);
    let mut config = place.config(None);
    config.schedule.max_passes = 2;
    config.schedule.period = Duration::ZERO;
    let node = Running::start(config);
    let (start, hash) = listener
        .until("a manifest", |l| l.last.as_ref().and_then(|(a, _)| Some((a.start_number, a.manifest?.hash))))
        .await;
    tokio::time::sleep(Duration::from_millis(700)).await;
    while tokio::time::timeout(Duration::from_millis(20), listener.hear()).await.is_ok() && listener.datagrams == 0 {}
    assert_eq!(listener.datagrams, 0, "nothing unasked");
    let root = Geometry::default().object_id(&hash, listener.last.as_ref().unwrap().0.manifest.unwrap().length.into());
    let answer = listener.nack(|nack| nack.missing_ids = vec![root]).await;
    assert_eq!(answer.status, NackStatus::Queued);
    listener
        .until("the root", |l| {
            let reference = l.last.as_ref()?.0.manifest?;
            l.one_block_object(reference.hash, reference.length)
        })
        .await;
    let large = Geometry::default().object_id(&Digest::of(&noise(600_000, 2)), 600_000);
    listener.nack(|nack| nack.missing_ids = vec![large]).await;
    listener.until("the file", |l| l.block(large, 2, 600_000 - 2 * 262_144)).await;
    node.shutdown.cancel();
    let second = node.end().await;
    assert!(second.success);
    assert_eq!(second.channels[0].generation, first.channels[0].generation, "nothing changed");

    // Two passes were made, one in each run: no more are left.
    let mut config = place.config(None);
    config.schedule.max_passes = 2;
    let node = Running::start(config);
    listener.last = None;
    let again = listener
        .until("a newer start", |l| {
            l.last.as_ref().filter(|(a, _)| a.start_number > start && a.manifest.is_some()).cloned()
        })
        .await;
    assert_eq!(again.0.manifest.unwrap().hash, hash);
    let answer = listener.nack(|nack| nack.missing_ids = vec![large]).await;
    assert_eq!(answer.unicast_ids, [large]);
    node.shutdown.cancel();
    node.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_what_changed_is_sent_in_the_next_generation() {
    let place = Place::new("239.255.72.4:47207");
    place.write("large", &noise(900_000, 3));
    let mut listener = Listener::new(&place);
    let mut config = place.config(None);
    config.watch = true;
    let node = Running::start(config);
    let first = listener.until("the first generation", |l| l.dataset(Generation(0))).await.head().generation;
    let before = listener.datagrams;
    place.write("new", &noise(300_000, 4));
    let manifest = listener.until("the second generation", |l| l.dataset(first)).await;
    assert_eq!(manifest.entries().len(), 2);
    let sent = listener.datagrams - before;
    assert!((215..250).contains(&sent), "{sent} datagrams for 300,000 bytes and a manifest");
    fs::rename(place.content().join("large"), place.content().join("renamed")).unwrap();
    let ask = Ask::Scan { deep: false, publish: false, allow_empty: false, reply: None };
    node.requests.send(control::Request { channel: 0, ask }).await.unwrap();
    let before = listener.datagrams;
    listener.until("the third generation", |l| l.dataset(manifest.head().generation)).await;
    // Each of its three blocks brings at least 8 repair symbols; the file has 643.
    let sent = listener.datagrams - before;
    assert!(sent < 60, "{sent} datagrams: a rename costs manifest bytes only");
    let shown = node.progress.borrow().clone();
    assert_eq!((shown.channels[0].name.as_str(), shown.channels.len()), ("news", 1));
    node.shutdown.cancel();
    assert!(node.end().await.success);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_vanishes_before_it_is_sent_is_named_and_the_rest_arrives() {
    let place = Place::new("239.255.72.5:47209");
    place.write("stays", &noise(300_000, 5));
    place.write("vanishes", &noise(400_000, 6));
    let mut listener = Listener::new(&place);
    let node = Running::start(place.config(Some(Once { expect: Some(1), linger: Duration::from_millis(300) })));
    let first = listener
        .until("a manifest", |l| l.last.as_ref().filter(|(a, _)| a.manifest.is_some()).map(|(a, _)| a.generation))
        .await;
    fs::remove_file(place.content().join("vanishes")).unwrap();
    listener.nack(|_| {}).await;
    let manifest = listener.until("the generation without it", |l| l.dataset(first)).await;
    assert_eq!(manifest.entries().len(), 1);
    listener.nack(|nack| nack.complete = true).await;
    let summary = node.end().await;
    assert!(!summary.success, "{summary:?}");
    assert!(summary.channels[0].problems.iter().any(|line| line.contains("vanishes")), "{summary:?}");
}

async fn refused(config: Config) -> String {
    let error = tokio::time::timeout(PATIENCE, Running::start(config).task).await.unwrap().unwrap().unwrap_err();
    assert!(error.is_usage(), "{error}");
    let line = error.to_string();
    assert!(!line.contains('\n'), "{line}");
    line
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mistakes_of_the_configuration_are_told_before_anything_is_sent() {
    let place = Place::new("239.255.72.6:47211");
    let told = |config| refused(config);
    let with = |change: &dyn Fn(&mut Config)| {
        let mut config = place.config(None);
        change(&mut config);
        config
    };
    assert!(told(with(&|c| c.channels[0].directory = "/no/such".into())).await.contains("/no/such"));
    assert!(told(with(&|c| c.interface = Some("no-such0".into()))).await.contains("no-such0"));
    assert!(told(with(&|c| c.channels[0].advertise.set_ip("192.0.2.1".parse().unwrap()))).await.contains("multicast"));
    assert!(told(with(&|c| c.exclude = vec!["[".into()])).await.contains("`[`"));
    assert!(told(with(&|c| c.state = place.content().join("state"))).await.contains("lies in"));
    assert!(told(with(&|c| c.channels.clear())).await.contains("no channel"));
    let taken = UnicastSocket::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    assert!(told(with(&|c| c.listen = taken.local_addr())).await.contains("in use"));
    place.write("x", b"x");
    assert!(told(with(&|c| c.channels[0].publisher = None)).await.contains("may serve but not publish"));
    let other = told(with(&|c| c.channels[0].channel = ChannelId([9; 16]))).await;
    assert!(other.contains("belongs to channel news"), "{other}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_key_serves_what_the_publisher_published_and_an_empty_directory_is_not_published() {
    let place = Place::new("239.255.72.7:47213");
    place.write("x", b"x");
    assert!(Running::start(place.config(Some(soon()))).end().await.success);
    let mut config = place.config(Some(soon()));
    config.channels[0].publisher = None;
    let summary = Running::start(config).end().await;
    assert!(summary.success && summary.channels[0].sent_bytes == 0, "{summary:?}");
    fs::remove_file(place.content().join("x")).unwrap();
    let line = refused(place.config(None)).await;
    assert!(line.contains("is empty") && line.contains("mounted"), "{line}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_manifest_in_the_state_costs_a_new_generation_and_not_the_numbering() {
    let place = Place::new("239.255.72.8:47215");
    place.write("x", b"x");
    let first = Running::start(place.config(Some(soon()))).end().await;
    assert!(first.success);
    let dir = place.state().join(format!("manifest-{CHANNEL}"));
    fs::write(Path::new(&dir).join("current"), b"../../etc/passwd\n").unwrap();
    let summary = Running::start(place.config(Some(soon()))).end().await;
    assert!(summary.channels[0].generation > first.channels[0].generation);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_garbage_on_the_nack_port_does_not_hold_up_sending() {
    let place = Place::new("239.255.72.9:47217");
    place.write("large", &noise(8_000_000, 7));
    let mut listener = Listener::new(&place);
    let node = Running::start(place.config(Some(Once { expect: Some(1), linger: Duration::from_millis(300) })));
    let port = listener
        .until("a manifest", |l| l.last.as_ref()?.0.manifest.map(|_| l.last.as_ref().unwrap().0.nack_port))
        .await;
    let flood = tokio::spawn(async move {
        let socket = UnicastSocket::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let to = SocketAddr::new("127.0.0.1".parse().unwrap(), port);
        let mut ticks = tokio::time::interval(Duration::from_millis(2));
        let mut count = 0_u64;
        loop {
            ticks.tick().await;
            for _ in 0..20 {
                count += 1;
                let mut datagram = noise(200, count.to_le_bytes()[0]);
                if count.is_multiple_of(2) {
                    // A header that is ours, for a key that nobody has.
                    let head = Header {
                        datagram_type: DatagramType::Nack,
                        flow: Flow::ToSender,
                        epoch_low: 3,
                        session: count,
                        packet_number: count,
                    };
                    head.write(datagram.first_chunk_mut().unwrap());
                }
                socket.send_to(&datagram, to).await.unwrap();
            }
        }
    });
    let begun = listener.clock.now();
    listener.nack(|_| {}).await;
    listener.until("everything", |l| (l.datagrams > 5714).then(|| l.dataset(Generation(0))).flatten()).await;
    let took = listener.clock.now().since(begun);
    flood.abort();
    // 0.7 s at the rate, and the manifest's time to settle before.
    assert!(took < Duration::from_secs(6), "{took:?}");
    listener.nack(|nack| nack.complete = true).await;
    assert!(node.end().await.success);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_channels_share_a_node_and_its_rate() {
    let place = Place::new("239.255.72.10:47219");
    place.write("x", &noise(100_000, 8));
    let mut config = place.config(Some(soon()));
    let mut other = place.config(None).channels.remove(0);
    other.channel = ChannelId([0x43; 16]);
    other.name = "films".to_owned();
    other.certificate = SenderCertificate::issue(&place.publisher, other.channel, place.sender.verifying_key());
    other.advertise = "239.255.72.11:47221".parse().unwrap();
    config.channels.push(other);
    let mut listener = Listener::new(&place);
    let node = Running::start(config);
    listener.until("everything of the first", |l| l.dataset(Generation(0))).await;
    let rate = listener.last.as_ref().unwrap().0.rate_bps;
    assert_eq!(rate, 50_000_000);
    let summary = node.end().await;
    assert!(summary.success);
    let names: Vec<_> = summary.channels.iter().map(|c| (c.name.as_str(), c.objects)).collect();
    assert_eq!(names, [("news", 1), ("films", 1)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_comes_soon_in_the_middle_of_a_file() {
    let place = Place::new("239.255.72.12:47223");
    place.write("large", &noise(5_000_000, 9));
    let mut listener = Listener::new(&place);
    let mut config = place.config(Some(soon()));
    config.rate = RateLimit::Fixed(BitRate(1_000_000));
    let node = Running::start(config);
    listener.until("some content", |l| (l.datagrams > 20).then_some(())).await;
    let begun = listener.clock.now();
    node.shutdown.cancel();
    let summary = node.end().await;
    assert!(listener.clock.now().since(begun) < Duration::from_secs(5));
    assert!(!summary.success, "it was interrupted");
}

/// Run by hand to see what the hot loop does: `cargo test --release -- --ignored throughput --nocapture`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn throughput_of_one_channel() {
    let place = Place::new("239.255.72.13:47225");
    place.write("large", &noise(30_000_000, 10));
    for rate in [RateLimit::Fixed(BitRate(100_000_000)), RateLimit::Fixed(BitRate(800_000_000)), RateLimit::Max] {
        let mut config = place.config(Some(soon()));
        config.rate = rate;
        config.state = place.dir.path().join(format!("state-{rate}"));
        let clock = Clock::start();
        let node = Running::start(config);
        let mut progress = node.progress.clone();
        let (mut begun, mut ended) = (None, Time::ZERO);
        while progress.changed().await.is_ok() {
            let now = progress.borrow_and_update().channels[0].clone();
            if now.wire_bytes > 0 {
                begun.get_or_insert((clock.now(), now.wire_bytes));
            }
            if now.objects > 0 && now.objects_done < now.objects || now.state == "sending" {
                ended = clock.now();
            }
            println!("{rate}: {:?} {} {} bit/s", clock.now(), now.state, now.rate_bps);
        }
        node.end().await;
        println!("{rate}: sent from {begun:?} to {ended:?}");
    }
}

/// Pulls from the node with this ticket: manifest, then every block of every object.
async fn pull(place: &Place, quic_port: u16, secret: &EpochSecret) -> Option<(Manifest, BTreeMap<ObjectId, Vec<u8>>)> {
    let publisher = place.publisher.verifying_key();
    let member = Member { channel: CHANNEL, epoch: Epoch(3), secret: secret.clone(), publisher, sender: None };
    let client = Client::new(&SigningKey::generate()).unwrap();
    let connection = client.connect(SocketAddr::new("127.0.0.1".parse().unwrap(), quic_port)).await.unwrap();
    let reply = connection.greet(&member.hello(Side::Client, connection.binding())).await.ok()?;
    let peer = member.check(Side::Server, connection.binding(), &reply).unwrap();
    assert_eq!(peer.sender, Some(place.sender.verifying_key()), "it proves to be the certified sender");
    let all = async |request: Request| {
        let (mut incoming, mut replies) = (connection.ask(&request.encode()).await.unwrap(), Vec::new());
        while let Some(reply) = incoming.next(1 << 20).await.unwrap() {
            replies.push(reply);
        }
        replies
    };
    let whole = async |object: ObjectId, blocks: u32| {
        let replies = all(Request::Blocks { object, blocks: 0..blocks.max(1) + 1 }).await;
        replies.into_iter().flat_map(|reply| Block::decode(reply).unwrap().data).collect::<Vec<u8>>()
    };
    let offer = Offer::decode(all(Request::Manifest).await.remove(0)).unwrap().unwrap();
    let root = decode_root(&offer.root, &publisher, CHANNEL).unwrap();
    let mut parts = BTreeMap::new();
    for (digest, length) in root.parts() {
        let bytes = whole(Geometry::default().object_id(&digest, length.into()), 1).await;
        assert_eq!(Digest::of(&bytes), digest);
        parts.insert(digest, bytes);
    }
    let manifest = root.assemble(|digest| parts.get(digest).map(|bytes| bytes.clone().into())).unwrap();
    let mut objects = BTreeMap::new();
    for object in manifest.objects() {
        objects.insert(object.id, whole(object.id, object.layout.block_count()).await);
    }
    let reply = all(Request::Probe { asker: None }).await.remove(0);
    let standing = ProbeReply::decode(&reply, &peer).unwrap().standing.unwrap();
    assert_eq!((standing.role, standing.state), (Role::Primary, SenderState::Active));
    assert!(standing.can_read && standing.can_send);
    Some((manifest, objects))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_has_the_ticket_may_pull_everything_and_nobody_else() {
    let place = Place::new("239.255.72.12:47212");
    place.write("large", &noise(1_500_000, 1));
    place.write("small", b"hello");
    let node = Running::start(place.config(None));
    let mut listener = Listener::new(&place);
    let port = listener.until("a manifest", |l| {
        let advertisement = &l.last.as_ref()?.0;
        advertisement.manifest.map(|_| advertisement.quic_port)
    });
    let port = port.await;
    assert_eq!(pull(&place, port, &EpochSecret::generate()).await, None, "an outsider");
    let (manifest, objects) = pull(&place, port, &place.secret).await.unwrap();
    assert!(manifest.objects().iter().all(|object| Digest::of(&objects[&object.id]) == object.digest));
    let given: usize = objects.values().map(Vec::len).sum();
    assert!(given >= 1_500_005);
    node.shutdown.cancel();
    let summary = node.end().await;
    assert!(summary.channels[0].unicast_bytes >= given as u64, "{}", summary.channels[0].unicast_bytes);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_epoch_is_announced_and_nothing_is_published_until_it_begins() {
    let place = Place::new("239.255.72.13:47213");
    place.write("first", b"hello");
    let node = Running::start(place.config(None));
    let mut listener = Listener::new(&place);
    let first = listener.until("a manifest", Listener::manifest).await.head().clone();
    assert_eq!(first.epoch, Epoch(3));
    let session = listener.last.as_ref().unwrap().0.session;
    let ask = async |ask| node.requests.send(control::Request { channel: 0, ask }).await.unwrap();
    let (reply, admitted) = tokio::sync::oneshot::channel();
    ask(Ask::Admit(Admission { epoch: Epoch(4), receivers: None }, reply)).await;
    admitted.await.unwrap().unwrap();
    place.write("second", b"world");
    let (reply, refused) = tokio::sync::oneshot::channel();
    ask(Ask::Scan { deep: false, publish: false, allow_empty: false, reply: Some(reply) }).await;
    assert!(matches!(refused.await.unwrap(), Err(control::Refusal::NotNow(_))), "the epoch is only announced");
    let announced = |l: &Listener| l.last.as_ref()?.0.next_epoch.map(|next| (next.epoch, l.last.clone()));
    let (epoch, last) = listener.until("the announcement", announced).await;
    let last = last.unwrap().0;
    assert_eq!((epoch, last.epoch, last.generation), (Epoch(4), Epoch(3), first.generation));
    let begun = listener.until("the next epoch", |l| l.manifest().filter(|m| m.head().epoch == Epoch(4))).await;
    assert!(begun.head().generation > first.generation && begun.entries().len() == 2);
    let last = &listener.last.as_ref().unwrap().0;
    assert!(last.epoch == Epoch(4) && last.session != session && last.next_epoch.is_none(), "{last:?}");
    // The former secret opens no door any more, the next one does.
    let quic = last.quic_port;
    assert_eq!(pull(&place, quic, &place.secret).await, None);
    // Nor does a key file from before take anything back.
    let (reply, admitted) = tokio::sync::oneshot::channel();
    ask(Ask::Admit(Admission { epoch: Epoch(3), receivers: None }, reply)).await;
    admitted.await.unwrap().unwrap();
    node.shutdown.cancel();
    node.end().await;
    let node = Running::start(place.config(None));
    let mut listener = Listener::new(&place);
    let again = |l: &Listener| l.last.as_ref().map(|(last, _)| (last.epoch, last.generation));
    let is_as_before = |l: &Listener| again(l).filter(|told| *told == (Epoch(4), begun.head().generation));
    listener.until("the epoch that was published, after a start with the old key file", is_as_before).await;
    node.shutdown.cancel();
    node.end().await;
}
