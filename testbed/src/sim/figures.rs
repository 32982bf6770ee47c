//! What a run cost, and when everybody had everything: the same figures of a simulated run and of a real one.

use std::time::Duration;

use nackcast_proto::wire::DatagramType;

use crate::fabric::{Amount, Datagrams};

/// Counted on the sender's cable.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// What the sender put on it.
    pub sent: Datagrams,
    /// What came to the sender.
    pub heard: Datagrams,
    /// When each receiver was complete for the last time, from the first advertisement on.
    pub complete_at: Vec<Option<Duration>>,
}

impl Figures {
    /// Symbols that were sent.
    #[must_use]
    pub fn symbols(&self) -> Amount {
        self.sent.of(DatagramType::Symbol)
    }

    /// NACKs that came to the sender.
    #[must_use]
    pub fn nacks(&self) -> Amount {
        self.heard.of(DatagramType::Nack)
    }

    /// Pairs of receivers of which here the first was complete at least `margin` before the second, but not there.
    #[must_use]
    pub fn other_order(&self, there: &Self, margin: Duration) -> Vec<(usize, usize)> {
        let receivers = 0..self.complete_at.len();
        let pairs = receivers.clone().flat_map(|first| receivers.clone().map(move |second| (first, second)));
        pairs.filter(|pair| self.is_before(*pair, margin) && !there.is_before(*pair, Duration::ZERO)).collect()
    }

    fn is_before(&self, (first, second): (usize, usize), margin: Duration) -> bool {
        let at = |receiver: usize| self.complete_at.get(receiver).copied().flatten();
        match (at(first), at(second)) {
            (Some(first), Some(second)) => first + margin < second,
            (Some(_), None) => true,
            (None, _) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(complete_at: [Option<u64>; 3]) -> Figures {
        Figures { complete_at: complete_at.map(|at| at.map(Duration::from_millis)).into(), ..Figures::default() }
    }

    #[test]
    fn a_clear_order_must_be_the_same_and_another_may_differ() {
        let here = figures([Some(1000), Some(1100), Some(5000)]);
        let margin = Duration::from_millis(500);
        assert_eq!(here.other_order(&figures([Some(2100), Some(2000), Some(2200)]), margin), []);
        assert_eq!(here.other_order(&figures([Some(2000), Some(2300), Some(2200)]), margin), [(1, 2)]);
        assert_eq!(here.other_order(&figures([None, Some(2000), Some(2200)]), margin), [(0, 2)]);
        assert_eq!(figures([Some(1), None, Some(2)]).other_order(&here, margin), [(2, 1)]);
    }
}
