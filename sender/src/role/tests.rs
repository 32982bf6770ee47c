//! Role machines on a network in virtual time.

use std::collections::BTreeSet;

use nackcast_common::geometry::Geometry;
use nackcast_common::ids::{ChannelId, Digest, Epoch, Generation};
use nackcast_common::keys::{Signature, VerifyingKey};
use nackcast_proto::wire::{ManifestRef, SenderCertificate};

use super::*;

const CHANNEL: ChannelId = ChannelId([7; 16]);
const STEP: Duration = Duration::from_millis(5);
const PRIMARY: usize = 0;
const BACKUP: usize = 1;
const SECOND: usize = 2;

#[derive(Debug)]
struct Node {
    machine: RoleMachine,
    role: Role,
    rank: u32,
    session: u64,
    key: u8,
    is_up: bool,
    is_frozen: bool,
    sequence: u64,
    advertise_at: Time,
    /// Blocks that are being sent end so long after the state says so.
    finishing: Duration,
    drained_at: Option<Time>,
    served: u32,
    forwarded: Vec<SessionId>,
    events: Vec<RoleEvent>,
    states: Vec<State>,
}

impl Node {
    fn standing(&self, now: Time) -> Standing {
        let (can_read, can_send) = self.machine.able();
        Standing {
            channel: CHANNEL,
            session: SessionId(self.session),
            start_number: StartNumber(self.session),
            certificate: certificate(self.key),
            role: self.role,
            rank: self.rank,
            state: self.machine.state().told(),
            can_read,
            can_send,
            sequence: self.sequence,
            time: now.0,
        }
    }

    fn runs(&self) -> bool {
        self.is_up && !self.is_frozen
    }
}

fn certificate(key: u8) -> SenderCertificate {
    SenderCertificate { sender_key: VerifyingKey([key; 32]), signature: Signature([0; 64]) }
}

fn advertisement(node: &Node, now: Time) -> Advertisement {
    let manifest = ManifestRef { hash: Digest::of(b"root"), length: 700, geometry: Geometry::default() };
    Advertisement {
        channel: CHANNEL,
        session: SessionId(node.session),
        epoch: Epoch(1),
        sequence: node.sequence,
        start_number: StartNumber(node.session),
        time: now.0,
        wall_ms: 0,
        next_epoch: None,
        reading_every: Duration::ZERO,
        interval: interval(node.machine.state().told()),
        generation: Generation(1),
        manifest: node.machine.able().0.then_some(manifest),
        certificate: certificate(node.key),
        role: node.role,
        state: node.machine.state().told(),
        data_group: "239.1.1.1:7601".parse().unwrap(),
        nack_port: 7701,
        quic_port: 0,
        grtt: Duration::ZERO,
        nack_window: Duration::ZERO,
        group_size: 0,
        max_passes: 1,
        rate_bps: 0,
        first_pass_cursor: 0,
        first_pass_since: Generation(0),
        finished: Vec::new(),
        data_packets: 0,
        manifest_sent: true,
        list: 0,
        rank: node.rank,
    }
}

const fn interval(state: SenderState) -> Duration {
    match state {
        SenderState::Active | SenderState::Draining | SenderState::Starting => Duration::from_millis(250),
        SenderState::Standby | SenderState::Paused => Duration::from_secs(1),
    }
}

fn address(node: usize) -> SocketAddr {
    format!("192.0.2.{}:7701", node + 1).parse().unwrap()
}

/// A primary, a backup and a second one; each has its peers configured.
struct World {
    now: Time,
    nodes: Vec<Node>,
    runs: u64,
    /// Pairs (from, to) that unicast or multicast does not cross.
    no_unicast: BTreeSet<(usize, usize)>,
    no_multicast: BTreeSet<(usize, usize)>,
    /// QUIC crosses what no other unicast does.
    has_quic: bool,
    /// (at, from, to, nonce, an answer's standing)
    flying: Vec<(Time, usize, usize, u64, Option<Standing>)>,
    /// Last times at which two were active.
    both_active: Duration,
}

