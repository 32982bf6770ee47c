//! Whom a sender lets into its channel, and with which secrets.
//!
//! - The list is as old as the epoch of the key file that it stands in. Nothing is given of a later epoch: since then
//!   somebody may have been taken off. Such a sender serves all the same, and sends whoever asks to another one.
//! - Shared by the channel's task, which knows the epoch in force, and the connections of those who ask.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nackcast_common::admission::Admission;
use nackcast_common::alerts::{Finding, Kind};
use nackcast_common::epochs::Epochs;
use nackcast_common::ids::Epoch;
use nackcast_common::keys::VerifyingKey;
use nackcast_proto::pull::{JoinRefusal, Joined, Membership};

/// One channel's.
#[derive(Debug)]
pub(crate) struct Gate {
    epochs: Epochs,
    membership: Arc<Membership>,
    now: Mutex<Now>,
}

#[derive(Debug)]
struct Now {
    admission: Admission,
    /// In force.
    epoch: Epoch,
    /// Announced.
    next: Option<Epoch>,
    refused: u64,
    last_refused: String,
}

impl Gate {
    /// That of a channel in the epoch of its key file.
    pub(crate) fn new(epochs: Epochs, admission: Admission, membership: Arc<Membership>) -> Self {
        let epoch = admission.epoch;
        let now = Now { admission, epoch, next: None, refused: 0, last_refused: String::new() };
        Self { epochs, membership, now: Mutex::new(now) }
    }

    /// What this sender is to the channel.
    pub(crate) const fn membership(&self) -> &Arc<Membership> {
        &self.membership
    }

    /// The key file was read again.
    pub(crate) fn admit(&self, admission: Admission) {
        self.lock().admission = admission;
    }

    /// An epoch is announced: who joins gets its secret, too.
    pub(crate) fn announce(&self, epoch: Epoch) {
        self.lock().next = Some(epoch);
    }

    /// An epoch is in force from now on: who proves less is no member.
    pub(crate) fn enter(&self, epoch: Epoch) {
        let mut now = self.lock();
        now.epoch = epoch;
        now.next = now.next.filter(|next| *next > epoch);
        let mut epochs = self.epochs.clone();
        epochs.heard(epoch);
        self.membership.follow(epochs, epoch);
    }

    /// Somebody with this identity wants to join.
    pub(crate) fn join(&self, identity: &VerifyingKey) -> Joined {
        let mut now = self.lock();
        let answer = now.answer(&self.epochs, identity);
        if let Joined::Refused(why) = answer {
            now.refused += 1;
            let text = match why {
                JoinRefusal::NotListed => format!(
                    "a node that is not on the list asked to join; if it should, run `nackcast channel allow FILE \
                     {identity}` and send this process SIGHUP"
                ),
                JoinRefusal::OldList => format!(
                    "a node was sent to another sender: this key file is of epoch {}, and the channel is in epoch {}; \
                     bring the key file up to date and send this process SIGHUP",
                    now.admission.epoch, now.epoch
                ),
                JoinRefusal::ByTicket | JoinRefusal::NotHere => {
                    format!("the node {identity} asked to join a channel that has no list: it needs a new ticket")
                }
            };
            // Who is refused asks again and again.
            if text != now.last_refused {
                tracing::warn!("{text}");
                now.last_refused = text;
            }
        }
        answer
    }

    /// What people should know.
    pub(crate) fn finding(&self) -> Option<Finding> {
        let now = self.lock();
        (now.refused > 0).then(|| Finding::happened(Kind::TicketRefused, "", &now.last_refused, now.refused))
    }

