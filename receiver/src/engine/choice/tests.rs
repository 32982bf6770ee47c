//! The choice alone, with senders that are heard or not.

use std::net::SocketAddr;

use nackcast_common::ids::StartNumber;
use nackcast_common::keys::{Signature, VerifyingKey};
use nackcast_proto::wire::{NackAnswer, NackStatus, Role, SenderCertificate};

use super::*;
use crate::engine::{EngineConfig, ReceiverEngine};
use crate::testing;

const RETRY: Duration = Duration::from_millis(200);
const PRIMARY: SessionId = SessionId(1);
const FIRST: SessionId = SessionId(2);
const SECOND: SessionId = SessionId(3);

fn from(session: SessionId) -> SocketAddr {
    format!("192.0.2.{}:7600", session.0).parse().unwrap()
}

fn advertisement(now: Time, session: SessionId, state: SenderState, sequence: u64) -> Advertisement {
    let (role, rank) = match session {
        PRIMARY => (Role::Primary, 0),
        SessionId(backup) => (Role::Backup, u32::try_from(backup).unwrap() - 2),
    };
    let key = u8::try_from(session.0).unwrap();
    let interval = if state == SenderState::Active { 250 } else { 1000 };
    Advertisement {
        session,
        start_number: StartNumber(session.0),
        interval: Duration::from_millis(interval),
        manifest: None,
        certificate: SenderCertificate { sender_key: VerifyingKey([key; 32]), signature: Signature([0; 64]) },
        role,
        state,
        nack_window: Duration::ZERO,
        first_pass_cursor: 0,
        rank,
        ..testing::advertisement(now, sequence, 0)
    }
}

struct Bench {
    now: Time,
    sessions: Sessions,
    sequence: u64,
}

impl Bench {
    fn new() -> Self {
        Self { now: Time(1_000_000), sessions: Sessions::default(), sequence: 0 }
    }

    fn hear(&mut self, session: SessionId, state: SenderState) {
        self.sequence += 1;
        let advertisement = advertisement(self.now, session, state, self.sequence);
        self.sessions.on_advertisement(self.now, from(session), &advertisement);
        self.sessions.choose(self.now);
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.sessions.expire(self.now);
        self.sessions.choose(self.now);
    }

    fn chosen(&self) -> SessionId {
        self.sessions.chosen().unwrap().0
    }

    /// A NACK: whom it goes to, and whether nobody answers.
    fn ask(&mut self) -> (SessionId, bool) {
        let nobody = self.sessions.turn(self.now, RETRY);
        (self.chosen(), nobody)
    }

    /// NACKs of the next tries, without an answer.
    fn tries(&mut self, count: usize) -> Vec<SessionId> {
        let ask = |bench: &mut Self| {
            let (asked, _) = bench.ask();
            bench.now += RETRY;
            asked
        };
        (0..count).map(|_| ask(self)).collect()
    }
}

#[test]
fn two_tries_each_and_then_the_next_by_rank() {
    let mut bench = Bench::new();
    bench.hear(SECOND, SenderState::Standby);
    bench.hear(FIRST, SenderState::Standby);
    bench.hear(PRIMARY, SenderState::Active);
    let asked = bench.tries(8);
    assert_eq!(asked, [PRIMARY, PRIMARY, FIRST, FIRST, SECOND, SECOND, PRIMARY, PRIMARY]);
}

#[test]
fn several_datagrams_of_one_moment_are_one_try() {
    let mut bench = Bench::new();
    bench.hear(FIRST, SenderState::Standby);
    bench.hear(PRIMARY, SenderState::Active);
    for _ in 0..5 {
        assert_eq!(bench.ask(), (PRIMARY, false));
    }
}

#[test]
fn an_answer_begins_the_tries_anew_and_primary_alive_sends_back() {
    let mut bench = Bench::new();
    bench.hear(FIRST, SenderState::Standby);
    bench.hear(PRIMARY, SenderState::Active);
    assert_eq!(bench.tries(2), [PRIMARY, PRIMARY]);
    bench.sessions.choice.on_answer(false);
    assert_eq!(bench.tries(3), [PRIMARY, PRIMARY, FIRST]);
    bench.sessions.choice.on_answer(true);
    assert_eq!(bench.tries(3), [PRIMARY, PRIMARY, FIRST]);
}

#[test]
fn the_primary_is_asked_again_as_soon_as_it_is_heard() {
    let mut bench = Bench::new();
    bench.hear(PRIMARY, SenderState::Active);
    bench.hear(FIRST, SenderState::Standby);
    assert_eq!(bench.tries(3), [PRIMARY, PRIMARY, FIRST]);
    bench.hear(FIRST, SenderState::Active);
    assert_eq!(bench.ask().0, FIRST);
    bench.hear(PRIMARY, SenderState::Active);
    assert_eq!(bench.ask().0, PRIMARY);
}

