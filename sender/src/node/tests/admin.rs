//! What an admin tells a node, and what it finds wrong.

use nackcast_common::alerts::Kind;
use nackcast_common::control::{Refusal, Steer};
use nackcast_proto::wire::Nack;

use super::*;
use crate::role::State;

/// A NACK of a receiver's run, from an address of its own.
fn nack(bench: &Bench, run: u64, packet: u64) -> HeardNack {
    HeardNack {
        from: format!("192.0.2.{run}:4000").parse().unwrap(),
        run: RunId(run),
        packet,
        epoch: Epoch(1),
        nack: Nack { channel: CHANNEL, session: SessionId(11), time: bench.now.0, ..Nack::default() },
    }
}

/// A receiver says that it lacks the object.
fn asks(bench: &mut Bench, run: u64, packet: u64) {
    let mut heard = nack(bench, run, packet);
    heard.nack.missing_ids = vec![bench.object];
    bench.node.handle_nack(bench.now, &heard);
}

fn kinds(bench: &mut Bench) -> Vec<Kind> {
    bench.node.progress(bench.now).findings.into_iter().map(|finding| finding.kind).collect()
}

fn data_sent(bench: &Bench) -> usize {
    bench.packet_numbers(11, Flow::Data).len()
}

fn served() -> Bench {
    let mut bench = Bench::new(None);
    bench.publish();
    bench.run(Duration::from_secs(10));
    bench.assert_sent();
    bench
}

#[test]
fn a_paused_sender_advertises_and_answers_and_sends_nothing_until_it_resumes() {
    let mut bench = Bench::new(None);
    bench.publish();
    bench.run(Duration::from_millis(900));
    bench.node.steer(bench.now, Steer::Pause).unwrap();
    asks(&mut bench, 5, 1);
    let (data, advertised) = (data_sent(&bench), bench.packet_numbers(11, Flow::Advertisement).len());
    bench.run(Duration::from_secs(20));
    assert_eq!(data_sent(&bench), data);
    assert!(bench.packet_numbers(11, Flow::Advertisement).len() > advertised + 10);
    assert_eq!(bench.node.progress(bench.now).state, "paused");
    assert_eq!(bench.node.ending(bench.now), Ending::Running);
    bench.node.steer(bench.now, Steer::Resume).unwrap();
    bench.run(Duration::from_secs(1));
    asks(&mut bench, 5, 2);
    bench.run(Duration::from_secs(20));
    bench.assert_sent();
    assert_eq!(bench.node.progress(bench.now).state, "idle");
}

#[test]
fn a_pause_does_not_spin() {
    let mut bench = Bench::new(None);
    bench.publish();
    bench.run(Duration::from_millis(900));
    bench.node.steer(bench.now, Steer::Pause).unwrap();
    bench.run(Duration::from_millis(100));
    let deadline = bench.node.poll_deadline(bench.now).unwrap();
    assert!(deadline.at > bench.now, "{deadline:?} at {:?}", bench.now);
}

#[test]
fn a_drain_by_command_starts_no_job_and_ends_nothing() {
    let mut bench = served();
    bench.node.steer(bench.now, Steer::Drain).unwrap();
    asks(&mut bench, 5, 1);
    let data = data_sent(&bench);
    bench.run(Duration::from_secs(20));
    assert_eq!((data_sent(&bench), bench.node.ending(bench.now)), (data, Ending::Running));
    assert_eq!(bench.node.role_state(), State::Drained);
    assert!(matches!(bench.node.resend(bench.now, &[]), Err(Refusal::NotNow(_))), "what is drained sends nothing");
    bench.node.steer(bench.now, Steer::Resume).unwrap();
    bench.run(Duration::from_secs(1));
    asks(&mut bench, 5, 2);
    bench.run(Duration::from_secs(20));
    assert!(data_sent(&bench) > data);
    bench.node.drain(bench.now);
    assert!(matches!(bench.node.steer(bench.now, Steer::Resume), Err(Refusal::NotNow(_))), "it is about to end");
}

