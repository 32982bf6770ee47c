//! Nothing is pulled while multicast brings it: unicast is the last resort, never earlier.
//!
//! A receiver may have asked for blocks of an object only
//! - after a sender answered that it has no passes left for it, and none has promised it since,
//! - where it is so configured, the same of an object that a sender does not have,
//! - or when no answer came for as long as three cycles of NACKs take at least.
//!
//! What was asked and answered is read from datagrams, by the receiver's own clock.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use nackcast_common::clock::Time;
use nackcast_common::ids::{ObjectId, RunId, SessionId, StartNumber};
use nackcast_common::manifest::Manifest;
use nackcast_common::ranges::RangeSet;
use nackcast_proto::wire::{Advertisement, Nack, NackAnswer, NackStatus};
use nackcast_receiver::engine::PullWhen;

use super::Verdict;
use super::promises::silent_after;
use crate::sim::wiretap::{Said, asked_for};

/// Tries of `nack_retry` that three cycles have.
const TRIES: u32 = 3 * 4;
/// A receiver may have forgotten a NACK that is older, or so many NACKs ago.
const AGE_SURE: Duration = Duration::from_secs(9);
const NUMBER_SURE: u64 = 200;

/// The oracle.
#[derive(Debug)]
pub struct LastResort {
    when: PullWhen,
    nack_retry: Duration,
    /// NACKs that ask for something and that a sender read, and the manifest that they speak of.
    asked: BTreeMap<(RunId, u64), Asked>,
    receivers: BTreeMap<u32, Seen>,
}

#[derive(Debug)]
struct Asked {
    ids: Vec<ObjectId>,
    manifest: Option<Arc<Manifest>>,
}

/// A session that a receiver heard: the order of its start, when last, and how long it may be silent.
#[derive(Clone, Copy, Debug)]
struct Session {
    start: StartNumber,
    at: Time,
    silent: Duration,
}

/// What a receiver sent and read. Times are of its own clock.
#[derive(Debug, Default)]
struct Seen {
    run: RunId,
    sent: BTreeMap<u64, Time>,
    heard: BTreeMap<SessionId, Session>,
    answered: BTreeSet<u64>,
    /// The last answer that it must have taken, or its start.
    answered_at: Time,
    /// What no sender brings any more, and the NACK that was answered so.
    unicast: BTreeMap<ObjectId, u64>,
    unknown: BTreeMap<ObjectId, u64>,
}

impl LastResort {
    /// With the receivers' configuration.
    #[must_use]
    pub const fn new(when: PullWhen, nack_retry: Duration) -> Self {
        Self { when, nack_retry, asked: BTreeMap::new(), receivers: BTreeMap::new() }
    }

    /// The receiver's process is a new one, with a new clock.
    pub fn on_start(&mut self, now: Time, receiver: u32) {
        self.receivers.insert(receiver, Seen { answered_at: now, ..Seen::default() });
    }

    /// A receiver sent this NACK, or report.
    pub fn on_sent(&mut self, now: Time, receiver: u32, run: RunId, packet: u64) {
        let seen = self.receivers.entry(receiver).or_default();
        seen.run = run;
        seen.sent.insert(packet, now);
    }

    /// A sender read it.
    pub fn on_nack(&mut self, run: RunId, packet: u64, nack: &Nack, manifest: Option<&Arc<Manifest>>) {
        let ids = asked_for(nack, manifest.map(|manifest| &**manifest));
        if !ids.is_empty() {
            self.asked.insert((run, packet), Asked { ids, manifest: manifest.cloned() });
        }
    }

    /// The receiver read this.
    pub fn on_heard(&mut self, now: Time, receiver: u32, said: &Said) {
        match said {
            Said::Advertisement(advertisement) => self.on_advertisement(now, receiver, advertisement),
            Said::Answer(answer) => self.on_answer(now, receiver, answer),
            Said::Digest(_) | Said::Symbol(_) => {}
        }
    }

    fn on_advertisement(&mut self, now: Time, receiver: u32, advertisement: &Advertisement) {
        let heard = &mut self.receivers.entry(receiver).or_default().heard;
        let (start, silent) = (advertisement.start_number, silent_after(advertisement.interval));
        // A sender that began anew has forgotten its earlier session, and so has who heard the new one, whatever of the
        // earlier one still comes.
        if heard.values().all(|session| session.start <= start) {
            heard.retain(|_, session| session.start == start);
            heard.insert(advertisement.session, Session { start, at: now, silent });
        }
    }

