//! What the sender took on it sends: an object that it answered `queued` or `sending` for has a symbol sent, or is
//! answered otherwise, within a stated time, as long as it is asked for.

use std::collections::BTreeMap;
use std::time::Duration;

use nackcast_common::clock::Time;
use nackcast_common::ids::{ObjectId, RunId};
use nackcast_common::manifest::Manifest;
use nackcast_proto::wire::{Nack, NackAnswer, NackStatus};

use super::Verdict;
use crate::sim::wiretap::asked_for;

/// So many times the whole content may go first, when everybody asks for everything again and again.
const TURNS: u64 = 4;
/// And so much for windows, for the first pass to begin, and for a busy disk.
const AIR: Duration = Duration::from_secs(10);

/// The oracle.
#[derive(Debug)]
pub struct Pool {
    /// The slowest that the sender was.
    rate_bps: u64,
    period: Duration,
    /// Bytes of the largest generation; and how long an object may wait.
    bytes: u64,
    patience: Duration,
    /// NACKs that are not answered yet, and what they ask.
    asked: BTreeMap<(RunId, u64), Vec<ObjectId>>,
    /// What waits: since when, and when it was asked for last.
    waiting: BTreeMap<ObjectId, (Time, Time)>,
}

impl Pool {
    /// With the sender's numbers.
    #[must_use]
    pub const fn new(rate_bps: u64, period: Duration) -> Self {
        Self { rate_bps, period, bytes: 0, patience: AIR, asked: BTreeMap::new(), waiting: BTreeMap::new() }
    }

    /// A generation was published.
    pub fn learn(&mut self, manifest: &Manifest) {
        self.bytes = self.bytes.max(manifest.objects().iter().map(|object| object.layout.size()).sum());
        self.wait_longer();
    }

    /// The sender says how fast it is.
    pub fn on_rate(&mut self, rate_bps: u64) {
        if rate_bps < self.rate_bps {
            self.rate_bps = rate_bps;
            self.wait_longer();
        }
    }

    fn wait_longer(&mut self) {
        let sending = Duration::from_micros(self.bytes * 8 * 1_000_000 / self.rate_bps.max(1));
        let turns = sending.saturating_mul(u32::try_from(TURNS).unwrap_or(1));
        self.patience = self.patience.max(self.period + turns + AIR);
    }

    /// The sender read a NACK. `manifest` is the one that it speaks of.
    pub fn on_nack(&mut self, run: RunId, packet: u64, nack: &Nack, manifest: Option<&Manifest>) {
        let ids = asked_for(nack, manifest);
        if !ids.is_empty() {
            self.asked.insert((run, packet), ids);
        }
    }

    /// The sender answers it.
    ///
    /// # Errors
    /// When something was taken on long ago, is still asked for, and nothing of it was sent.
    pub fn on_answer(&mut self, now: Time, answer: &NackAnswer, manifest: Option<&Manifest>) -> Verdict {
        let Some(asked) = self.asked.remove(&(answer.run, answer.nack)) else { return Ok(()) };
        if !matches!(answer.status, NackStatus::Queued | NackStatus::Sending) {
            return Ok(());
        }
        let place = |id: &ObjectId| manifest.and_then(|m| m.index_of(*id)).map(|index| index.0);
        for id in asked {
            let listed = |ids: &[ObjectId]| ids.contains(&id);
            let refused = listed(&answer.unicast_ids) || listed(&answer.unknown_ids);
            if refused || place(&id).is_some_and(|at| answer.unicast.contains(at) || answer.unknown.contains(at)) {
                self.waiting.remove(&id);
                continue;
            }
            let (since, last) = self.waiting.entry(id).or_insert((now, now));
            if now.since(*last) > self.patience / 2 {
                // Whoever asked then is served; this is another need.
                *since = now;
            }
            *last = now;
            if now.since(*since) > self.patience {
                let waited = now.since(*since);
                return Err(format!("object {id} is said to be queued since {waited:?}, and nothing of it is sent"));
            }
        }
        Ok(())
    }

    /// A symbol leaves the sender.
    pub fn on_symbol(&mut self, object: ObjectId) {
        self.waiting.remove(&object);
    }

    /// The sender is another process, stood still, or could not read its content.
    pub fn on_excuse(&mut self) {
        self.asked.clear();
        self.waiting.clear();
    }
}

#[cfg(test)]
mod tests {
    use nackcast_proto::wire::ShortObject;

    use super::*;

    const OBJECT: ObjectId = ObjectId(7);

    /// Asks each second, and each is answered so; when that is found to be wrong.
    fn found(pool: &mut Pool, status: NackStatus, sent_every: u64) -> Option<u64> {
        (1..200).find(|second| {
            let now = Time(second * 1_000_000);
            let short = vec![ShortObject { object: OBJECT, blocks: vec![(0, 1)] }];
            pool.on_nack(RunId(1), *second, &Nack { short, ..Nack::default() }, None);
            if second % sent_every == 0 {
                pool.on_symbol(OBJECT);
            }
            let answer = NackAnswer { run: RunId(1), nack: *second, status, ..NackAnswer::default() };
            pool.on_answer(now, &answer, None).is_err()
        })
    }

    #[test]
    fn what_is_queued_for_ever_is_found() {
        let pool = || Pool::new(1_000_000, Duration::from_secs(1));
        assert_eq!(found(&mut pool(), NackStatus::Queued, u64::MAX), Some(12));
        assert_eq!(found(&mut pool(), NackStatus::Queued, 9), None);
        assert_eq!(found(&mut pool(), NackStatus::Noted, u64::MAX), None);
    }
}