#[test]
fn resend_gives_an_object_a_new_round_and_everybody_a_pass() {
    let mut bench = served();
    // More than `max_passes` times somebody lacks it.
    for packet in 1..=17 {
        asks(&mut bench, 5, packet);
        bench.run(Duration::from_secs(5));
    }
    assert_eq!(kinds(&mut bench), [Kind::PassesExhausted]);
    let row = |bench: &Bench| bench.node.objects(None, true, 10).into_iter().find(|row| row.id == bench.object.0);
    let exhausted = row(&bench).unwrap();
    assert_eq!((exhausted.state.as_str(), exhausted.passes), ("exhausted", 16));
    let data = data_sent(&bench);
    asks(&mut bench, 5, 18);
    bench.run(Duration::from_secs(5));
    assert_eq!(data_sent(&bench), data);
    assert_eq!(bench.node.resend(bench.now, &["file".to_owned()]), Ok(1));
    bench.run(Duration::from_secs(5));
    let source: usize = (0..bench.layout.block_count()).map(|b| usize::from(bench.layout.source_symbols(b))).sum();
    let sent = data_sent(&bench) - data;
    assert!((source..source * 2).contains(&sent), "{sent} of {source}");
    assert_eq!(kinds(&mut bench), []);
    assert!(row(&bench).is_none(), "it is idle");
    let id = bench.object.to_string();
    assert_eq!(bench.node.resend(bench.now, &[id]), Ok(1), "by its id, too");
    assert!(matches!(bench.node.resend(bench.now, &["no such file".to_owned()]), Err(Refusal::Unknown(_))));
    let mut new = Bench::new(None);
    assert!(matches!(new.node.resend(new.now, &[]), Err(Refusal::NotNow(_))));
}

#[test]
fn objects_without_passes_are_no_alert_when_nobody_asks_any_more() {
    let mut bench = served();
    for packet in 1..=17 {
        asks(&mut bench, 5, packet);
        bench.run(Duration::from_secs(5));
    }
    assert_eq!(kinds(&mut bench), [Kind::PassesExhausted]);
    let quiet = ScheduleConfig::default().round_quiet;
    bench.run(quiet - Duration::from_secs(10));
    assert!(kinds(&mut bench).contains(&Kind::PassesExhausted), "somebody may still lack it");
    bench.run(Duration::from_secs(10));
    assert!(!kinds(&mut bench).contains(&Kind::PassesExhausted));
}

#[test]
fn a_rate_that_is_set_is_kept() {
    let mut bench = Bench::new(None);
    bench.node.set_rate(bench.now, RateLimit::Fixed(BitRate(1_000_000)));
    bench.publish();
    bench.run(Duration::from_secs(3));
    let bytes: usize = bench.sent.iter().filter(|(to, _)| *to == Destination::Data).map(|(_, d)| d.len()).sum();
    assert!(bytes < 3 * 1_000_000 / 8 + 40_000, "{bytes}");
    assert_eq!(bench.node.progress(bench.now).rate_limit_bps, 1_000_000);
}

#[test]
fn receivers_that_lag_fall_silent_or_come_back_are_told() {
    let mut bench = served();
    let hash = bench.published.reference.hash.prefix();
    for (run, complete) in [(5, true), (6, false), (7, false)] {
        let mut heard = nack(&bench, run, 1);
        (heard.nack.manifest, heard.nack.complete) = (hash, complete);
        (heard.nack.bytes_missing, heard.nack.generation) = (if complete { 0 } else { run * 100 }, Generation(1));
        bench.node.handle_nack(bench.now, &heard);
    }
    let rows = bench.node.receivers(bench.now, 10);
    let seen: Vec<_> = rows.iter().map(|row| (row.run, row.complete, row.bytes_missing)).collect();
    assert_eq!(seen, [(7, false, 700), (6, false, 600), (5, true, 0)], "the worst first");
    assert_eq!(bench.node.receivers(bench.now, 1).len(), 1);
    assert_eq!(kinds(&mut bench), [], "it is too early to complain");
    bench.node.set_limits(Limits { late: Duration::from_secs(1), ..Limits::default() });
    let late = bench.node.progress(bench.now).findings;
    assert_eq!(late.len(), 1);
    assert!(
        late[0].kind == Kind::GenerationLate && late[0].text.starts_with("generation 1 has not reached 2 receivers")
    );
    assert!(late[0].text.contains("192.0.2.6:4000") && !late[0].text.contains("192.0.2.5"), "{late:?}");
    // Half a minute of silence is too long for who is not complete.
    bench.run(Duration::from_secs(40));
    let silent = bench.node.progress(bench.now).findings;
    assert_eq!(silent.iter().map(|f| f.kind).collect::<Vec<_>>(), [Kind::ReceiverSilent]);
    assert!(silent[0].text.starts_with("2 receivers"), "{silent:?}");
    assert!(bench.node.receivers(bench.now, 1)[0].silent);
    // One comes back, the other restarted: another run at the same address.
    let mut back = nack(&bench, 6, 2);
    back.nack.complete = true;
    back.nack.manifest = hash;
    let restarted = HeardNack { run: RunId(77), from: "192.0.2.7:4999".parse().unwrap(), ..back.clone() };
    bench.node.handle_nack(bench.now, &back);
    bench.node.handle_nack(bench.now, &restarted);
    bench.run(Duration::from_secs(2));
    assert_eq!(kinds(&mut bench), []);
}