impl World {
    fn new(nodes: usize) -> Self {
        let mut world = Self {
            now: Time(1_000_000),
            nodes: Vec::new(),
            runs: 0,
            no_unicast: BTreeSet::new(),
            no_multicast: BTreeSet::new(),
            has_quic: false,
            flying: Vec::new(),
            both_active: Duration::ZERO,
        };
        for at in 0..nodes {
            let node = world.node(at, Duration::ZERO);
            world.nodes.push(node);
        }
        world
    }

    fn node(&mut self, at: usize, hold_off: Duration) -> Node {
        self.runs += 1;
        let (role, rank) = if at == PRIMARY { (Role::Primary, 0) } else { (Role::Backup, at as u32 - 1) };
        let peers = (0..3).filter(|peer| *peer != at).map(address).collect();
        let config = RoleConfig { rank, peers, hold_off, ..RoleConfig::new(role, self.runs) };
        let session = self.runs;
        Node {
            machine: RoleMachine::new(config, SessionId(session), StartNumber(session)),
            role,
            rank,
            session,
            key: at as u8,
            is_up: false,
            is_frozen: false,
            sequence: 0,
            advertise_at: Time::ZERO,
            finishing: Duration::from_millis(200),
            drained_at: None,
            served: 0,
            forwarded: Vec::new(),
            events: Vec::new(),
            states: Vec::new(),
        }
    }

    fn start(&mut self, at: usize) {
        self.start_holding(at, Duration::ZERO);
    }

    fn start_holding(&mut self, at: usize, hold_off: Duration) {
        self.nodes[at] = self.node(at, hold_off);
        self.nodes[at].is_up = true;
        let now = self.now;
        self.nodes[at].machine.handle_content(now);
        self.drain(at);
    }

    /// Primary and backups run, and the primary serves.
    fn settled(nodes: usize) -> Self {
        let mut world = Self::new(nodes);
        (0..nodes).for_each(|at| world.start(at));
        world.run(Duration::from_secs(2));
        assert_eq!(world.state(PRIMARY), State::Active);
        assert!((1..nodes).all(|at| world.state(at) == State::Standby));
        world
    }

    fn state(&self, at: usize) -> State {
        self.nodes[at].machine.state()
    }

    fn nack(&mut self, at: usize, run: u64) {
        if !self.nodes[at].runs() {
            return;
        }
        let now = self.now;
        let from = "192.0.2.99:4000".parse().unwrap();
        let verdict = self.nodes[at].machine.handle_demand(now, RunId(run), from);
        self.nodes[at].served += u32::from(verdict == Verdict::Serve);
        self.drain(at);
    }

