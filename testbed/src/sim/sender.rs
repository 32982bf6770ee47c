//! The sender of the simulated network: the daemon's own node, with what its driver and its state would do.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use nackcast_common::clock::Time;
use nackcast_common::control::Steer;
use nackcast_common::epochs::Epochs;
use nackcast_common::geometry::Layout;
use nackcast_common::ids::{ChannelId, Epoch, ObjectId, SessionId, StartNumber};
use nackcast_common::keys::{EpochSecret, SigningKey};
use nackcast_common::units::{BitRate, RateLimit};
use nackcast_proto::pull::Member;
use nackcast_proto::wire::{Role, SenderCertificate};
use nackcast_sender::RateBounds;
use nackcast_sender::ScheduleConfig;
use nackcast_sender::engine::{EngineConfig, Publication};
use nackcast_sender::node::{
    AdvertisementOpener, Datagrams, Heard, HeardNack, Made, MakeError, NackOpener, NodeConfig, Order, ScanResult,
    SenderNode, Work,
};
use nackcast_sender::role::hold::{LastStart, hold_off};
use nackcast_sender::role::{RoleConfig, RoleEvent};
use rand::rngs::Xoshiro256PlusPlus;
use rand::{Rng, RngExt, SeedableRng};

use super::content::Edition;
use super::network::flipped;
use super::scenario::SenderSpec;
use super::unicast::{self, Call, Replied, Server};

mod shelf;

use shelf::{SenderShelf, Served};

/// Time to read, verify and encode a block.
const MAKE: Duration = Duration::from_micros(600);
/// Time to store a pass count.
const STORE: Duration = Duration::from_micros(300);
/// Time to scan the directory.
const SCAN: Duration = Duration::from_millis(20);
/// Wall clock at the start of the world, in milliseconds.
const WALL: i64 = 1_700_000_000_000;

/// Keys and addresses of the channel.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The channel.
    pub channel: ChannelId,
    /// Signs manifests.
    pub publisher: SigningKey,
    /// Signs advertisements.
    pub sender: SigningKey,
    /// Seals.
    pub secret: EpochSecret,
    /// Where symbols go.
    pub data_group: SocketAddr,
    /// Where NACKs go.
    pub nack_port: u16,
}

impl Identity {
    /// The simulator has one epoch.
    fn epochs(&self) -> Epochs {
        Epochs::of_secret(self.channel, Epoch(1), self.secret.clone())
    }
}

/// Something that takes time.
#[derive(Debug)]
pub enum Task {
    /// A block was made.
    Made(Box<Made>),
    /// A pass count was stored.
    Recorded(ObjectId, u32),
    /// A directory was scanned.
    Scanned(u64),
    /// A start number was stored.
    Roll,
}

/// What the sender wants of the world.
#[derive(Debug)]
pub enum Want {
    /// Call [`Sender::done`] with it then.
    Later(Time, Task),
}

/// The sender.
#[derive(Debug)]
pub struct Sender {
    spec: SenderSpec,
    identity: Identity,
    random: Xoshiro256PlusPlus,
    node: Option<SenderNode>,
    opener: NackOpener,
    /// Counts starts.
    pub life: u32,
    /// Its role, and where its peers are.
    role: RoleConfig,
    last_start: Option<LastStart>,
    /// It stands still.
    paused: bool,
    /// Blocks cannot be read before.
    pub blind_until: Time,
    /// Bits flip in its memory before.
    pub bad_until: Time,
    /// The wall clock's error, in milliseconds.
    pub wall_error: i64,
    served: Arc<Mutex<Served>>,
    /// It gives blocks by unicast.
    gives: bool,
    server: Option<Server>,
    /// What its state keeps.
    stored_passes: BTreeMap<ObjectId, u32>,
    stored_number: u64,
    inbox: usize,
    wants: VecDeque<Want>,
    buffer: Vec<u8>,
    /// What lives before this one sent.
    sent_before: Volume,
}

/// What was sent to the data group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Volume {
    /// Bytes of datagrams.
    pub bytes: u64,
    /// Of these, repair.
    pub repair: u64,
}

