//! When a receiver whose ticket holds no secret asks a sender for it, and when again.
//!
//! | it happens | it asks |
//! |---|---|
//! | a start without a secret | at once |
//! | a sender announces an epoch whose secret is not held | at a random time before that epoch begins |
//! | advertisements come in an epoch whose secret is not held | after a random moment; anybody may send such bytes, so what brought nothing is tried less and less often |
//! | a source refuses what is held | the same: it may be in a later epoch, of which who only pulls hears nothing else |
//! | no sender could be asked | again, less and less often |
//! | a sender refused | again, seldom: somebody may put the node on the list |

use std::time::Duration;

use nackcast_common::clock::Time;
use nackcast_common::ids::Epoch;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// First wait, and the longest one, after no sender could be asked.
const UNREACHED: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// The same after a sender refused.
const REFUSED: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(300));
/// The same before asking because of bytes that do not open.
const UNOPENED: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(600));
/// Of the time until an announced epoch begins, so many hundredths are used to ask: the rest is for another try.
const ANNOUNCED_PERCENT: u32 = 75;

/// An announced epoch that still did not begin so long after its time is asked for no more.
const ANNOUNCED_STAYS: Duration = Duration::from_mins(10);

/// How a try ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// With a secret that was not held before.
    New,
    /// With what was held already.
    Known,
    /// A sender said no.
    Refused,
    /// Nobody answered.
    Unreached,
}

/// The machine of one channel.
#[derive(Debug)]
pub(super) struct Joining {
    rng: StdRng,
    asks_at: Option<Time>,
    is_asking: bool,
    /// Tries in a row that brought nothing.
    futile: u32,
    /// The epoch that was announced last, and until when that is to be believed: it may never begin.
    announced: Option<(Epoch, Time)>,
    is_refused: bool,
}

impl Joining {
    /// Begins; it asks at once when no secret is held.
    pub(super) fn new(now: Time, seed: u64, holds_none: bool) -> Self {
        Self {
            rng: StdRng::seed_from_u64(seed ^ 0x4A4F_494E),
            asks_at: holds_none.then_some(now),
            is_asking: false,
            futile: 0,
            announced: None,
            is_refused: false,
        }
    }

    /// A sender announces an epoch whose secret is not held.
    pub(super) fn on_announced(&mut self, now: Time, epoch: Epoch, within: Duration) {
        if self.announced(now) >= Some(epoch) {
            return;
        }
        self.announced = Some((epoch, now + within + ANNOUNCED_STAYS));
        self.futile = 0;
        let share = self.rng.random_range(0..=ANNOUNCED_PERCENT);
        self.ask_at(now + within * share / 100);
    }

    /// An advertisement came in an epoch whose secret is not held, or a source refused what is. Whatever bytes come so, they
    /// never make a wait shorter.
    pub(super) fn on_unopened(&mut self, now: Time) {
        if self.asks_at.is_some() || self.is_asking {
            return;
        }
        let wait = self.wait(UNOPENED);
        self.ask_at(now + wait);
    }

    /// A deadline passed: whether to ask now.
    pub(super) fn take(&mut self, now: Time) -> bool {
        let asks = !self.is_asking && self.asks_at.is_some_and(|at| now >= at);
        if asks {
            (self.asks_at, self.is_asking) = (None, true);
        }
        asks
    }

    /// A try ended; `lacks`: there is still something to ask for.
    pub(super) fn on_ended(&mut self, now: Time, ended: Ended, lacks: bool) {
        self.is_asking = false;
        self.is_refused = ended == Ended::Refused;
        let wait = match ended {
            Ended::New => {
                self.futile = 0;
                lacks.then_some(UNREACHED)
            }
            Ended::Known => lacks.then_some(UNREACHED),
            Ended::Unreached => Some(UNREACHED),
            Ended::Refused => Some(REFUSED),
        };
        if let Some(wait) = wait {
            let wait = self.wait(wait);
            self.ask_at(now + wait);
        }
        if ended != Ended::New {
            self.futile = self.futile.saturating_add(1);
        }
    }