    fn drain(&mut self, at: usize) {
        let now = self.now;
        while let Some(action) = self.nodes[at].machine.poll_action() {
            match action {
                Action::Probe { to, nonce } => {
                    if let Some(to) = (0..self.nodes.len()).find(|peer| address(*peer) == to) {
                        self.flying.push((now + STEP, at, to, nonce, None));
                    }
                }
                Action::Become(state) => {
                    let node = &mut self.nodes[at];
                    node.advertise_at = now;
                    node.drained_at = (state == SenderState::Draining).then(|| now + node.finishing);
                }
                Action::ServeHeld => self.nodes[at].served += 1,
                Action::Disregard(serving) => self.nodes[at].forwarded.push(serving.precedence.session),
            }
        }
        while let Some(event) = self.nodes[at].machine.poll_event() {
            if let RoleEvent::Changed { to, .. } = &event {
                self.nodes[at].states.push(*to);
            }
            self.nodes[at].events.push(event);
        }
    }

    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.now += STEP;
            let now = self.now;
            let due: Vec<_> = self.flying.iter().copied().filter(|(at, ..)| *at <= now).collect();
            self.flying.retain(|(at, ..)| *at > now);
            for (_, from, to, nonce, answer) in due {
                let path = match self.no_unicast.contains(&(from, to)) {
                    _ if !self.nodes[to].runs() => continue,
                    false => Path::NackPort,
                    true if self.has_quic => Path::Quic { came: now, took: STEP * 2 },
                    true => continue,
                };
                let machine = &mut self.nodes[to].machine;
                match answer {
                    Some(standing) => machine.handle_answer(now, path, address(from), nonce, &standing),
                    None => {
                        let asker = self.nodes[from].standing(now);
                        self.nodes[to].machine.handle_question(now, &asker);
                        let standing = self.nodes[to].standing(now);
                        self.flying.push((now + STEP, to, from, nonce, Some(standing)));
                    }
                }
                self.drain(to);
            }
            for at in 0..self.nodes.len() {
                if self.nodes[at].runs() {
                    self.tick(at);
                }
            }
            let active = self.nodes.iter().filter(|n| n.runs() && n.machine.state().told() == SenderState::Active);
            if active.count() > 1 {
                self.both_active += STEP;
            }
        }
    }

    fn tick(&mut self, at: usize) {
        let now = self.now;
        if self.nodes[at].drained_at.is_some_and(|due| now >= due) {
            self.nodes[at].drained_at = None;
            self.nodes[at].machine.handle_drained(now);
        }
        if self.nodes[at].machine.poll_deadline().is_some_and(|deadline| now >= deadline.at) {
            self.nodes[at].machine.handle_timeout(now);
        }
        self.drain(at);
        if now >= self.nodes[at].advertise_at {
            self.nodes[at].sequence += 1;
            let told = self.nodes[at].machine.state().told();
            self.nodes[at].advertise_at = now + interval(told);
            let said = advertisement(&self.nodes[at], now);
            for to in (0..self.nodes.len()).filter(|to| *to != at) {
                if self.nodes[to].runs() && !self.no_multicast.contains(&(at, to)) {
                    self.nodes[to].machine.handle_advertisement(now, address(at), &said);
                    self.drain(to);
                }
            }
        }
    }

    fn cut(&mut self, a: usize, b: usize) {
        self.no_unicast.extend([(a, b), (b, a)]);
        self.no_multicast.extend([(a, b), (b, a)]);
    }

    fn heal(&mut self) {
        self.no_unicast.clear();
        self.no_multicast.clear();
    }

    fn alerts(&self, at: usize) -> Vec<&OnlyBackupReached> {
        let events = self.nodes[at].events.iter();
        events.filter_map(|e| if let RoleEvent::OnlyBackupReached(told) = e { Some(told) } else { None }).collect()
    }

    fn two_active(&self, at: usize) -> usize {
        self.nodes[at].events.iter().filter(|e| matches!(e, RoleEvent::TwoActive { .. })).count()
    }
}

#[test]
fn a_lone_primary_begins_at_once_and_a_lone_backup_waits() {
    let mut primary = RoleMachine::new(RoleConfig::new(Role::Primary, 1), SessionId(1), StartNumber(1));
    primary.handle_content(Time(5));
    assert_eq!(primary.state(), State::Active);
    assert_eq!(primary.poll_action(), Some(Action::Become(SenderState::Active)));
    let mut backup = RoleMachine::new(RoleConfig::new(Role::Backup, 1), SessionId(1), StartNumber(1));
    backup.handle_content(Time(5));
    assert_eq!(backup.state(), State::Standby);
    assert_eq!(backup.handle_demand(Time(6), RunId(1), address(5)), Verdict::Hold);
    assert_eq!(backup.state(), State::Active, "there is nobody to ask");
}

#[test]
fn a_sender_without_content_neither_starts_nor_takes_over() {
    let mut backup = RoleMachine::new(RoleConfig::new(Role::Backup, 1), SessionId(1), StartNumber(1));
    assert_eq!(backup.handle_demand(Time(6), RunId(1), address(5)), Verdict::Ignore);
    assert_eq!(backup.state(), State::Waiting);
}

#[test]
fn a_primary_without_an_answer_starts_after_its_questions() {
    let mut world = World::new(2);
    world.start(PRIMARY);
    assert_eq!(world.state(PRIMARY), State::Asking);
    world.run(PROBE_TIMEOUT * (PROBE_TRIES + 1));
    assert_eq!(world.state(PRIMARY), State::Active);
}

#[test]
fn a_dead_primary_is_replaced_and_the_nack_is_served() {
    let mut world = World::settled(2);
    world.nodes[PRIMARY].is_up = false;
    world.run(Duration::from_millis(1150));
    world.nack(BACKUP, 1);
    assert_eq!(world.state(BACKUP), State::Probing);
    world.run(PROBE_TIMEOUT * (PROBE_TRIES + 1));
    assert_eq!((world.state(BACKUP), world.nodes[BACKUP].served), (State::Active, 1));
    assert!(world.alerts(BACKUP).is_empty());
}