#[test]
fn three_cycles_without_an_answer_are_told_once() {
    let mut bench = Bench::new();
    bench.hear(PRIMARY, SenderState::Active);
    bench.hear(FIRST, SenderState::Standby);
    let mut told = Vec::new();
    for at in 0..30 {
        if bench.ask().1 {
            told.push(at);
        }
        bench.now += RETRY;
    }
    assert_eq!(told, [12], "after three times two tries at two senders");
    bench.sessions.choice.on_answer(false);
    let again = (0..30).filter(|_| {
        bench.now += RETRY;
        bench.ask().1
    });
    assert_eq!(again.count(), 1);
}

#[test]
fn who_stands_by_is_not_asked_before_an_active_sender_could_have_been_heard() {
    let mut bench = Bench::new();
    bench.hear(FIRST, SenderState::Standby);
    let from = bench.sessions.choice.standby_from(bench.now, &bench.sessions);
    assert_eq!(from, Some(bench.now + SILENT_MIN));
    bench.pass(SILENT_MIN / 2);
    bench.hear(PRIMARY, SenderState::Active);
    assert_eq!(bench.chosen(), PRIMARY);
    // It falls silent: it was waited for already.
    bench.pass(SILENT_MIN / 2);
    bench.hear(FIRST, SenderState::Standby);
    bench.pass(SILENT_MIN);
    bench.hear(FIRST, SenderState::Standby);
    assert_eq!(bench.chosen(), FIRST);
    assert_eq!(bench.sessions.choice.standby_from(bench.now, &bench.sessions), None);
}

#[test]
fn a_primary_that_says_that_it_stopped_is_not_waited_for() {
    for state in [SenderState::Paused, SenderState::Draining] {
        let mut bench = Bench::new();
        bench.hear(PRIMARY, SenderState::Active);
        bench.hear(FIRST, SenderState::Standby);
        bench.hear(PRIMARY, state);
        assert_eq!(bench.chosen(), FIRST);
        assert_eq!(bench.sessions.choice.standby_from(bench.now, &bench.sessions), None);
    }
}

#[test]
fn a_hand_over_is_waited_for() {
    let mut bench = Bench::new();
    bench.hear(FIRST, SenderState::Active);
    bench.hear(PRIMARY, SenderState::Starting);
    assert_eq!(bench.chosen(), FIRST);
    bench.hear(FIRST, SenderState::Standby);
    assert!(bench.sessions.choice.standby_from(bench.now, &bench.sessions).is_some());
    bench.hear(PRIMARY, SenderState::Active);
    assert_eq!(bench.chosen(), PRIMARY);
}

#[test]
fn a_sender_that_is_asked_from_now_on_is_greeted() {
    let mut engine = ReceiverEngine::new(EngineConfig {
        channel: testing::CHANNEL,
        seed: 1,
        nack_retry: RETRY,
        nack_budget: 4,
        slots: 8,
        remembered: None,
        once: false,
    });
    let mut now = Time(1_000_000);
    let mut greeted = |engine: &mut ReceiverEngine, session| {
        let end = now + Duration::from_secs(1);
        while now < end {
            now += Duration::from_millis(5);
            engine.handle_timeout(now);
            if let Some(transmit) = engine.poll_transmit() {
                assert_eq!((transmit.to.ip(), transmit.nack.session), (from(session).ip(), session));
                return (now, transmit);
            }
        }
        panic!("{session} was never greeted");
    };
    // The primary is only starting, so the one that stands by hears of us first, and answers.
    engine.handle_advertisement(
        Time(1_000_000),
        from(PRIMARY),
        &advertisement(Time(1), PRIMARY, SenderState::Starting, 1),
    );
    engine.handle_advertisement(Time(1_000_000), from(FIRST), &advertisement(Time(1), FIRST, SenderState::Standby, 1));
    let (at, report) = greeted(&mut engine, FIRST);
    let answer = NackAnswer {
        channel: testing::CHANNEL,
        session: FIRST,
        nack: report.packet,
        nonce: report.nack.nonce,
        status: NackStatus::Noted,
        ..NackAnswer::default()
    };
    engine.handle_answer(at, &answer, true);
    assert!(engine.has_reported());
    engine.handle_advertisement(at, from(PRIMARY), &advertisement(at, PRIMARY, SenderState::Active, 2));
    greeted(&mut engine, PRIMARY);
}