/// Longer than any receiver is silent, whole or not.
const HOUR: Duration = Duration::from_secs(3600);

#[test]
fn who_is_whole_and_falls_silent_is_missed_and_who_said_that_it_ends_is_not() {
    let mut bench = served();
    let hash = bench.published.reference.hash.prefix();
    for (run, complete, leaves) in [(5, true, false), (6, true, true), (7, false, true)] {
        let mut heard = nack(&bench, run, 1);
        (heard.nack.manifest, heard.nack.complete, heard.nack.leaves) = (hash, complete, leaves);
        heard.nack.bytes_missing = if complete { 0 } else { 100 };
        bench.node.handle_nack(bench.now, &heard);
    }
    bench.node.set_limits(Limits { late: Duration::from_secs(1), ..Limits::default() });
    assert_eq!(kinds(&mut bench), [], "who left is not late");
    // Less than several of the times after which one that is whole says that it is there.
    bench.now += HOUR / 2;
    bench.run(Duration::from_secs(2));
    assert_eq!(kinds(&mut bench), []);
    bench.now += HOUR / 2;
    bench.run(Duration::from_secs(2));
    let silent = bench.node.progress(bench.now).findings;
    assert_eq!(silent.len(), 1, "{silent:?}");
    assert!(silent[0].kind == Kind::ReceiverSilent && silent[0].text.contains("192.0.2.5"), "{silent:?}");
    // Who left and came back is missed like others.
    let mut back = nack(&bench, 6, 2);
    (back.nack.manifest, back.nack.complete) = (hash, true);
    bench.node.handle_nack(bench.now, &back);
    bench.now += HOUR;
    bench.run(Duration::from_secs(2));
    assert!(bench.node.progress(bench.now).findings[0].text.starts_with("2 receivers"));
}

#[test]
fn who_went_back_to_another_sender_is_not_missed() {
    let mut bench = served();
    let mut heard = nack(&bench, 5, 1);
    (heard.nack.manifest, heard.nack.complete) = (bench.published.reference.hash.prefix(), true);
    bench.node.handle_nack(bench.now, &heard);
    bench.node.steer(bench.now, Steer::Pause).unwrap();
    bench.now += HOUR;
    bench.run(Duration::from_secs(2));
    assert!(!kinds(&mut bench).contains(&Kind::ReceiverSilent), "this one does not serve");
    bench.node.steer(bench.now, Steer::Resume).unwrap();
    bench.run(Duration::from_secs(2));
    assert!(!kinds(&mut bench).contains(&Kind::ReceiverSilent), "it was not heard since");
}

#[test]
fn more_nacks_than_the_window_lets_through_are_told() {
    let mut bench = served();
    let flood = |bench: &mut Bench, rounds: u64, each: u64| {
        for round in 0..rounds {
            for run in 0..each {
                let mut heard = nack(bench, 1 + run % 250, 1 + round * 1000 + run);
                heard.run = RunId(round * 10_000 + run);
                heard.nack.missing_ids = vec![ObjectId(1)];
                bench.node.handle_nack(bench.now, &heard);
            }
            bench.run(Duration::from_millis(100));
        }
    };
    flood(&mut bench, 20, 300);
    assert!(!kinds(&mut bench).contains(&Kind::NackRate), "it has just begun");
    flood(&mut bench, 150, 300);
    assert!(kinds(&mut bench).contains(&Kind::NackRate));
    bench.run(Duration::from_secs(20));
    assert!(!kinds(&mut bench).contains(&Kind::NackRate));
}

