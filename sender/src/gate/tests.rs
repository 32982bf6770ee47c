//! Whom a gate lets in, and what it says.

use std::collections::BTreeMap;

use nackcast_common::ids::ChannelId;
use nackcast_common::keys::{SenderMaster, SigningKey};

use super::*;

const CHANNEL: ChannelId = ChannelId([7; 16]);
const FRIEND: VerifyingKey = VerifyingKey([1; 32]);
const OTHER: VerifyingKey = VerifyingKey([2; 32]);

const NOW: Time = Time::ZERO;

fn master() -> SenderMaster {
    SenderMaster([1; 32])
}

fn admission(epoch: u32, receivers: Option<&[VerifyingKey]>) -> Admission {
    let listed = |keys: &[VerifyingKey]| keys.iter().map(|key| (*key, String::new())).collect::<BTreeMap<_, _>>();
    Admission { epoch: Epoch(epoch), receivers: receivers.map(listed) }
}

fn gate(admission: Admission) -> Gate {
    of(admission, true)
}

fn backup(admission: Admission) -> Gate {
    of(admission, false)
}

fn of(admission: Admission, publishes: bool) -> Gate {
    let epochs = Epochs::of_master(CHANNEL, master(), admission.epoch);
    let publisher = SigningKey::from_seed([3; 32]).verifying_key();
    let membership = Arc::new(Membership::new(epochs.clone(), admission.epoch, publisher, None));
    Gate::new(epochs, admission, membership, publishes)
}

fn given(epochs: &[u32]) -> Joined {
    Joined::Secrets(epochs.iter().map(|e| (Epoch(*e), master().epoch(CHANNEL, Epoch(*e)))).collect())
}

const NOT_LISTED: Joined = Joined::Refused(JoinRefusal::NotListed);
const OLD_LIST: Joined = Joined::Refused(JoinRefusal::OldList);

#[test]
fn who_is_listed_gets_this_epoch_and_the_one_that_is_announced() {
    let gate = gate(admission(1, Some(&[FRIEND])));
    assert_eq!((gate.join(NOW, &FRIEND), gate.findings().count()), (given(&[1]), 0));
    assert_eq!(gate.join(NOW, &OTHER), NOT_LISTED);
    let finding = gate.findings().next().unwrap();
    assert!(finding.text.contains(&OTHER.to_string()) && finding.times == 1, "{finding:?}");
    gate.admit(admission(2, Some(&[FRIEND, OTHER])));
    assert_eq!(gate.join(NOW, &OTHER), given(&[1]), "nothing is announced yet");
    gate.announce(Epoch(2));
    assert_eq!(gate.join(NOW, &FRIEND), given(&[1, 2]));
    gate.enter(Epoch(2));
    assert_eq!(gate.join(NOW, &FRIEND), given(&[2]));
    assert_eq!(gate.membership().newest().unwrap().epoch, Epoch(2));
}

#[test]
fn a_list_that_stays_another_one_than_that_of_another_sender_is_told_of() {
    let gate = gate(admission(1, Some(&[FRIEND])));
    let from = "192.0.2.1:7701".parse().unwrap();
    let hear = |second, other: &Admission| {
        gate.hear_list(Time::ZERO + Duration::from_secs(second), from, other.list_name());
        gate.findings().count()
    };
    let (same, other) = (admission(2, Some(&[FRIEND])), admission(1, Some(&[FRIEND, OTHER])));
    assert_eq!((hear(0, &other), hear(59, &other)), (0, 0), "it may be changed right now");
    assert_eq!(hear(60, &other), 1);
    assert_eq!((hear(61, &same), hear(62, &other)), (0, 0));
    assert_eq!((hear(122, &other), hear(123, &admission(1, None))), (1, 0), "who has no list is told of elsewhere");
    assert_eq!((hear(200, &other), hear(260, &other)), (0, 1));
    gate.admit(other.clone());
    assert_eq!(hear(330, &other), 0);
}