#[test]
fn a_frozen_primary_is_replaced_and_has_the_channel_again_when_it_goes_on() {
    let mut world = World::settled(2);
    world.nodes[PRIMARY].is_frozen = true;
    world.run(Duration::from_secs(1));
    world.nack(BACKUP, 1);
    world.run(Duration::from_secs(2));
    assert_eq!(world.state(BACKUP), State::Active);
    world.nodes[PRIMARY].is_frozen = false;
    world.run(Duration::from_secs(3));
    assert_eq!((world.state(PRIMARY), world.state(BACKUP)), (State::Active, State::Standby));
    assert!(world.both_active <= overlap_max(Duration::from_secs(10)), "{:?}", world.both_active);
    assert_eq!(world.two_active(PRIMARY), 0, "a hand-over is no alert");
}

#[test]
fn an_advertisement_just_before_the_death_is_waited_out_and_decides_nothing() {
    let mut world = World::settled(2);
    world.nodes[PRIMARY].is_up = false;
    world.nack(BACKUP, 1);
    world.run(PROBE_TIMEOUT * (PROBE_TRIES + 1));
    assert_eq!(world.state(BACKUP), State::Probing, "it was heard less than three intervals ago");
    world.run(Duration::from_millis(750));
    assert_eq!(world.state(BACKUP), State::Active);
}

#[test]
fn a_nack_while_the_primary_serves_is_forwarded_and_the_second_one_is_an_alert() {
    let mut world = World::settled(2);
    world.run(GRACE);
    world.nack(BACKUP, 1);
    world.nack(BACKUP, 1);
    world.run(Duration::from_secs(1));
    assert_eq!((world.state(BACKUP), world.nodes[BACKUP].served), (State::Standby, 0));
    assert_eq!(world.nodes[BACKUP].forwarded, [SessionId(world.nodes[PRIMARY].session)]);
    assert!(world.alerts(BACKUP).is_empty(), "datagrams of one burst are one NACK");
    world.run(Duration::from_secs(58));
    world.nack(BACKUP, 2);
    world.run(Duration::from_secs(1));
    let alerts = world.alerts(BACKUP);
    assert_eq!((alerts.len(), alerts[0].count, alerts[0].receivers.len()), (1, 2, 2));
    assert!(alerts[0].saw.contains("Active"), "{}", alerts[0].saw);
    world.run(Duration::from_secs(61));
    assert_eq!(world.nodes[BACKUP].events.last(), Some(&RoleEvent::OnlyBackupReachedOver));
}

#[test]
fn receivers_that_can_not_have_heard_the_primary_yet_are_no_alert() {
    let mut world = World::settled(2);
    world.nack(BACKUP, 1);
    world.nack(BACKUP, 2);
    world.run(Duration::from_secs(1));
    assert_eq!(world.nodes[BACKUP].forwarded, [SessionId(world.nodes[PRIMARY].session)]);
    assert!(world.alerts(BACKUP).is_empty());
}

#[test]
fn two_nacks_more_than_a_minute_apart_are_no_alert() {
    let mut world = World::settled(2);
    for run in 0..3 {
        world.nack(BACKUP, run);
        world.run(Duration::from_secs(61));
    }
    assert!(world.alerts(BACKUP).is_empty());
    assert_eq!(world.nodes[BACKUP].forwarded.len(), 3);
}

#[test]
fn content_that_can_be_read_again_ends_blindness() {
    let mut world = World::settled(2);
    let now = world.now;
    world.nodes[PRIMARY].machine.handle_able(now, false, true);
    world.run(Duration::from_secs(1));
    assert_eq!(world.state(PRIMARY), State::Blind);
    let now = world.now;
    world.nodes[PRIMARY].machine.handle_content(now);
    world.run(Duration::from_secs(1));
    assert_eq!(world.state(PRIMARY), State::Active);
}

