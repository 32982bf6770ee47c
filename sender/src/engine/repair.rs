//! In which order a block's repair symbols are sent.
//!
//! A session begins at a place derived from (session, object, block), steps through all repair ESIs, then
//! through the source symbols, and round again. So nothing is stored, a symbol repeats as late as possible,
//! and the symbols of two senders rarely are the same.

use std::ops::Range;

use nackcast_common::geometry::REPAIR_SYMBOLS;
use nackcast_common::ids::{ObjectId, SessionId};
use nackcast_common::mutation::{Mutation, planted};

/// Where a session begins in the block's repair range.
fn start(session: SessionId, object: ObjectId, block: u32) -> u16 {
    // One round of SplitMix64 over the three numbers.
    let mut x = session.0 ^ object.0.rotate_left(23) ^ (u64::from(block) << 32 | u64::from(block));
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    u16::try_from((x ^ (x >> 31)) % u64::from(REPAIR_SYMBOLS)).unwrap_or(0)
}

/// The ESIs of steps `from` to `from + count` of a block with `k` source symbols, as runs of consecutive ESIs
/// that are either all source or all repair.
pub(super) fn runs(session: SessionId, object: ObjectId, block: u32, k: u16, from: u32, count: u16) -> Vec<Range<u16>> {
    let begin = u32::from(start(session, object, block));
    let (repair, cycle) = (u32::from(REPAIR_SYMBOLS), u32::from(REPAIR_SYMBOLS) + u32::from(k));
    let mut runs: Vec<Range<u16>> = Vec::new();
    let from = if planted(Mutation::RepairRepeats) { 0 } else { from };
    for step in from..from.saturating_add(count.into()) {
        let place = step % cycle;
        let esi = if place < repair { u32::from(k) + (begin + place) % repair } else { place - repair };
        let esi = u16::try_from(esi).unwrap_or(0);
        match runs.last_mut() {
            Some(run) if run.end == esi && esi != k => run.end = esi + 1,
            _ => runs.push(esi..esi + 1),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_symbol_comes_once_before_any_repeats() {
        for k in [1, 2, 188, 1000] {
            let cycle = u32::from(REPAIR_SYMBOLS + k);
            let all: Vec<u16> = (0..cycle)
                .step_by(7)
                .flat_map(|from| {
                    let count = u16::try_from((cycle - from).min(7)).unwrap();
                    runs(SessionId(5), ObjectId(9), 3, k, from, count).into_iter().flatten()
                })
                .collect();
            assert_eq!(all.len(), cycle as usize);
            assert_eq!(all.iter().copied().collect::<BTreeSet<_>>().len(), cycle as usize);
            assert!(all[..256].iter().all(|esi| *esi >= k), "repair symbols come first");
        }
    }

    #[test]
    fn runs_never_mix_source_and_repair() {
        for run in runs(SessionId(1), ObjectId(2), 0, 4, 0, 600) {
            assert!(run.end <= 4 || run.start >= 4, "{run:?}");
        }
    }

    #[test]
    fn two_sessions_begin_at_different_places() {
        let places: BTreeSet<_> = (0..50).map(|s| start(SessionId(s), ObjectId(1), 0)).collect();
        assert!(places.len() > 30);
    }
}
