//! The network between the sender and its receivers: one cable each way for every receiver, with the fabric's own
//! model of what a cable does, and cuts that are made and healed while it runs.

use bytes::{Bytes, BytesMut};
use nackcast_common::clock::Time;

use super::scenario::{LinkSpec, Scenario, Side};
use crate::fabric::{Fate, LinkState, Passage};

/// IP and UDP headers, which count for rates.
const HEADERS_LEN: usize = 28;
const NANOSECONDS: u64 = 1_000;

/// Which way a datagram goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From the sender.
    Down,
    /// To the sender.
    Up,
}

/// All cables.
#[derive(Debug)]
pub struct Network {
    cables: Vec<Cable>,
}

#[derive(Debug)]
struct Cable {
    links: [LinkState; 2],
    cut_until: [Time; 2],
}

/// Datagrams that come out of a cable: when, and their bytes.
pub type Arrivals = [Option<(Time, Bytes)>; 2];

impl Network {
    /// The cables of a scenario's receivers.
    #[must_use]
    pub fn new(scenario: &Scenario) -> Self {
        let cable = |nth: u32| {
            let link = |way: u64, spec: &LinkSpec| {
                let mut state =
                    LinkState::new(scenario.seed ^ (u64::from(nth) << 8 | way).wrapping_mul(0x9E37_79B9_7F4A_7C15));
                state.set(spec.link());
                state
            };
            let [down, up] = scenario.cable(nth);
            Cable { links: [link(0, down), link(1, up)], cut_until: [Time::ZERO; 2] }
        };
        Self { cables: (0..scenario.receivers).map(cable).collect() }
    }

    /// Cuts a receiver's cable.
    pub fn cut(&mut self, receiver: u32, side: Side, until: Time) {
        let Some(cable) = self.cables.get_mut(receiver as usize) else { return };
        let [down, up] = match side {
            Side::Down => [true, false],
            Side::Up => [false, true],
            Side::Both => [true, true],
        };
        for (cut, until_now) in [down, up].into_iter().zip(&mut cable.cut_until) {
            if cut {
                *until_now = until.max(*until_now);
            }
        }
    }

    /// Something passes a receiver's cable both ways.
    #[must_use]
    pub fn is_open(&self, now: Time, receiver: u32) -> bool {
        self.cables.get(receiver as usize).is_some_and(|cable| cable.cut_until.iter().all(|until| now >= *until))
    }

    /// Ends all faults.
    pub fn heal(&mut self, scenario: &Scenario) {
        for (cable, nth) in self.cables.iter_mut().zip(0..) {
            for (link, spec) in cable.links.iter_mut().zip(scenario.cable(nth)) {
                link.set(spec.healed().link());
            }
            cable.cut_until = [Time::ZERO; 2];
        }
    }

    /// A datagram goes into a cable: what comes out, and when.
    pub fn pass(&mut self, now: Time, receiver: u32, way: Way, datagram: &Bytes) -> Arrivals {
        let Some(cable) = self.cables.get_mut(receiver as usize) else { return [None, None] };
        let length = datagram.len() + HEADERS_LEN;
        if now < cable.cut_until[way as usize] {
            return [None, None];
        }
        match cable.links[way as usize].judge(length, now.0 * NANOSECONDS) {
            Fate::Lost | Fate::QueueFull => [None, None],
            Fate::Passes(Passage { due, twice, flip }) => {
                let at = due.map_or(now, |due| Time(due.div_ceil(NANOSECONDS)));
                let bytes = flip.map_or_else(|| datagram.clone(), |bit| flipped(datagram, bit));
                [Some((at, bytes.clone())), twice.then_some((at, bytes))]
            }
        }
    }
}

/// A datagram, or a block, with one bit changed.
pub(super) fn flipped(datagram: &Bytes, bit: u64) -> Bytes {
    let mut bytes = BytesMut::from(&datagram[..]);
    let bits = (bytes.len() as u64 * 8).max(1);
    let at = usize::try_from(bit % bits / 8).unwrap_or(0);
    if let Some(byte) = bytes.get_mut(at) {
        *byte ^= 1 << (bit % 8);
    }
    bytes.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(receivers: u32, spec: &LinkSpec) -> Network {
        Network::new(&Scenario { receivers, down: spec.clone(), up: spec.clone(), ..Scenario::default() })
    }

    #[test]
    fn a_cut_holds_one_way_and_ends() {
        let mut network = network(2, &LinkSpec { loss: 0.0, delay_us: 0, ..LinkSpec::default() });
        let datagram = Bytes::from_static(b"hello");
        network.cut(1, Side::Down, Time(100));
        let mut passes = |at, receiver, way| network.pass(Time(at), receiver, way, &datagram)[0].is_some();
        assert!(!passes(50, 1, Way::Down) && passes(50, 1, Way::Up) && passes(50, 0, Way::Down));
        assert!(passes(100, 1, Way::Down));
    }

    #[test]
    fn what_is_too_long_for_the_cable_does_not_pass() {
        let mut network = network(1, &LinkSpec { loss: 0.0, mtu: 100, ..LinkSpec::default() });
        assert!(network.pass(Time(0), 0, Way::Up, &Bytes::from(vec![0; 72]))[0].is_some());
        assert!(network.pass(Time(0), 0, Way::Up, &Bytes::from(vec![0; 73]))[0].is_none());
    }

    #[test]
    fn a_damaged_datagram_differs_in_one_bit() {
        let mut network = network(1, &LinkSpec { loss: 0.0, corrupt: 1.0, ..LinkSpec::default() });
        let datagram = Bytes::from(vec![0; 50]);
        for _ in 0..100 {
            let [Some((_, bytes)), None] = network.pass(Time(0), 0, Way::Down, &datagram) else {
                panic!("passes once")
            };
            assert_eq!(bytes.iter().map(|b| b.count_ones()).sum::<u32>(), 1);
        }
    }
}
