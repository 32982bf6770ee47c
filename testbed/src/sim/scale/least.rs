//! The least that any sender must send, whatever it knows.
//!
//! With an ideal code a receiver has a block of K symbols as soon as any K of it arrived; the sender is done when
//! the worst of N receivers has. So many symbols are expected for each block that even a sender which knew at once
//! who lacks what could not send fewer.

use super::loss::Loss;

/// Symbols to be sent for `k` to arrive at the worst of `receivers`, expected.
#[must_use]
pub fn least_symbols(k: u16, receivers: u32, loss: Loss) -> f64 {
    // Those behind one link that lose nothing of their own are one receiver.
    let (own, shared) = (loss.own, if loss.links == 0 { 0.0 } else { loss.shared });
    if own <= 0.0 {
        return expected_worst(k, loss.links.max(1).min(receivers), shared);
    }
    if shared <= 0.0 {
        return expected_worst(k, receivers, own);
    }
    // Behind shared links receivers are not independent: the worst of one link's is a bound from below for all.
    let both = 1.0 - (1.0 - own) * (1.0 - shared);
    expected_worst(k, loss.links.min(receivers), both).max(expected_worst(k, receivers, own))
}

/// E[max over `n` of the symbols until `k` arrived] = sum over t of P(max > t).
fn expected_worst(k: u16, n: u32, loss: f64) -> f64 {
    if loss <= 0.0 || k == 0 {
        return k.into();
    }
    let kf = f64::from(k);
    // P(exactly k + x were needed) = C(k + x - 1, x) (1-p)^k p^x.
    let mut exactly = (kf * (-loss).ln_1p()).exp();
    let mut enough = 0.0;
    let mut expected = kf;
    let mut x = 0.0;
    loop {
        enough += exactly;
        let somebody_lacks = -(f64::from(n) * enough.min(1.0).ln()).exp_m1();
        if somebody_lacks < 1e-9 || x > 100.0 * kf {
            return expected;
        }
        expected += somebody_lacks;
        exactly *= (kf + x) / (x + 1.0) * loss;
        x += 1.0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_is_what_others_computed() {
        let ratio = |k: u16, n, p| least_symbols(k, n, Loss::independent(p)) / f64::from(k);
        assert!((ratio(188, 10_000, 0.01) - 1.049).abs() < 0.001);
        assert!((ratio(64, 1_000, 0.01) - 1.071).abs() < 0.001);
        assert!((ratio(1000, 1_000, 0.01) - 1.022).abs() < 0.001);
        assert!((ratio(188, 1, 0.05) - 1.0 / 0.95).abs() < 0.001, "alone: what the loss takes");
        assert!((least_symbols(188, 5, Loss::independent(0.0)) - 188.0).abs() < 1e-9);
    }

    #[test]
    fn receivers_behind_one_link_are_one() {
        let one = least_symbols(188, 1, Loss::independent(0.01));
        assert!((least_symbols(188, 10_000, Loss::behind(1, 0.01, 0.0)) - one).abs() < 1e-9);
        assert!(least_symbols(188, 10_000, Loss::behind(100, 0.01, 0.001)) > one);
    }
}