    fn lock(&self) -> MutexGuard<'_, Now> {
        // What is behind it is whole between two statements.
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Now {
    fn answer(&self, epochs: &Epochs, identity: &VerifyingKey) -> Joined {
        let Some(receivers) = &self.admission.receivers else { return Joined::Refused(JoinRefusal::ByTicket) };
        if self.admission.epoch < self.epoch {
            return Joined::Refused(JoinRefusal::OldList);
        }
        if !receivers.contains_key(identity) {
            return Joined::Refused(JoinRefusal::NotListed);
        }
        let next = self.next.filter(|next| *next > self.epoch && *next <= self.admission.epoch);
        let secret = |epoch| Some((epoch, epochs.secret(epoch)?));
        Joined::Secrets([Some(self.epoch), next].into_iter().flatten().filter_map(secret).collect())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use nackcast_common::ids::ChannelId;
    use nackcast_common::keys::{SenderMaster, SigningKey};

    use super::*;

    const CHANNEL: ChannelId = ChannelId([7; 16]);
    const FRIEND: VerifyingKey = VerifyingKey([1; 32]);
    const OTHER: VerifyingKey = VerifyingKey([2; 32]);

    fn master() -> SenderMaster {
        SenderMaster([1; 32])
    }

    fn admission(epoch: u32, receivers: Option<&[VerifyingKey]>) -> Admission {
        let listed = |keys: &[VerifyingKey]| keys.iter().map(|key| (*key, String::new())).collect::<BTreeMap<_, _>>();
        Admission { epoch: Epoch(epoch), receivers: receivers.map(listed) }
    }

    fn gate(admission: Admission) -> Gate {
        let epochs = Epochs::of_master(CHANNEL, master(), admission.epoch);
        let publisher = SigningKey::from_seed([3; 32]).verifying_key();
        let membership = Arc::new(Membership::new(epochs.clone(), admission.epoch, publisher, None));
        Gate::new(epochs, admission, membership)
    }

    fn given(epochs: &[u32]) -> Joined {
        Joined::Secrets(epochs.iter().map(|e| (Epoch(*e), master().epoch(CHANNEL, Epoch(*e)))).collect())
    }

    const NOT_LISTED: Joined = Joined::Refused(JoinRefusal::NotListed);
    const OLD_LIST: Joined = Joined::Refused(JoinRefusal::OldList);

    #[test]
    fn who_is_listed_gets_this_epoch_and_the_one_that_is_announced() {
        let gate = gate(admission(1, Some(&[FRIEND])));
        assert_eq!((gate.join(&FRIEND), gate.finding()), (given(&[1]), None));
        assert_eq!(gate.join(&OTHER), NOT_LISTED);
        let finding = gate.finding().unwrap();
        assert!(finding.text.contains(&OTHER.to_string()) && finding.times == 1, "{finding:?}");
        gate.admit(admission(2, Some(&[FRIEND, OTHER])));
        assert_eq!(gate.join(&OTHER), given(&[1]), "nothing is announced yet");
        gate.announce(Epoch(2));
        assert_eq!(gate.join(&FRIEND), given(&[1, 2]));
        gate.enter(Epoch(2));
        assert_eq!(gate.join(&FRIEND), given(&[2]));
        assert_eq!(gate.membership().newest().unwrap().epoch, Epoch(2));
    }

    #[test]
    fn who_was_taken_off_gets_nothing_while_the_next_epoch_is_announced_either() {
        let gate = gate(admission(1, Some(&[FRIEND, OTHER])));
        gate.admit(admission(2, Some(&[FRIEND])));
        gate.announce(Epoch(2));
        assert_eq!(gate.join(&OTHER), NOT_LISTED);
    }

    #[test]
    fn a_sender_with_an_older_list_lets_nobody_in() {
        let gate = gate(admission(1, Some(&[FRIEND])));
        gate.enter(Epoch(2));
        assert_eq!((gate.join(&FRIEND), gate.join(&OTHER)), (OLD_LIST, OLD_LIST));
        gate.admit(admission(2, Some(&[FRIEND])));
        assert_eq!(gate.join(&FRIEND), given(&[2]));
    }

    #[test]
    fn a_sender_with_a_newer_list_gives_what_is_in_force() {
        let gate = gate(admission(3, Some(&[FRIEND])));
        gate.enter(Epoch(2));
        assert_eq!(gate.join(&FRIEND), given(&[2]));
    }

    #[test]
    fn without_a_list_the_ticket_holds_the_secret() {
        assert_eq!(gate(admission(1, None)).join(&FRIEND), Joined::Refused(JoinRefusal::ByTicket));
    }
}
