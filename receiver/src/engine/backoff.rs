//! When to NACK: RFC 5401's truncated exponential over the sender's NACK window.
//!
//! Most draws lie late in the window, few early: with many receivers the first few NACKs come early, their
//! promises are heard, and the rest stay silent; with one receiver nothing is waited for long. K = 6 is in
//! the window itself, since receivers cannot hear each other.

use std::time::Duration;

use rand::{Rng, RngExt};

/// A random delay within `window` for a group of `size` receivers.
pub(super) fn draw(rng: &mut impl Rng, window: Duration, size: u32) -> Duration {
    if size <= 1 {
        // Alone there is nobody to wait for; a moment lets the demands of a burst share a datagram.
        return window / 16;
    }
    let lambda = f64::from(size).ln() + 1.0;
    let uniform: f64 = rng.random_range(0.0..1.0);
    // RFC 5401, 5.1: x uniform in [lambda/(T(e^lambda-1)), that + lambda/T); t = T/lambda * ln(x (e^lambda-1) T/lambda).
    let stretched = uniform.mul_add(lambda.exp_m1(), 1.0).ln() / lambda;
    window.mul_f64(stretched.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn few_of_a_large_group_answer_early() {
        let mut rng = rand::rngs::StdRng::seed_from_u64(1);
        let window = Duration::from_millis(600);
        let draws: Vec<_> = (0..10_000).map(|_| draw(&mut rng, window, 10_000)).collect();
        assert!(draws.iter().all(|d| *d <= window));
        // Within the first sixth (one GRTT) come a handful of ten thousand.
        let early = draws.iter().filter(|d| **d < window / 6).count();
        assert!((1..=30).contains(&early), "{early}");
        assert!(draw(&mut rng, window, 1) < window / 6);
    }
}