impl Sender {
    /// A sender that does not run yet.
    #[must_use]
    pub fn new(spec: &SenderSpec, identity: Identity, edition: Arc<Edition>, seed: u64) -> Self {
        let opener = NackOpener::new(identity.epochs());
        Self {
            spec: spec.clone(),
            identity,
            random: Xoshiro256PlusPlus::seed_from_u64(seed ^ 0x5E4D),
            node: None,
            opener,
            life: 0,
            role: RoleConfig::new(Role::Primary, seed),
            last_start: None,
            paused: false,
            blind_until: Time::ZERO,
            bad_until: Time::ZERO,
            wall_error: 0,
            served: Arc::new(Mutex::new(Served::of(edition))),
            gives: false,
            server: None,
            stored_passes: BTreeMap::new(),
            stored_number: 0,
            inbox: 0,
            wants: VecDeque::new(),
            buffer: Vec::new(),
            sent_before: Volume::default(),
        }
    }

    /// Gives it another role; before its first start.
    #[must_use]
    pub fn with_role(mut self, role: RoleConfig) -> Self {
        self.role = role;
        self
    }

    /// Gives blocks by unicast; before its first start.
    #[must_use]
    pub const fn with_unicast(mut self, gives: bool) -> Self {
        self.gives = gives;
        self
    }

    /// As the daemon makes one: only the first of a run has what an earlier run counted.
    fn publication(&self, fresh: bool, counted: bool) -> Publication {
        let edition = self.served().edition();
        Publication {
            reference: edition.encoded.reference,
            manifest: Arc::clone(&edition.manifest),
            parts: layouts(&edition).map(|(id, layout, _)| (id, layout)).collect(),
            fresh,
            passes: self.stored_passes.iter().filter(|_| counted).map(|(id, count)| (*id, *count)).collect(),
        }
    }

    fn wall_ms(&self, now: Time) -> u64 {
        u64::try_from(WALL + self.wall_error + i64::try_from(now.0 / 1000).unwrap_or(0)).unwrap_or(0)
    }

    fn next_number(&mut self, now: Time) -> StartNumber {
        self.stored_number = (self.stored_number + 1).max(self.wall_ms(now));
        StartNumber(self.stored_number)
    }

    /// As the daemon's state keeps it.
    fn next_role(&mut self, now: Time) -> RoleConfig {
        let wall_ms = self.wall_ms(now);
        let hold = hold_off(self.role.hold_base(), self.last_start, wall_ms);
        self.last_start = Some(LastStart { wall_ms, hold });
        RoleConfig { hold_off: hold, seed: self.role.seed ^ u64::from(self.life), ..self.role.clone() }
    }

    /// Starts the process; only the first start finds a manifest that was never sent.
    pub fn start(&mut self, now: Time) {
        self.life += 1;
        let identity = &self.identity;
        let certificate =
            SenderCertificate::issue(&identity.publisher, identity.channel, identity.sender.verifying_key());
        let engine = EngineConfig {
            channel: identity.channel,
            session: SessionId(self.random.next_u64()),
            start_number: StartNumber(0),
            epoch: Epoch(1),
            role: self.role.role,
            certificate,
            data_group: identity.data_group,
            nack_port: identity.nack_port,
            quic_port: if self.gives { unicast::PORT } else { 0 },
            rate: if self.spec.auto { RateLimit::Auto } else { RateLimit::Fixed(BitRate(self.spec.rate_bps)) },
            auto: RateBounds { ceiling: BitRate(self.spec.rate_bps), ..RateBounds::default() },
            schedule: ScheduleConfig {
                max_jobs: self.spec.max_jobs,
                max_passes: self.spec.max_passes,
                period: Duration::from_millis(self.spec.period_ms),
                round_quiet: Duration::from_millis(self.spec.round_quiet_ms),
                interval: Duration::from_millis(250),
            },
            once: None,
        };
        let (epochs, signer) = (identity.epochs(), identity.sender.clone());
        let member = Member {
            channel: identity.channel,
            epoch: Epoch(1),
            secret: identity.secret.clone(),
            publisher: identity.publisher.verifying_key(),
            sender: Some((certificate, signer.clone())),
        };
        self.server = self.gives.then(|| Server::new(member, Arc::new(SenderShelf(Arc::clone(&self.served)))));
        let (start_number, role) = (self.next_number(now), self.next_role(now));
        let engine = EngineConfig { start_number, ..engine };
        let mut node = SenderNode::new(NodeConfig {
            name: "sim".into(),
            epochs,
            signer,
            publisher: self.identity.publisher.verifying_key(),
            role,
            engine,
        });
        self.opener = node.opener();
        node.publish(now, self.publication(self.life == 1 && self.role.role == Role::Primary, true));
        node.handle_timeout(now);
        self.node = Some(node);
        self.drain(now);
    }

