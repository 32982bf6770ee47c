//! No object gets more than `max_passes` passes in a round, a round ends only in silence, and nothing is sent of an
//! object without a pass.
//!
//! Silence is that the sender took no NACK for the object, as its answers tell, and began no pass of it.

use std::collections::BTreeMap;
use std::time::Duration;

use nackcast_common::clock::Time;
use nackcast_common::ids::{ObjectId, RunId};
use nackcast_common::manifest::Manifest;
use nackcast_proto::wire::{Nack, NackAnswer, NackStatus};

use super::Verdict;
use crate::sim::wiretap::asked_for;

/// The oracle.
#[derive(Clone, Debug)]
pub struct Passes {
    max_passes: u32,
    round_quiet: Duration,
    asked: BTreeMap<(RunId, u64), Vec<ObjectId>>,
    rounds: BTreeMap<ObjectId, Round>,
}

#[derive(Clone, Copy, Debug)]
struct Round {
    passes: u32,
    /// The last pass, or NACK.
    last: Time,
    /// It was asked for after enough silence.
    is_over: bool,
}

impl Passes {
    /// With the sender's numbers.
    #[must_use]
    pub const fn new(max_passes: u32, round_quiet: Duration) -> Self {
        Self { max_passes, round_quiet, asked: BTreeMap::new(), rounds: BTreeMap::new() }
    }

    /// The sender read a NACK.
    pub fn on_nack(&mut self, run: RunId, packet: u64, nack: &Nack, manifest: Option<&Manifest>) {
        let ids = asked_for(nack, manifest);
        if !ids.is_empty() {
            self.asked.insert((run, packet), ids);
        }
    }

    /// The sender answers it.
    pub fn on_answer(&mut self, now: Time, answer: &NackAnswer, manifest: Option<&Manifest>) {
        let Some(asked) = self.asked.remove(&(answer.run, answer.nack)) else { return };
        if !matches!(answer.status, NackStatus::Queued | NackStatus::Sending) {
            return;
        }
        let place = |id: &ObjectId| manifest.and_then(|m| m.index_of(*id)).map(|index| index.0);
        let is_refused = |id: &ObjectId| {
            answer.unicast_ids.contains(id)
                || answer.unknown_ids.contains(id)
                || place(id).is_some_and(|at| answer.unicast.contains(at) || answer.unknown.contains(at))
        };
        for id in asked.into_iter().filter(|id| !is_refused(id)) {
            if let Some(round) = self.rounds.get_mut(&id) {
                round.is_over |= now.since(round.last) >= self.round_quiet;
                round.last = now;
            }
        }
    }

    /// The sender stored that a pass begins.
    ///
    /// # Errors
    /// When it is one too many, or the count does not follow the one before.
    pub fn on_pass(&mut self, now: Time, object: ObjectId, count: u32) -> Verdict {
        let before = self.rounds.insert(object, Round { passes: count, last: now, is_over: false });
        if count > self.max_passes {
            return Err(format!("pass {count} of object {object} in one round; {} are allowed", self.max_passes));
        }
        match before {
            None if count != 1 => Err(format!("the first pass of object {object} is counted as {count}")),
            Some(Round { passes, last, is_over })
                // A round that ended in silence begins again at 1.
                if count != passes + 1 && (count != 1 || !is_over && now.since(last) < self.round_quiet) =>
            {
                let after = now.since(last);
                Err(format!("pass {count} of object {object} follows pass {passes} after {after:?}, within one round"))
            }
            None | Some(_) => Ok(()),
        }
    }

    /// The sender sends a symbol.
    ///
    /// # Errors
    /// When no pass of its object was counted.
    pub fn on_symbol(&self, object: ObjectId) -> Verdict {
        if self.rounds.contains_key(&object) {
            return Ok(());
        }
        Err(format!("object {object} is sent, and no pass of it was counted"))
    }

    /// The sender is another process, or stood still: what it was asked before it may never answer.
    pub fn on_excuse(&mut self) {
        self.asked.clear();
    }
}

#[cfg(test)]
mod tests {
    use nackcast_proto::wire::ShortObject;

    use super::*;

    const OBJECT: ObjectId = ObjectId(7);

    fn at(seconds: u64) -> Time {
        Time(seconds * 1_000_000)
    }

    fn passes() -> Passes {
        let mut passes = Passes::new(3, Duration::from_secs(10));
        assert_eq!(passes.on_pass(at(0), OBJECT, 1), Ok(()));
        passes
    }

    fn ask(passes: &mut Passes, second: u64, status: NackStatus) {
        let short = vec![ShortObject { object: OBJECT, blocks: vec![(0, 1)] }];
        passes.on_nack(RunId(1), second, &Nack { short, ..Nack::default() }, None);
        let answer = NackAnswer { run: RunId(1), nack: second, status, ..NackAnswer::default() };
        passes.on_answer(at(second), &answer, None);
    }

    #[test]
    fn a_pass_too_many_is_found_and_one_that_does_not_follow() {
        assert!(passes().on_pass(at(1), OBJECT, 2).is_ok());
        assert!(passes().on_pass(at(1), OBJECT, 3).is_err());
        assert!(passes().on_pass(at(1), OBJECT, 1).is_err());
        assert!(passes().on_pass(at(10), OBJECT, 1).is_ok());
        assert!(Passes::new(3, Duration::from_secs(10)).on_pass(at(0), OBJECT, 2).is_err());
        let mut passes = passes();
        assert!((2..=3).all(|count| passes.on_pass(at(1), OBJECT, count).is_ok()));
        assert!(passes.on_pass(at(1), OBJECT, 4).is_err());
    }

    #[test]
    fn a_round_that_ends_while_it_is_asked_for_is_found() {
        let mut asked = passes();
        ask(&mut asked, 9, NackStatus::Queued);
        assert!(asked.clone().on_pass(at(12), OBJECT, 1).is_err());
        // After silence it is asked for, and waits for its turn.
        ask(&mut asked, 19, NackStatus::Queued);
        ask(&mut asked, 20, NackStatus::Queued);
        assert!(asked.on_pass(at(21), OBJECT, 1).is_ok());
        let mut refused = passes();
        ask(&mut refused, 9, NackStatus::Noted);
        assert!(refused.on_pass(at(12), OBJECT, 1).is_ok(), "what is refused keeps no round open");
    }

    #[test]
    fn what_is_sent_without_a_pass_is_found() {
        assert!(passes().on_symbol(OBJECT).is_ok());
        assert!(passes().on_symbol(ObjectId(8)).is_err());
    }
}
