//! Whom a sender lets into its channel, and with which secrets.
//!
//! - The list is as old as the epoch of the key file that it stands in. Nothing is given of a later epoch: since then
//!   somebody may have been taken off. Such a sender serves all the same, and sends whoever asks to another one.
//! - Who does not publish lets nobody in before it knows which epoch is in force: its key file may be ahead.
//! - Each sender has a list of its own, and advertises only its name: those that differ for longer than a change at all
//!   senders takes are told of.
//! - A list that lost somebody counts only with an epoch that this one was given no secret of. Until then people are told.
//! - Identities are easily made: however many ask, the log gets a line a minute for each reason to refuse.
//! - Shared by the channel's task, which knows the epoch in force, and the connections of those who ask.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nackcast_common::admission::Admission;
use nackcast_common::alerts::{Finding, Kind};
use nackcast_common::clock::Time;
use nackcast_common::epochs::Epochs;
use nackcast_common::ids::Epoch;
use nackcast_common::keys::VerifyingKey;
use nackcast_proto::pull::{JoinRefusal, Joined, Membership};

/// Between two lines of the log about refusals for one reason.
const SPACING: Duration = Duration::from_mins(1);

/// Lists that differ for less long are being changed at one sender after the other.
const CHANGING: Duration = Duration::from_mins(1);
/// A sender of which nothing was heard for so long has no list any more.
const GONE: Duration = Duration::from_mins(5);
/// Senders whose lists are another one.
const OTHERS_MAX: usize = 16;

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
    /// Of the list.
    name: u64,
    publishes: bool,
    /// In force.
    epoch: Option<Epoch>,
    /// Announced.
    next: Option<Epoch>,
    /// The key file must be of a later epoch than this one: somebody who is off its list may hold its secret, or it was
    /// behind what is published and says nothing of who was taken off since.
    least: Option<Epoch>,
    refused: u64,
    last_refused: String,
    logged: BTreeMap<JoinRefusal, Logged>,
    /// Senders with another list: since when, and when that was heard last.
    others: BTreeMap<SocketAddr, (Time, Time)>,
}

/// What the log said last of one reason to refuse.
#[derive(Debug)]
struct Logged {
    text: String,
    at: Time,
    /// Other refusals since then.
    unsaid: u64,
}

impl Gate {
    /// That of a channel, which whoever publishes begins in the epoch of its key file.
    pub(crate) fn new(epochs: Epochs, admission: Admission, membership: Arc<Membership>, publishes: bool) -> Self {
        let epoch = publishes.then_some(admission.epoch);
        let (next, least, refused, last_refused, logged) = (None, None, 0, String::new(), BTreeMap::new());
        let (name, others) = (admission.list_name(), BTreeMap::new());
        let now = Now { admission, name, publishes, epoch, next, least, refused, last_refused, logged, others };
        Self { epochs, membership, now: Mutex::new(now) }
    }

    /// What this sender is to the channel.
    pub(crate) const fn membership(&self) -> &Arc<Membership> {
        &self.membership
    }

    /// The key file was read again.
    pub(crate) fn admit(&self, admission: Admission) {
        let mut now = self.lock();
        // Nothing of a later epoch than the list's was given.
        let given = now.next.max(now.epoch).min(Some(now.admission.epoch));
        let is_off = |key| admission.receivers.as_ref().is_none_or(|receivers| !receivers.contains_key(key));
        if now.admission.receivers.as_ref().is_some_and(|before| before.keys().any(is_off)) {
            now.least = now.least.max(given);
        }
        now.name = admission.list_name();
        now.admission = admission;
        now.others.clear();
        if now.is_void() {
            tracing::error!("{}", now.void_in_words());
        }
    }

    /// Names the list, for other senders.
    pub(crate) fn list_name(&self) -> u64 {
        self.lock().name
    }

    /// The sender there, which takes NACKs at this address, has the list of this name; 0: none, or it does not say.
    pub(crate) fn hear_list(&self, at: Time, from: SocketAddr, list: u64) {
        let mut now = self.lock();
        let ours = now.name;
        now.others.retain(|_, (_, last)| at.since(*last) < GONE);
        if list == 0 || ours == 0 || list == ours {
            now.others.remove(&from);
        } else if now.others.len() < OTHERS_MAX || now.others.contains_key(&from) {
            now.others.entry(from).or_insert((at, at)).1 = at;
        }
    }

    /// An epoch is announced: who joins gets its secret, too.
    pub(crate) fn announce(&self, epoch: Epoch) {
        let mut now = self.lock();
        now.next = now.next.max(Some(epoch));
    }