#[test]
fn however_many_ask_the_log_gets_a_line_a_minute() {
    let gate = gate(admission(1, Some(&[])));
    let mut now = gate.lock();
    let mut refuse = |seconds, text: &str| {
        let at = Time::ZERO + Duration::from_secs(seconds);
        now.refuse(at, JoinRefusal::NotListed, text.to_owned())
    };
    assert_eq!(refuse(0, "a").as_deref(), Some("a"));
    assert_eq!(refuse(100, "a"), None, "it is known");
    assert_eq!(refuse(100, "b").as_deref(), Some("b"));
    for second in 101..160 {
        assert_eq!((refuse(second, "c"), refuse(second, "d")), (None, None));
    }
    let line = refuse(160, "c").unwrap();
    assert!(line.starts_with('c') && line.contains("118"), "{line}");
    assert_eq!(now.refuse(Time::ZERO, JoinRefusal::OldList, "x".to_owned()).as_deref(), Some("x"), "another reason");
    assert_eq!(now.refused, 123);
}

#[test]
fn who_was_taken_off_gets_nothing_while_the_next_epoch_is_announced_either() {
    let gate = gate(admission(1, Some(&[FRIEND, OTHER])));
    gate.admit(admission(2, Some(&[FRIEND])));
    gate.announce(Epoch(2));
    assert_eq!(gate.join(NOW, &OTHER), NOT_LISTED);
}

#[test]
fn a_backup_with_an_older_list_lets_nobody_in() {
    let gate = backup(admission(1, Some(&[FRIEND])));
    gate.enter(Epoch(2));
    assert_eq!((gate.join(NOW, &FRIEND), gate.join(NOW, &OTHER)), (OLD_LIST, OLD_LIST));
    gate.admit(admission(2, Some(&[FRIEND])));
    assert_eq!(gate.join(NOW, &FRIEND), given(&[2]));
}

#[test]
fn a_backup_whose_list_follows_after_the_epoch_began_gives_it_to_who_is_left() {
    let gate = backup(admission(1, Some(&[FRIEND, OTHER])));
    gate.enter(Epoch(1));
    gate.enter(Epoch(2));
    gate.admit(admission(2, Some(&[FRIEND])));
    assert_eq!((gate.join(NOW, &FRIEND), gate.join(NOW, &OTHER)), (given(&[2]), NOT_LISTED));
    assert!(gate.findings().all(|finding| !finding.text.contains("rotate")));
}

#[test]
fn a_backup_with_a_newer_list_gives_what_is_in_force_once_it_knows_it() {
    let gate = backup(admission(3, Some(&[FRIEND])));
    assert_eq!(gate.join(NOW, &FRIEND), Joined::Refused(JoinRefusal::NotHere));
    gate.enter(Epoch(2));
    assert_eq!(gate.join(NOW, &FRIEND), given(&[2]));
    gate.enter(Epoch(1));
    assert_eq!(gate.join(NOW, &FRIEND), given(&[2]), "an epoch that is over comes no more");
}

#[test]
fn who_is_taken_off_without_a_new_epoch_is_told_of_and_nobody_is_let_in_until_there_is_one() {
    let gate = gate(admission(2, Some(&[FRIEND, OTHER])));
    gate.admit(admission(2, Some(&[FRIEND])));
    assert!(gate.findings().any(|finding| finding.text.contains("rotate")));
    assert_eq!((gate.join(NOW, &FRIEND), gate.join(NOW, &OTHER)), (OLD_LIST, OLD_LIST));
    gate.admit(admission(3, Some(&[FRIEND])));
    assert_eq!((gate.join(NOW, &FRIEND), gate.join(NOW, &OTHER)), (given(&[2]), NOT_LISTED));
}

#[test]
fn a_publisher_whose_key_file_was_behind_lets_nobody_in_before_it_is_ahead() {
    let gate = gate(admission(2, Some(&[FRIEND])));
    gate.enter(Epoch(3));
    for epoch in [2, 3] {
        gate.admit(admission(epoch, Some(&[FRIEND])));
        assert_eq!(gate.join(NOW, &FRIEND), OLD_LIST, "who was taken off for epoch 3 may be on it");
    }
    gate.admit(admission(4, Some(&[FRIEND])));
    assert_eq!(gate.join(NOW, &FRIEND), given(&[3]));
}

#[test]
fn without_a_list_the_ticket_holds_the_secret() {
    assert_eq!(gate(admission(1, None)).join(NOW, &FRIEND), Joined::Refused(JoinRefusal::ByTicket));
}
