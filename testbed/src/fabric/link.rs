//! One direction of a host's cable: what may go wrong on it, and the decision for each frame.
//!
//! Pure: a decision depends on the link, the seed, and the sizes and times of the frames so far.

use std::time::Duration;

use nackcast_common::clock::Time;
use rand::rngs::Xoshiro256PlusPlus;
use rand::{Rng as _, RngExt as _, SeedableRng as _};

/// How late a frame comes that was chosen for reordering, at least and at most.
const HELD_BACK: std::ops::RangeInclusive<u64> = 1_000_000..=5_000_000;

/// Loss in bursts: a chain of two states, each with its own loss.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GilbertElliott {
    /// Probability, per frame, to go from the good to the bad state.
    pub to_bad: f64,
    /// Probability, per frame, to go from the bad to the good state.
    pub to_good: f64,
    /// Loss in the good state.
    pub loss_good: f64,
    /// Loss in the bad state.
    pub loss_bad: f64,
}

impl GilbertElliott {
    /// Bursts in which everything is lost, `length` frames long on average, that cost the share `loss` in all.
    #[must_use]
    pub fn bursts(loss: f64, length: f64) -> Self {
        let to_good = 1.0 / length.max(1.0);
        let to_bad = (to_good * loss / (1.0 - loss).max(f64::EPSILON)).min(1.0);
        Self { to_bad, to_good, loss_good: 0.0, loss_bad: 1.0 }
    }
}

/// What one direction of a host's cable does to UDP and TCP frames. ARP, neighbour discovery and group
/// membership always pass untouched. The default is a perfect cable.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Link {
    /// Probability that a frame is lost.
    pub loss: f64,
    /// Loss in bursts, in addition.
    pub burst: Option<GilbertElliott>,
    /// Time that every frame takes. What is under way is held in memory, without a limit.
    pub delay: Duration,
    /// Additional time, uniform from zero to this; it does not change the order.
    pub jitter: Duration,
    /// Probability that a frame is held back for 1 to 5 ms more while later ones overtake it.
    pub reorder: f64,
    /// Probability that a frame arrives twice.
    pub duplicate: f64,
    /// Probability that one bit of the payload is flipped; the checksum is made to agree, so that the
    /// damage reaches the program.
    pub corrupt: f64,
    /// Bits per second of IP packets.
    pub rate_bps: Option<u64>,
    /// With a rate: how many bytes of IP packets may wait; one that finds no room is dropped.
    pub queue_bytes: usize,
    /// Longest IP packet that passes. A longer one is lost, and its sender is not told.
    pub mtu: usize,
}

impl Default for Link {
    fn default() -> Self {
        Self {
            loss: 0.0,
            burst: None,
            delay: Duration::ZERO,
            jitter: Duration::ZERO,
            reorder: 0.0,
            duplicate: 0.0,
            corrupt: 0.0,
            rate_bps: None,
            queue_bytes: 256 << 10,
            mtu: 1500,
        }
    }
}

impl Link {
    /// A cable that loses the share `loss` and is perfect otherwise.
    #[must_use]
    pub fn lossy(loss: f64) -> Self {
        Self { loss, ..Self::default() }
    }
}

/// What becomes of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It is lost by chance, or too long.
    Lost,
    /// It finds the queue full.
    QueueFull,
    /// It passes.
    Passes(Passage),
}

/// How a frame passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Passage {
    /// When it arrives at the other end; `None` means at once.
    pub(crate) due: Option<Nanoseconds>,
    /// Whether it arrives twice.
    pub(crate) twice: bool,
    /// Flip a bit chosen by this number.
    pub(crate) flip: Option<u64>,
}

/// A time on the fabric's clock, finer than [`Time`]: a frame takes 1.2 µs at 10 Gbit/s.
pub(crate) type Nanoseconds = u64;

/// A time as the fabric's clock tells it, in nanoseconds.
pub(crate) fn nanoseconds(time: Time) -> Nanoseconds {
    time.0.saturating_mul(1000)
}