    /// The last sender that answered refused.
    pub(super) const fn is_refused(&self) -> bool {
        self.is_refused
    }

    /// The epoch that was announced last.
    pub(super) fn announced(&self, now: Time) -> Option<Epoch> {
        self.announced.filter(|(_, until)| now < *until).map(|(epoch, _)| epoch)
    }

    /// When to look.
    pub(super) fn deadline(&self) -> Option<Time> {
        self.asks_at.filter(|_| !self.is_asking)
    }

    fn ask_at(&mut self, at: Time) {
        self.asks_at = Some(self.asks_at.map_or(at, |earlier| earlier.min(at)));
    }

    /// Longer with each try in vain, and never the same for two receivers.
    fn wait(&mut self, (first, longest): (Duration, Duration)) -> Duration {
        let wait = first.saturating_mul(2_u32.saturating_pow(self.futile.min(16))).min(longest);
        wait.mul_f64(self.rng.random_range(0.25..1.25))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(seconds: u64) -> Time {
        Time(seconds * 1_000_000)
    }

    /// When it asks next, as long as nothing else happens.
    fn asks(joining: &mut Joining) -> Option<Time> {
        let at = joining.deadline()?;
        assert!(!joining.take(at.before(Duration::from_micros(1))));
        assert!(joining.take(at) && joining.deadline().is_none() && !joining.take(at), "once");
        Some(at)
    }

    #[test]
    fn without_a_secret_it_asks_at_once_and_until_somebody_answers() {
        let mut joining = Joining::new(at(5), 1, true);
        assert_eq!(asks(&mut joining), Some(at(5)));
        let (mut now, mut waits) = (at(5), Vec::new());
        for _ in 0..12 {
            joining.on_ended(now, Ended::Unreached, true);
            let next = asks(&mut joining).unwrap();
            waits.push(next.since(now));
            now = next;
        }
        assert!(waits[0] <= Duration::from_millis(1250) && waits[11] >= Duration::from_secs(15), "{waits:?}");
        assert!(waits.iter().all(|wait| *wait <= Duration::from_secs(75)), "{waits:?}");
        joining.on_ended(now, Ended::New, false);
        assert_eq!(joining.deadline(), None);
    }

    #[test]
    fn a_refusal_is_no_end_and_is_remembered_until_somebody_says_yes() {
        let mut joining = Joining::new(at(0), 1, true);
        joining.take(at(0));
        joining.on_ended(at(0), Ended::Refused, true);
        assert!(joining.is_refused());
        let next = asks(&mut joining).unwrap();
        assert!(next > at(1));
        joining.on_ended(next, Ended::New, false);
        assert!(!joining.is_refused());
    }

    #[test]
    fn an_announced_epoch_is_asked_for_before_it_begins_and_not_by_all_at_once() {
        let mut times = std::collections::BTreeSet::new();
        for seed in 0..100 {
            let mut joining = Joining::new(at(0), seed, false);
            assert_eq!(joining.deadline(), None, "a secret is held");
            joining.on_announced(at(10), Epoch(2), Duration::from_secs(30));
            let first = joining.deadline();
            joining.on_announced(at(11), Epoch(2), Duration::from_secs(29));
            assert_eq!(joining.deadline(), first, "it is said with each advertisement");
            times.insert(asks(&mut joining).unwrap());
        }
        assert!(*times.first().unwrap() >= at(10) && *times.last().unwrap() <= at(33), "{times:?}");
        assert!(times.len() > 30, "{times:?}");
    }

    #[test]
    fn bytes_that_do_not_open_make_it_ask_seldom() {
        let mut joining = Joining::new(at(0), 1, false);
        let (mut asked, mut tries) = (Vec::new(), 0);
        for second in 0..3600 {
            let now = at(second);
            joining.on_unopened(now);
            if joining.take(now) {
                asked.push(now);
                tries += 1;
                joining.on_ended(now, Ended::Known, false);
            }
        }
        assert!((5..25).contains(&tries), "{asked:?}");
        assert!(asked[0] <= at(4), "{asked:?}");
    }
}