#[test]
fn what_is_left_out_and_what_cannot_be_read_is_told() {
    let mut bench = served();
    let troubles = vec![Trouble { line: "a cannot be read".to_owned(), is_failure: true }];
    bench.node.handle_scanned(bench.now, ScanResult { troubles, ..ScanResult::default() });
    assert_eq!(kinds(&mut bench), [Kind::ContentLeftOut]);
    bench.node.handle_scanned(bench.now, ScanResult::default());
    assert_eq!(kinds(&mut bench), []);
    asks(&mut bench, 5, 1);
    for _ in 0..200 {
        bench.node.handle_timeout(bench.now);
        while let Some(work) = bench.node.poll_work() {
            match work {
                Work::Make(order) => {
                    let source = std::io::Error::other("the disk is gone");
                    let path = DatasetPath::new(b"file").unwrap();
                    let error = BlockError::Io { path, source };
                    let made = order.make(|_| Err(MakeError::Block(error)));
                    bench.node.handle_made(bench.now, made);
                }
                Work::Rescan { .. } => {}
                other => bench.work(other),
            }
        }
        bench.now += Duration::from_millis(100);
    }
    let found = bench.node.progress(bench.now).findings;
    assert!(found.iter().any(|f| f.kind == Kind::DiskFailing && f.text.contains("the disk is gone")), "{found:?}");
}

#[test]
fn what_the_role_finds_wrong_is_told_until_it_is_over() {
    use nackcast_proto::wire::Role;

    use crate::role::{OnlyBackupReached, RoleEvent};

    let mut bench = served();
    let told = |bench: &mut Bench, role, event| {
        bench.node.watch.on_role(bench.now, role, &event);
        kinds(bench)
    };
    let changed = |from, to| RoleEvent::Changed { from, to, why: "why" };
    let none: [Kind; 0] = [];
    assert_eq!(told(&mut bench, Role::Backup, changed(State::Waiting, State::Standby)), none, "a start");
    assert_eq!(told(&mut bench, Role::Primary, changed(State::Asking, State::Active)), none, "a start");
    assert_eq!(told(&mut bench, Role::Primary, changed(State::Active, State::Paused)), none, "by command");
    assert_eq!(told(&mut bench, Role::Primary, changed(State::Asking, State::Standby)), [Kind::RoleChanged]);
    let text = bench.node.progress(bench.now).findings[0].text.clone();
    assert!(text.contains("another primary of this channel serves"), "{text}");
    assert_eq!(told(&mut bench, Role::Primary, changed(State::Standby, State::Active)), none, "the other one is gone");
    let receivers = (0..30).map(|n| (RunId(n), format!("192.0.2.{n}:1").parse().unwrap())).take(20).collect();
    let reached =
        OnlyBackupReached { receivers, receiver_count: 500, count: 31, since: bench.now, saw: "Active".into() };
    assert_eq!(told(&mut bench, Role::Backup, RoleEvent::OnlyBackupReached(reached)), [Kind::BackupAsked]);
    let text = bench.node.progress(bench.now).findings[0].text.clone();
    assert!(text.ends_with("and 480 more"), "{text}");
    assert!(text.contains("31 NACKs") && text.contains("Active") && text.contains("192.0.2.19:1"), "{text}");
    assert_eq!(told(&mut bench, Role::Backup, RoleEvent::OnlyBackupReachedOver), none);
    let two = RoleEvent::TwoActive { other: SessionId(9), since: bench.now };
    assert_eq!(told(&mut bench, Role::Primary, two), [Kind::TwoSenders]);
    assert_eq!(told(&mut bench, Role::Primary, RoleEvent::TwoActiveOver), none);
    assert_eq!(told(&mut bench, Role::Backup, changed(State::Probing, State::Active)), [Kind::RoleChanged]);
    let yields = State::Draining { until: bench.now + Duration::from_secs(1), for_good: false };
    assert_eq!(told(&mut bench, Role::Backup, changed(State::Active, yields)), [Kind::RoleChanged]);
    assert_eq!(bench.node.progress(bench.now).findings[0].text, "this backup hands back: why");
    assert_eq!(told(&mut bench, Role::Backup, changed(yields, State::Standby)), none, "it is where it belongs");
    assert_eq!(told(&mut bench, Role::Primary, changed(State::Active, State::Blind)), [Kind::RoleChanged]);
    assert_eq!(told(&mut bench, Role::Primary, changed(State::Blind, State::Asking)), none);
}

#[test]
fn who_only_asks_whether_it_is_heard_is_answered_and_is_no_receiver() {
    let mut bench = served();
    let mut heard = nack(&bench, 5, 1);
    (heard.nack.session, heard.nack.nonce) = (nackcast_proto::wire::ECHO_SESSION, 77);
    bench.sent.clear();
    bench.node.handle_nack(bench.now, &heard);
    bench.run(Duration::from_millis(100));
    let to = |(to, _): &&(Destination, Vec<u8>)| *to == Destination::Receiver(heard.from);
    assert_eq!(bench.sent.iter().filter(to).count(), 1);
    assert_eq!(bench.node.receivers(bench.now, 10), []);
}
