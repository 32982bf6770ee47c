//! The network of a cast: a delay everywhere, loss between senders and receivers, and cuts between any two nodes.

use std::collections::BTreeMap;
use std::time::Duration;

use nackcast_common::clock::Time;
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};

use super::cast::Cast;

#[derive(Debug)]
pub(super) struct Wires {
    senders: usize,
    delay: Duration,
    loss: f64,
    cut_until: BTreeMap<(usize, usize), Time>,
    random: Xoshiro256PlusPlus,
}

impl Wires {
    pub(super) fn new(cast: &Cast) -> Self {
        Self {
            senders: cast.parts.len(),
            delay: Duration::from_micros(cast.delay_us),
            loss: cast.loss,
            cut_until: BTreeMap::new(),
            random: Xoshiro256PlusPlus::seed_from_u64(cast.seed ^ 0xB17E),
        }
    }

    pub(super) fn cut(&mut self, from: usize, to: usize, until: Time) {
        let cut = self.cut_until.entry((from, to)).or_insert(until);
        *cut = until.max(*cut);
    }

    pub(super) fn heal(&mut self) {
        self.cut_until.clear();
        self.loss = 0.0;
    }

    fn is_cut(&self, now: Time, from: usize, to: usize) -> bool {
        self.cut_until.get(&(from, to)).is_some_and(|until| now < *until)
    }

    /// Each reaches the other.
    pub(super) fn join(&self, now: Time, one: usize, other: usize) -> bool {
        !self.is_cut(now, one, other) && !self.is_cut(now, other, one)
    }

    /// When what is sent now arrives, if it does.
    pub(super) fn pass(&mut self, now: Time, from: usize, to: usize) -> Option<Time> {
        let between_senders = from < self.senders && to < self.senders;
        let is_lost = !between_senders && self.loss > 0.0 && self.random.random_bool(self.loss);
        (!is_lost && !self.is_cut(now, from, to)).then_some(now + self.delay)
    }
}