    /// The process is gone.
    pub fn kill(&mut self) {
        self.sent_before = self.sent();
        (self.node, self.server) = (None, None);
        self.life += 1;
        (self.inbox, self.paused) = (0, false);
        self.wants.clear();
    }

    /// Whether what was being stored when the process ended is lost.
    pub fn loses_write(&mut self) -> bool {
        self.random.random_range(0..2) == 0
    }

    /// Whether the process runs.
    #[must_use]
    pub const fn is_up(&self) -> bool {
        self.node.is_some()
    }

    /// The node, if it runs.
    #[must_use]
    pub const fn node(&self) -> Option<&SenderNode> {
        self.node.as_ref()
    }

    /// What it sent in all its lives.
    #[must_use]
    pub fn sent(&self) -> Volume {
        let snapshot = self.node().map(SenderNode::snapshot).unwrap_or_default();
        let Volume { bytes, repair } = self.sent_before;
        Volume { bytes: bytes + snapshot.sent_bytes, repair: repair + snapshot.repair_bytes }
    }

    /// The process stands still, or goes on.
    pub fn pause(&mut self, paused: bool) {
        self.paused = paused && self.is_up();
    }

    /// A new generation is on its disk. If the process does not run, it finds it at its start.
    pub fn publish(&mut self, now: Time, edition: Arc<Edition>) {
        *self.served() = Served::of(edition);
        let publication = self.publication(self.role.role == Role::Primary, false);
        let Some(node) = &mut self.node else { return };
        node.handle_scanned(now, ScanResult { publication: Some(publication), is_read: true, ..ScanResult::default() });
        self.drain(now);
    }

    /// An admin's command; nobody hears it while the process does not run, or stands still.
    pub fn steer(&mut self, now: Time, steer: Steer) {
        if self.paused {
            return;
        }
        let Some(node) = &mut self.node else { return };
        if let Err(refusal) = node.steer(now, steer) {
            debug_assert!(false, "a node that does not end takes commands: {refusal}");
        }
        self.drain(now);
    }

    /// Begins a new session.
    pub fn roll(&mut self, now: Time) {
        let (session, number) = (SessionId(self.random.next_u64()), self.next_number(now));
        let Some(node) = &mut self.node else { return };
        node.roll(now, session, number);
        self.drain(now);
    }

    /// A datagram reaches the socket: when it will have been read; none when it finds no room.
    pub fn arrives(&mut self, now: Time, busy_until: Time) -> Option<Time> {
        if self.node.is_none() || self.inbox >= self.spec.inbox {
            return None;
        }
        self.inbox += 1;
        Some(busy_until.max(now) + Duration::from_micros(self.spec.read_us))
    }

    /// A datagram is read.
    pub fn read(&mut self, now: Time, from: SocketAddr, datagram: &Bytes) -> Option<HeardNack> {
        self.inbox = self.inbox.saturating_sub(1);
        let mut bytes = BytesMut::from(&datagram[..]);
        let node = self.node.as_mut()?;
        let nack = match self.opener.open(from, &mut bytes).ok()? {
            Heard::Nack(heard) => {
                node.handle_nack(now, &heard);
                Some(heard)
            }
            Heard::Probe(heard) => {
                node.handle_probe(now, &heard);
                None
            }
        };
        self.drain(now);
        nack.map(|nack| *nack)
    }

    /// An advertisement of another sender arrives.
    pub fn overhear(&mut self, now: Time, from: SocketAddr, datagram: &Bytes) {
        let identity = &self.identity;
        let mut opener = AdvertisementOpener {
            epochs: identity.epochs(),
            publisher: identity.publisher.verifying_key(),
            own: identity.sender.verifying_key(),
        };
        let (Some(node), Some(said)) = (&mut self.node, opener.open(&mut BytesMut::from(&datagram[..]))) else {
            return;
        };
        node.handle_advertisement(now, from, &said);
        self.drain(now);
    }

    /// The next thing that its role tells people.
    pub fn poll_role_event(&mut self) -> Option<RoleEvent> {
        self.node.as_mut()?.poll_role_event()
    }

    /// Whether it stands still: datagrams wait in its inbox.
    #[must_use]
    pub const fn is_paused(&self) -> bool {
        self.paused
    }

