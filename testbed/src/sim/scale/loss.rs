//! Which datagrams are lost.
//!
//! Losses are drawn by the distance to the next one, so that what arrives costs nothing.

use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};

/// How datagrams are lost: on a link that some receivers share, and on each receiver's own.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Loss {
    /// On each receiver's own link, of 1.
    pub own: f64,
    /// On a link that receivers share.
    pub shared: f64,
    /// How many such links there are; receivers are spread over them evenly.
    pub links: u32,
}

impl Loss {
    /// Every receiver for itself.
    #[must_use]
    pub const fn independent(share: f64) -> Self {
        Self { own: share, shared: 0.0, links: 0 }
    }

    /// All receivers behind links that lose, one link or more.
    #[must_use]
    pub const fn behind(links: u32, share: f64, own: f64) -> Self {
        Self { own, shared: share, links }
    }
}

/// A stream of datagrams of which some are lost, each with the same probability.
#[derive(Debug)]
pub(super) struct Losses {
    /// ln(1 - probability); none when nothing is lost.
    scale: Option<f64>,
    random: Xoshiro256PlusPlus,
    /// Arrive before the next that is lost.
    until_next: u64,
}

impl Losses {
    pub(super) fn new(share: f64, seed: u64) -> Self {
        let scale = (share > 0.0).then(|| (-share.min(0.999)).ln_1p());
        let mut losses = Self { scale, random: Xoshiro256PlusPlus::seed_from_u64(seed), until_next: u64::MAX };
        losses.until_next = losses.distance();
        losses
    }

    fn distance(&mut self) -> u64 {
        let Some(scale) = self.scale else { return u64::MAX };
        let uniform: f64 = self.random.random_range(f64::MIN_POSITIVE..1.0);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "positive, and saturating is right"
        )]
        let distance = (uniform.ln() / scale) as u64;
        distance
    }

    /// Adds the places of those of the next `count` that are lost, ascending.
    pub(super) fn draw(&mut self, count: u16, lost: &mut Vec<u16>) {
        let mut left = u64::from(count);
        while self.until_next < left {
            let at = u64::from(count) - left + self.until_next;
            lost.push(u16::try_from(at).unwrap_or(u16::MAX));
            left -= self.until_next + 1;
            self.until_next = self.distance();
        }
        self.until_next = self.until_next.saturating_sub(left);
    }

    /// Whether the next one is lost.
    pub(super) fn one(&mut self) -> bool {
        let lost = self.until_next == 0;
        self.until_next =
            if lost { self.distance() } else { self.until_next.saturating_sub(u64::from(self.scale.is_some())) };
        lost
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_are_lost_as_was_said() {
        for share in [0.0, 0.01, 0.05, 0.3] {
            let mut losses = Losses::new(share, 7);
            let mut lost = 0;
            let mut places = Vec::new();
            for round in 0..200_000_u32 {
                places.clear();
                losses.draw(40, &mut places);
                assert!(places.windows(2).all(|w| w[0] < w[1]) && places.iter().all(|at| *at < 40));
                lost += places.len() + usize::from(round % 2 == 0 && losses.one());
            }
            let expected = share * (200_000.0 * 40.5);
            assert!((lost as f64 - expected).abs() <= 5.0 * expected.sqrt(), "{lost} of {expected}");
        }
    }
}