#[test]
fn alive_is_not_serving() {
    // What happens to the primary, and what it then does.
    let pause = |world: &mut World| world.nodes[PRIMARY].machine.handle_command(world.now, RoleCommand::Pause);
    let drain = |world: &mut World| world.nodes[PRIMARY].machine.handle_command(world.now, RoleCommand::Drain);
    let blind = |world: &mut World| world.nodes[PRIMARY].machine.handle_able(world.now, false, true);
    let mute = |world: &mut World| world.nodes[PRIMARY].machine.handle_able(world.now, true, false);
    type Happens<'a> = &'a dyn Fn(&mut World);
    let cases = [
        (&pause as Happens<'_>, State::Paused),
        (&drain, State::Drained),
        (&blind, State::Blind),
        (&mute, State::Blind),
    ];
    for (happens, then) in cases {
        let mut world = World::settled(2);
        happens(&mut world);
        world.drain(PRIMARY);
        world.run(Duration::from_secs(1));
        assert_eq!(world.state(PRIMARY), then);
        world.nack(BACKUP, 1);
        world.run(Duration::from_secs(1));
        assert_eq!((world.state(BACKUP), world.nodes[BACKUP].served), (State::Active, 1), "{then:?}");
        // And back, when it can again.
        let now = world.now;
        world.nodes[PRIMARY].machine.handle_command(now, RoleCommand::Resume);
        world.nodes[PRIMARY].machine.handle_able(now, true, true);
        world.drain(PRIMARY);
        world.run(Duration::from_secs(4));
        assert_eq!((world.state(PRIMARY), world.state(BACKUP)), (State::Active, State::Standby), "{then:?}");
    }
}

#[test]
fn a_primary_that_returns_waits_until_the_backup_is_done() {
    let mut world = World::settled(2);
    world.nodes[PRIMARY].is_up = false;
    world.run(Duration::from_secs(2));
    world.nack(BACKUP, 1);
    world.run(Duration::from_secs(5));
    assert_eq!(world.state(BACKUP), State::Active);
    world.nodes[BACKUP].finishing = Duration::from_secs(3);
    world.start(PRIMARY);
    world.run(Duration::from_secs(1));
    assert!(matches!(world.state(PRIMARY), State::HoldingOff { .. }), "{:?}", world.state(PRIMARY));
    assert!(matches!(world.state(BACKUP), State::Draining { for_good: false, .. }));
    world.run(Duration::from_secs(3));
    assert_eq!((world.state(PRIMARY), world.state(BACKUP)), (State::Active, State::Standby));
    assert_eq!(world.both_active, Duration::ZERO);
    // Receivers that did not hear of it yet are no alert.
    world.nack(BACKUP, 2);
    world.nack(BACKUP, 3);
    world.run(Duration::from_secs(1));
    assert!(world.alerts(BACKUP).is_empty());
    assert_eq!(world.nodes[BACKUP].forwarded.len(), 1);
}

#[test]
fn a_backup_that_never_says_done_is_waited_for_only_so_long() {
    let mut world = World::settled(2);
    world.nodes[PRIMARY].is_up = false;
    world.run(Duration::from_secs(2));
    world.nack(BACKUP, 1);
    world.run(Duration::from_secs(2));
    world.nodes[BACKUP].finishing = Duration::from_secs(3600);
    world.start(PRIMARY);
    let base = Duration::from_secs(12);
    world.run(base + Duration::from_secs(2));
    assert_eq!((world.state(PRIMARY), world.state(BACKUP)), (State::Active, State::Standby));
}

#[test]
fn a_primary_whose_returns_failed_leaves_the_channel_to_the_backup_for_longer() {
    let mut world = World::settled(2);
    world.nodes[PRIMARY].is_up = false;
    world.run(Duration::from_secs(2));
    world.nack(BACKUP, 1);
    world.run(Duration::from_secs(2));
    world.start_holding(PRIMARY, Duration::from_secs(96));
    world.run(Duration::from_secs(80));
    assert!(matches!(world.state(PRIMARY), State::Penalty { .. }));
    assert_eq!(world.state(BACKUP), State::Active);
    world.run(Duration::from_secs(10));
    assert_eq!((world.state(PRIMARY), world.state(BACKUP)), (State::Active, State::Standby));
}

#[test]
fn backups_act_by_rank() {
    let mut world = World::settled(3);
    world.nodes[PRIMARY].is_up = false;
    world.run(Duration::from_secs(2));
    // A receiver that does not reach the first backup asks the second, which leaves it to the first.
    world.nack(SECOND, 1);
    world.run(Duration::from_secs(1));
    assert_eq!(world.state(SECOND), State::Standby);
    assert_eq!(world.nodes[SECOND].forwarded, [SessionId(world.nodes[BACKUP].session)]);
    world.nack(BACKUP, 1);
    world.run(Duration::from_secs(1));
    assert_eq!(world.state(BACKUP), State::Active);
    world.nodes[BACKUP].is_up = false;
    world.run(Duration::from_secs(1));
    world.nack(SECOND, 1);
    world.run(Duration::from_secs(1));
    assert_eq!(world.state(SECOND), State::Active);
    // The better one comes back and is not needed; asked, it leaves the channel to who serves.
    world.start(BACKUP);
    world.run(Duration::from_secs(1));
    world.nack(BACKUP, 2);
    world.run(Duration::from_secs(1));
    assert_eq!((world.state(BACKUP), world.state(SECOND)), (State::Standby, State::Active));
    world.start(PRIMARY);
    world.run(Duration::from_secs(4));
    assert_eq!((world.state(PRIMARY), world.state(SECOND)), (State::Active, State::Standby));
}

#[test]
fn after_a_partition_one_remains() {
    let mut world = World::settled(2);
    world.cut(PRIMARY, BACKUP);
    world.run(Duration::from_secs(2));
    world.nack(BACKUP, 1);
    world.run(Duration::from_secs(20));
    assert_eq!((world.state(PRIMARY), world.state(BACKUP)), (State::Active, State::Active));
    world.heal();
    world.both_active = Duration::ZERO;
    world.run(overlap_max(Duration::from_secs(10)) + Duration::from_secs(1));
    assert_eq!((world.state(PRIMARY), world.state(BACKUP)), (State::Active, State::Standby));
    assert!(world.both_active < Duration::from_secs(2), "{:?}", world.both_active);
}

#[test]
fn paths_that_disagree_a_fresh_answer_decides_else_an_advertisement() {
    // Multicast only: the advertisement decides.
    let mut world = World::settled(2);
    world.no_unicast.extend([(PRIMARY, BACKUP), (BACKUP, PRIMARY)]);
    world.run(Duration::from_secs(5));
    world.nack(BACKUP, 1);
    world.run(Duration::from_secs(2));
    assert_eq!((world.state(BACKUP), world.nodes[BACKUP].forwarded.len()), (State::Standby, 1));
    // Unicast only: the answer does.
    let mut world = World::settled(2);
    world.no_multicast.extend([(PRIMARY, BACKUP), (BACKUP, PRIMARY)]);
    world.run(Duration::from_secs(5));
    world.nack(BACKUP, 1);
    world.run(Duration::from_secs(2));
    assert_eq!((world.state(BACKUP), world.nodes[BACKUP].forwarded.len()), (State::Standby, 1));
    // It says by unicast that it is paused: that decides, whatever was advertised just before.
    let mut world = World::settled(2);
    world.no_multicast.insert((PRIMARY, BACKUP));
    world.nodes[PRIMARY].machine.handle_command(world.now, RoleCommand::Pause);
    world.drain(PRIMARY);
    world.nack(BACKUP, 1);
    world.run(PROBE_TIMEOUT * (PROBE_TRIES + 1));
    assert_eq!(world.state(BACKUP), State::Active, "its advertisement is younger than three intervals");
}

#[test]
fn a_sender_that_only_quic_reaches_serves_and_returns() {
    let mut world = World::settled(2);
    world.cut(PRIMARY, BACKUP);
    world.has_quic = true;
    world.run(Duration::from_secs(5));
    world.nack(BACKUP, 1);
    world.run(Duration::from_secs(2));
    assert_eq!((world.state(BACKUP), world.nodes[BACKUP].forwarded.len()), (State::Standby, 1));
    world.nodes[PRIMARY].is_up = false;
    world.run(Duration::from_secs(2));
    world.nack(BACKUP, 2);
    world.run(Duration::from_secs(1));
    assert_eq!(world.state(BACKUP), State::Active);
    world.start(PRIMARY);
    world.run(Duration::from_secs(2));
    assert_eq!((world.state(PRIMARY), world.state(BACKUP)), (State::Active, State::Standby));
    assert!(world.nodes[BACKUP].states.iter().any(|state| matches!(state, State::Draining { .. })));
    assert_eq!(world.both_active, Duration::ZERO, "the primary waited until the backup was done");
}

#[test]
fn a_sender_whose_peers_are_known_late_asks_them_at_once() {
    let mut primary = RoleMachine::new(RoleConfig::new(Role::Primary, 1), SessionId(1), StartNumber(1));
    primary.handle_content(Time(5));
    assert_eq!(primary.poll_action(), Some(Action::Become(SenderState::Active)));
    primary.handle_peers(Time(6), vec![address(BACKUP)]);
    assert!(matches!(primary.poll_action(), Some(Action::Probe { to, .. }) if to == address(BACKUP)));
}

#[test]
fn a_sender_that_was_resumed_without_content_begins_when_it_has_some() {
    let mut primary = RoleMachine::new(RoleConfig::new(Role::Primary, 1), SessionId(1), StartNumber(1));
    primary.handle_content(Time(5));
    primary.handle_command(Time(6), RoleCommand::Pause);
    primary.handle_able(Time(7), false, true);
    primary.handle_command(Time(8), RoleCommand::Resume);
    assert_eq!(primary.state(), State::Waiting);
    primary.handle_able(Time(9), true, true);
    assert_eq!(primary.state(), State::Active);
}

#[test]
fn a_primary_in_its_penalty_sees_the_backup_go() {
    let mut world = World::settled(2);
    world.nodes[PRIMARY].is_up = false;
    world.run(Duration::from_secs(2));
    world.nack(BACKUP, 1);
    world.run(Duration::from_secs(2));
    world.start_holding(PRIMARY, Duration::from_secs(300));
    world.run(Duration::from_secs(5));
    assert!(matches!(world.state(PRIMARY), State::Penalty { .. }));
    world.nodes[BACKUP].is_up = false;
    world.run(Duration::from_secs(10));
    assert_eq!(world.state(PRIMARY), State::Active, "nobody else serves");
}

#[test]
fn an_active_backup_that_hears_only_advertisements_stands_down() {
    let mut world = World::settled(2);
    world.cut(PRIMARY, BACKUP);
    world.run(Duration::from_secs(2));
    world.nack(BACKUP, 1);
    world.run(Duration::from_secs(2));
    assert_eq!(world.state(BACKUP), State::Active);
    world.no_multicast.clear();
    world.run(Duration::from_secs(4));
    assert_eq!(world.state(BACKUP), State::Standby);
}

#[test]
fn two_that_never_yield_are_an_alert() {
    let mut world = World::settled(2);
    world.cut(PRIMARY, BACKUP);
    world.run(Duration::from_secs(2));
    world.nack(BACKUP, 1);
    world.run(Duration::from_secs(2));
    // The primary hears the backup, which hears nothing.
    world.no_multicast.remove(&(BACKUP, PRIMARY));
    world.run(overlap_max(Duration::from_secs(10)) + Duration::from_secs(2));
    assert_eq!((world.two_active(PRIMARY), world.two_active(BACKUP)), (1, 0));
    world.heal();
    world.run(Duration::from_secs(5));
    assert_eq!(world.state(BACKUP), State::Standby);
    assert!(world.nodes[PRIMARY].events.contains(&RoleEvent::TwoActiveOver));
}

/// A second primary starts where the backup would be.
fn start_second_primary(world: &mut World) {
    let mut second = world.node(PRIMARY, Duration::ZERO);
    second.key = 9;
    second.is_up = true;
    world.nodes[BACKUP] = second;
    let now = world.now;
    world.nodes[BACKUP].machine.handle_content(now);
    world.drain(BACKUP);
}

#[test]
fn a_second_primary_stands_by_and_takes_over_when_it_is_asked() {
    let mut world = World::settled(2);
    start_second_primary(&mut world);
    // Its own address is the backup's here; it asks the other primary by its advertisements.
    world.run(Duration::from_secs(3));
    let states = [world.state(PRIMARY), world.state(BACKUP)];
    assert_eq!(states, [State::Active, State::Standby]);
    world.nodes[PRIMARY].is_up = false;
    world.run(Duration::from_secs(1));
    world.nack(BACKUP, 1);
    world.run(Duration::from_secs(1));
    assert_eq!(world.state(BACKUP), State::Active);
}

#[test]
fn of_two_primaries_one_serves_although_the_other_one_goes_first_and_stands_by() {
    let mut world = World::settled(2);
    start_second_primary(&mut world);
    world.run(Duration::from_secs(3));
    world.nodes[PRIMARY].is_up = false;
    world.run(Duration::from_secs(1));
    world.nack(BACKUP, 1);
    world.run(Duration::from_secs(1));
    world.start(PRIMARY);
    world.run(Duration::from_secs(3));
    assert_eq!([world.state(PRIMARY), world.state(BACKUP)], [State::Standby, State::Active]);
    start_second_primary(&mut world);
    world.run(Duration::from_secs(3));
    assert_eq!([world.state(PRIMARY), world.state(BACKUP)], [State::Standby, State::Active]);
}

#[test]
fn recordings_of_answers_and_questions_change_nothing() {
    let mut world = World::settled(2);
    let old = world.nodes[PRIMARY].standing(world.now);
    world.nodes[PRIMARY].is_up = false;
    world.run(Duration::from_secs(2));
    world.nack(BACKUP, 1);
    let now = world.now;
    // An answer with a nonce of another time, and a question of a primary that is gone.
    world.nodes[BACKUP].machine.handle_answer(now, Path::NackPort, address(PRIMARY), 12345, &old);
    world.nodes[BACKUP].machine.handle_question(now, &old);
    world.run(Duration::from_secs(1));
    assert_eq!(world.state(BACKUP), State::Active);
    world.nodes[BACKUP].machine.handle_question(world.now, &old);
    world.run(Duration::from_secs(5));
    assert_eq!(world.state(BACKUP), State::Active, "the question made it ask, and nobody answered");
    // On a connection an answer needs no nonce.
    let quic = Path::Quic { came: world.now, took: STEP };
    world.nodes[BACKUP].machine.handle_answer(world.now, quic, address(PRIMARY), 0, &old);
    world.nodes[BACKUP].machine.handle_question(world.now, &old);
    world.run(Duration::from_secs(1));
    assert_ne!(world.state(BACKUP), State::Active);
}

#[test]
fn a_primary_that_is_far_away_on_quic_is_waited_for_once_it_was_heard() {
    let mut world = World::settled(2);
    world.cut(PRIMARY, BACKUP);
    world.run(Duration::from_secs(5));
    let answer = |world: &mut World, asked: Time| {
        let (now, standing) = (world.now, world.nodes[PRIMARY].standing(world.now));
        let quic = Path::Quic { came: now, took: now.since(asked) };
        world.nodes[BACKUP].machine.handle_answer(now, quic, address(PRIMARY), 0, &standing);
        world.drain(BACKUP);
    };
    let far = Duration::from_millis(900);
    // Nobody knows yet how far away it is: the answer comes late, and is not forgotten.
    world.nack(BACKUP, 1);
    let asked = world.now;
    world.run(far);
    assert_eq!(world.state(BACKUP), State::Active);
    answer(&mut world, asked);
    world.run(PROBE_EVERY);
    answer(&mut world, asked + PROBE_EVERY);
    world.run(Duration::from_secs(1));
    assert_eq!(world.state(BACKUP), State::Standby);
    // Now it is waited for.
    world.nack(BACKUP, 2);
    let asked = world.now;
    world.run(far);
    assert_eq!(world.state(BACKUP), State::Probing);
    answer(&mut world, asked);
    assert_eq!((world.state(BACKUP), world.nodes[BACKUP].served), (State::Standby, 1));
    // And not for ever.
    world.run(STEP);
    world.nack(BACKUP, 3);
    world.run(far * 3 / 2 + STEP * 2);
    assert_eq!((world.state(BACKUP), world.nodes[BACKUP].served), (State::Active, 2));
}

#[test]
fn an_answer_that_was_left_lying_is_of_when_it_came() {
    let mut world = World::settled(2);
    let (came, old) = (world.now, world.nodes[PRIMARY].standing(world.now));
    world.nodes[PRIMARY].is_up = false;
    world.run(Duration::from_secs(2));
    world.nack(BACKUP, 1);
    let quic = Path::Quic { came, took: STEP };
    world.nodes[BACKUP].machine.handle_answer(world.now, quic, address(PRIMARY), 0, &old);
    world.run(PROBE_TIMEOUT * (PROBE_TRIES + 1));
    assert_eq!(world.state(BACKUP), State::Active);
}