pub(super) fn whole(duration: Duration) -> Nanoseconds {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// A link, its random numbers and its queue.
#[derive(Debug)]
pub(crate) struct LinkState {
    link: Link,
    perfect: bool,
    random: Xoshiro256PlusPlus,
    in_burst: bool,
    /// When the last bit of what waits will have left.
    busy_until: Nanoseconds,
    last_due: Nanoseconds,
    /// When a frame came last: frames of several hosts are not told in order.
    latest: Nanoseconds,
}

impl LinkState {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            link: Link::default(),
            perfect: true,
            random: Xoshiro256PlusPlus::seed_from_u64(seed),
            in_burst: false,
            busy_until: 0,
            last_due: 0,
            latest: 0,
        }
    }

    /// Puts another link in force for the frames to come. What is under way is not changed.
    pub(crate) fn set(&mut self, link: Link) {
        let Link { queue_bytes, mtu, .. } = link;
        (self.link, self.perfect) = (link, link == Link { queue_bytes, mtu, ..Link::default() });
        (self.in_burst, self.busy_until, self.last_due) = (false, 0, 0);
    }

    /// Decides about an IP packet of `length` bytes.
    pub(crate) fn judge(&mut self, length: usize, now: Nanoseconds) -> Fate {
        self.latest = self.latest.max(now);
        let now = self.latest;
        if length > self.link.mtu {
            return Fate::Lost;
        }
        if self.perfect {
            return Fate::Passes(Passage { due: None, twice: false, flip: None });
        }
        if self.is_lost() {
            return Fate::Lost;
        }
        let Some(sent) = self.enqueue(length, now) else { return Fate::QueueFull };
        let due = self.arrival(sent);
        let twice = self.chance(self.link.duplicate);
        let flip = self.chance(self.link.corrupt).then(|| self.random.next_u64());
        Fate::Passes(Passage { due: (due > now).then_some(due), twice, flip })
    }

    fn chance(&mut self, probability: f64) -> bool {
        probability > 0.0 && self.random.random::<f64>() < probability
    }

    fn is_lost(&mut self) -> bool {
        let by_burst = self.link.burst.is_some_and(|burst| {
            let leaves = self.chance(if self.in_burst { burst.to_good } else { burst.to_bad });
            self.in_burst ^= leaves;
            self.chance(if self.in_burst { burst.loss_bad } else { burst.loss_good })
        });
        self.chance(self.link.loss) || by_burst
    }

    /// When the frame has left the queue; `None` where it found no room.
    fn enqueue(&mut self, length: usize, now: Nanoseconds) -> Option<Nanoseconds> {
        let Some(rate) = self.link.rate_bps else { return Some(now) };
        let rate = u128::from(rate.max(1));
        let start = self.busy_until.max(now);
        let waiting = u128::from(start - now) * rate / 8_000_000_000;
        if waiting + length as u128 > self.link.queue_bytes as u128 {
            return None;
        }
        let takes = length as u128 * 8_000_000_000 / rate;
        self.busy_until = start.saturating_add(u64::try_from(takes).unwrap_or(u64::MAX));
        Some(self.busy_until)
    }

    fn arrival(&mut self, sent: Nanoseconds) -> Nanoseconds {
        let jitter = whole(self.link.jitter);
        let jitter = if jitter == 0 { 0 } else { self.random.random_range(0..=jitter) };
        let due = sent.saturating_add(whole(self.link.delay)).saturating_add(jitter);
        if self.chance(self.link.reorder) {
            return due.saturating_add(self.random.random_range(HELD_BACK));
        }
        self.last_due = self.last_due.max(due);
        self.last_due
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn state(link: Link) -> LinkState {
        let mut state = LinkState::new(7);
        state.set(link);
        state
    }

    fn dues(state: &mut LinkState, frames: u64, gap: u64) -> Vec<Option<Nanoseconds>> {
        let fates = (0..frames).map(|n| state.judge(1000, n * gap));
        fates.map(|fate| if let Fate::Passes(passage) = fate { passage.due } else { None }).collect()
    }

    fn lost_of(link: Link, frames: usize) -> usize {
        let mut state = state(link);
        (0..frames).filter(|_| state.judge(1000, 0) == Fate::Lost).count()
    }

    #[test]
    fn a_perfect_cable_touches_nothing() {
        assert!(dues(&mut state(Link::default()), 1000, 1).iter().all(Option::is_none));
    }

    #[test]
    fn what_is_too_long_does_not_pass() {
        let mut state = state(Link { mtu: 1000, ..Link::default() });
        assert!(matches!(state.judge(1000, 0), Fate::Passes(_)));
        assert_eq!(state.judge(1001, 0), Fate::Lost);
    }

    #[test]
    fn loss_by_chance_and_in_bursts_is_what_was_asked() {
        assert!((1_900..2_100).contains(&lost_of(Link::lossy(0.02), 100_000)));
        let burst = Link { burst: Some(GilbertElliott::bursts(0.05, 10.0)), ..Link::default() };
        assert!((4_000..6_000).contains(&lost_of(burst, 100_000)));
    }

    #[test]
    fn one_seed_gives_one_course_of_events() {
        let link =
            Link { loss: 0.3, duplicate: 0.3, corrupt: 0.3, jitter: Duration::from_millis(3), ..Link::default() };
        let run = || {
            let mut state = state(link);
            (0..500).map(|n| state.judge(500, n * 1000)).collect::<Vec<_>>()
        };
        assert_eq!(run(), run());
    }

    #[test]
    fn a_rate_spaces_frames_and_a_full_queue_drops() {
        let link = Link { rate_bps: Some(8_000_000), queue_bytes: 3_500, ..Link::default() };
        let mut state = state(link);
        // 1,000 bytes at 1 MB/s: 1 ms each.
        let due = |millis: u64| Fate::Passes(Passage { due: Some(millis * 1_000_000), twice: false, flip: None });
        let fates: Vec<_> = (0..5).map(|_| state.judge(1000, 0)).collect();
        assert_eq!(fates, [due(1), due(2), due(3), Fate::QueueFull, Fate::QueueFull]);
        assert_eq!(state.judge(1000, 1_500_000), due(4));
    }

    #[test]
    fn reordering_lets_later_frames_overtake() {
        let link = Link { reorder: 0.1, delay: Duration::from_millis(1), ..Link::default() };
        let dues = dues(&mut state(link), 1000, 100_000);
        assert!(!dues.is_sorted());
    }

    proptest! {
        #[test]
        fn jitter_keeps_the_order(jitter in 1_u64..50, gap in 0_u64..10_000_000) {
            let link = Link { jitter: Duration::from_millis(jitter), delay: Duration::from_millis(60), ..Link::default() };
            prop_assert!(dues(&mut state(link), 200, gap).is_sorted());
        }
    }
}