    /// Something that takes time is over.
    pub fn done(&mut self, now: Time, task: Task) {
        if let Task::Recorded(object, count) = task {
            // Stored, whether the process still runs or not.
            self.stored_passes.insert(object, count);
        }
        let Some(node) = &mut self.node else { return };
        match task {
            Task::Made(made) => node.handle_made(now, *made),
            Task::Recorded(object, _) => node.handle_recorded(now, &[object]),
            Task::Scanned(answers) => {
                let is_read = now >= self.blind_until;
                node.handle_scanned(now, ScanResult { is_read, answers, ..ScanResult::default() });
                if !is_read {
                    self.wants.push_back(Want::Later(now + SCAN * 10, Task::Scanned(answers)));
                }
            }
            Task::Roll => return self.roll(now),
        }
        self.drain(now);
    }

    /// A deadline may have passed.
    pub fn wake(&mut self, now: Time) {
        if self.paused {
            return;
        }
        let Some(node) = &mut self.node else { return };
        node.handle_timeout(now);
        self.drain(now);
    }

    /// When it wants to be woken.
    #[must_use]
    pub fn deadline(&self, now: Time) -> Option<Time> {
        if self.paused {
            return None;
        }
        self.node.as_ref()?.poll_deadline(now).map(|deadline| deadline.at)
    }

    /// The next datagrams, each of the size that [`Datagrams`] says.
    pub fn transmit(&mut self, now: Time) -> Option<(Datagrams, Bytes)> {
        if self.paused {
            return None;
        }
        let datagrams = self.node.as_mut()?.poll_transmit(now, &mut self.buffer)?;
        let bytes = Bytes::copy_from_slice(&self.buffer);
        self.drain(now);
        Some((datagrams, bytes))
    }

    /// The next thing that it wants.
    pub fn poll(&mut self) -> Option<Want> {
        self.wants.pop_front()
    }

    fn drain(&mut self, now: Time) {
        while let Some(work) = self.node.as_mut().and_then(SenderNode::poll_work) {
            let (after, task) = match work {
                Work::Make(order) => (MAKE, Task::Made(Box::new(self.make(now, order)))),
                Work::RecordPass { object, count } => (STORE, Task::Recorded(object, count)),
                Work::Rescan { number, .. } => (SCAN, Task::Scanned(number)),
                Work::Roll => (STORE, Task::Roll),
                // Senders of the simulator know each other by the NACK port only.
                Work::Call(_) => continue,
            };
            self.wants.push_back(Want::Later(now + after, task));
        }
    }

    fn make(&mut self, now: Time, order: Order) -> Made {
        let flip = (now < self.bad_until && self.random.random_range(0..2) == 0).then(|| self.random.next_u64());
        let served = self.served_at(now);
        order.make(|(object, block)| {
            let (layout, bytes) = served.read(object, block).ok_or(MakeError::NoSuchObject)?;
            let flip = flip.filter(|_| !served.is_part(object));
            Ok((layout, flip.map_or(bytes.clone(), |bit| flipped(&bytes, bit))))
        })
    }

    fn served(&self) -> MutexGuard<'_, Served> {
        self.served.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// With what it can read now.
    fn served_at(&self, now: Time) -> MutexGuard<'_, Served> {
        let mut served = self.served();
        served.is_blind = now < self.blind_until;
        served
    }

    /// Begins to answer a request of unicast; false when nobody listens, or the caller is refused.
    pub fn answer(&mut self, call: Call, caller: &Member, request: &[u8]) -> bool {
        self.server.as_mut().is_some_and(|server| server.begin(call, caller, request))
    }

    /// The next reply, and what it took to make it.
    pub fn reply(&mut self, now: Time, call: Call) -> (Replied, Duration) {
        drop(self.served_at(now));
        (self.server.as_mut().map_or(Replied::Unknown, |server| server.next(call)), MAKE)
    }
}

/// Root and parts of a manifest, as objects.
pub fn layouts(edition: &Edition) -> impl Iterator<Item = (ObjectId, Layout, Bytes)> + '_ {
    let geometry = edition.encoded.reference.geometry;
    std::iter::once(&edition.encoded.root).chain(&edition.encoded.parts).filter_map(move |part| {
        let len = part.bytes.len() as u64;
        Some((geometry.object_id(&part.digest, len), geometry.object(len).ok()?, part.bytes.clone()))
    })
}