    fn on_answer(&mut self, now: Time, receiver: u32, answer: &NackAnswer) {
        let seen = self.receivers.entry(receiver).or_default();
        // The same answer may arrive twice, and a NACK be answered twice: the first counts.
        let Some(asked) = self.asked.get(&(answer.run, answer.nack)) else { return };
        if answer.run != seen.run || !seen.answered.insert(answer.nack) {
            return;
        }
        let newest = seen.sent.last_key_value().map_or(0, |(packet, _)| *packet);
        let sent_lately = seen.sent.get(&answer.nack).is_some_and(|at| now.since(*at) < AGE_SURE);
        let is_live = seen.heard.get(&answer.session).is_some_and(|session| now.since(session.at) < session.silent);
        // Whether the receiver takes this one nobody can tell from outside: it may, and it need not.
        let is_sure = sent_lately && is_live && newest.saturating_sub(answer.nack) < NUMBER_SURE;
        let of = |places: &RangeSet, ids: &[ObjectId]| -> BTreeSet<ObjectId> {
            let place = |id: &ObjectId| asked.manifest.as_ref().and_then(|manifest| manifest.index_of(*id));
            let named = |id: &&ObjectId| ids.contains(id) || place(id).is_some_and(|at| places.contains(at.0));
            asked.ids.iter().filter(named).copied().collect()
        };
        let unicast = of(&answer.unicast, &answer.unicast_ids);
        let unknown = of(&answer.unknown, &answer.unknown_ids);
        if is_sure {
            seen.answered_at = now;
            if matches!(answer.status, NackStatus::Queued | NackStatus::Sending) {
                // What came of an earlier NACK, and was held up on the way, says nothing new.
                for permits in [&mut seen.unicast, &mut seen.unknown] {
                    permits.retain(|id, nack| *nack > answer.nack || !asked.ids.contains(id));
                }
            }
        }
        seen.unicast.extend(unicast.into_iter().map(|id| (id, answer.nack)));
        seen.unknown.extend(unknown.into_iter().map(|id| (id, answer.nack)));
    }

    /// A receiver asks for the manifest, or waits for what it asked for.
    ///
    /// # Errors
    /// When a sender answers it.
    pub fn on_manifest(&self, now: Time, receiver: u32) -> Verdict {
        self.alone(now, receiver).map_err(|why| format!("receiver {receiver} asks others for the manifest, and {why}"))
    }

    /// A receiver asks for blocks of an object, or waits for what it asked for.
    ///
    /// # Errors
    /// When multicast brings it.
    pub fn on_fetch(&self, now: Time, receiver: u32, object: ObjectId, blocks: &Range<u32>) -> Verdict {
        let permits = |seen: &Seen| {
            seen.unicast.contains_key(&object) || self.when == PullWhen::Unknown && seen.unknown.contains_key(&object)
        };
        if self.receivers.get(&receiver).is_some_and(permits) {
            return Ok(());
        }
        self.alone(now, receiver)
            .map_err(|why| format!("receiver {receiver} pulls blocks {blocks:?} of object {object}, and {why}"))
    }

    /// Nobody answers it.
    fn alone(&self, now: Time, receiver: u32) -> Verdict {
        let since = self.receivers.get(&receiver).map_or(Time::ZERO, |seen| seen.answered_at);
        let (silence, enough) = (now.since(since), self.nack_retry * TRIES);
        if silence >= enough {
            return Ok(());
        }
        Err(format!("a sender answered {silence:?} ago; {enough:?} of silence are due"))
    }
}

#[cfg(test)]
mod tests {
    use nackcast_proto::wire::ShortObject;

    use super::*;

    const RUN: RunId = RunId(3);
    const OBJECT: ObjectId = ObjectId(7);

    /// Asks with this packet number, and is answered so.
    fn answered(oracle: &mut LastResort, now: Time, packet: u64, status: NackStatus) {
        oracle.on_sent(now, 0, RUN, packet);
        let short = vec![ShortObject { object: OBJECT, blocks: vec![(0, 1)] }];
        oracle.on_nack(RUN, packet, &Nack { short, ..Nack::default() }, None);
        let mut answer = NackAnswer { run: RUN, nack: packet, status, ..NackAnswer::default() };
        match status {
            NackStatus::Unicast => answer.unicast_ids = vec![OBJECT],
            NackStatus::Unknown => answer.unknown_ids = vec![OBJECT],
            _ => {}
        }
        let session = Session { start: StartNumber(1), at: now, silent: Duration::from_secs(1) };
        oracle.receivers.entry(0).or_default().heard.insert(answer.session, session);
        oracle.on_heard(now, 0, &Said::Answer(answer));
    }

    #[test]
    fn only_what_no_pass_is_left_for_may_be_pulled_and_only_until_one_is() {
        let mut oracle = LastResort::new(PullWhen::Last, Duration::from_millis(200));
        oracle.on_start(Time(0), 0);
        let at = |ms: u64| Time(ms * 1000);
        let fetch = |oracle: &LastResort, ms| oracle.on_fetch(at(ms), 0, OBJECT, &(0..1)).is_ok();
        assert!(!fetch(&oracle, 2_399) && fetch(&oracle, 2_400), "nobody answers");
        answered(&mut oracle, at(3_000), 1, NackStatus::Unknown);
        assert!(!fetch(&oracle, 3_000), "not so configured");
        answered(&mut oracle, at(3_000), 2, NackStatus::Unicast);
        assert!(fetch(&oracle, 3_000));
        assert!(oracle.on_manifest(at(3_000), 0).is_err(), "of the manifest nothing was said");
        answered(&mut oracle, at(4_000), 3, NackStatus::Queued);
        assert!(!fetch(&oracle, 4_000));
        assert!(fetch(&oracle, 6_400));
    }
}