    /// An epoch is in force from now on: who proves less is no member. An earlier one comes no more.
    pub(crate) fn enter(&self, epoch: Epoch) {
        let mut now = self.lock();
        if now.epoch > Some(epoch) {
            return;
        }
        now.epoch = Some(epoch);
        now.next = now.next.filter(|next| *next > epoch);
        if now.publishes && now.admission.epoch < epoch {
            now.least = now.least.max(Some(epoch));
            tracing::error!("{}", now.void_in_words());
        }
        let mut epochs = self.epochs.clone();
        epochs.heard(epoch);
        self.membership.follow(epochs, epoch);
    }

    /// Somebody with this identity wants to join.
    pub(crate) fn join(&self, at: Time, identity: &VerifyingKey) -> Joined {
        let mut now = self.lock();
        let answer = now.answer(&self.epochs, identity);
        if let Joined::Refused(why) = answer {
            let text = match why {
                JoinRefusal::NotListed => format!(
                    "a node that is not on the list asked to join; if it should, run `nackcast channel allow FILE \
                     {identity}` and send this process SIGHUP"
                ),
                JoinRefusal::OldList if now.is_void() => now.void_in_words(),
                JoinRefusal::OldList => format!(
                    "a node was sent to another sender: this key file is of epoch {}, and the channel is in a later one; \
                     bring the key file up to date and send this process SIGHUP",
                    now.admission.epoch
                ),
                // Which epoch is in force is not known yet.
                JoinRefusal::NotHere => return answer,
                JoinRefusal::ByTicket => {
                    format!("the node {identity} asked to join a channel that has no list: it needs a new ticket")
                }
            };
            if let Some(line) = now.refuse(at, why, text) {
                tracing::warn!("{line}");
            }
        }
        answer
    }

    /// What people should know.
    pub(crate) fn findings(&self) -> impl Iterator<Item = Finding> + use<> {
        let now = self.lock();
        let refused =
            (now.refused > 0).then(|| Finding::happened(Kind::TicketRefused, "", &now.last_refused, now.refused));
        let void = now.is_void().then(|| Finding::lasting(Kind::KeyRejected, "list", now.void_in_words()));
        let differs = |(_, (since, last)): &(&SocketAddr, &(Time, Time))| last.since(*since) >= CHANGING;
        let other = now.others.iter().find(differs).map(|(from, _)| {
            let text = format!(
                "the list of receivers here is another one than that of the sender at {from}: some are let in by one of the \
                 two only; compare `nackcast channel allow` and `revoke` at both key files, and send both processes SIGHUP"
            );
            Finding::lasting(Kind::KeyRejected, "another list", text)
        });
        refused.into_iter().chain(void).chain(other)
    }

    fn lock(&self) -> MutexGuard<'_, Now> {
        // What is behind it is whole between two statements.
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Now {
    /// Somebody is refused: what the log is to say. Who is refused asks again and again.
    fn refuse(&mut self, at: Time, why: JoinRefusal, text: String) -> Option<String> {
        self.refused += 1;
        self.last_refused.clone_from(&text);
        let unsaid = match self.logged.get_mut(&why) {
            Some(logged) if logged.text == text => return None,
            Some(logged) if at.since(logged.at) < SPACING => {
                logged.unsaid += 1;
                return None;
            }
            logged => logged.map_or(0, |logged| logged.unsaid),
        };
        self.logged.insert(why, Logged { text: text.clone(), at, unsaid: 0 });
        Some(if unsaid == 0 { text } else { format!("{text} (and so were {unsaid} since the last such line)") })
    }

    fn answer(&self, epochs: &Epochs, identity: &VerifyingKey) -> Joined {
        let Some(receivers) = &self.admission.receivers else { return Joined::Refused(JoinRefusal::ByTicket) };
        let Some(epoch) = self.epoch else { return Joined::Refused(JoinRefusal::NotHere) };
        if self.admission.epoch < epoch || self.is_void() {
            return Joined::Refused(JoinRefusal::OldList);
        }
        if !receivers.contains_key(identity) {
            return Joined::Refused(JoinRefusal::NotListed);
        }
        let next = self.next.filter(|next| *next > epoch && *next <= self.admission.epoch);
        let secret = |epoch| Some((epoch, epochs.secret(epoch)?));
        Joined::Secrets([Some(epoch), next].into_iter().flatten().filter_map(secret).collect())
    }

    /// The key file's epoch does not keep out who is off its list.
    fn is_void(&self) -> bool {
        self.admission.receivers.is_some() && self.least.is_some_and(|least| self.admission.epoch <= least)
    }

    fn void_in_words(&self) -> String {
        format!(
            "the key file is of epoch {}: whoever was taken off its list may hold the secret of epoch {}; look through \
             the list, run `nackcast channel rotate FILE` until its epoch is later than that, and send this process SIGHUP",
            self.admission.epoch,
            self.least.unwrap_or_default()
        )
    }
}

#[cfg(test)]
mod tests;
