//! A set of object indices in few bytes: what a receiver lacks of a manifest.
//!
//! Two forms, whichever is shorter: *indices* (a Rice code of each gap; near the entropy bound for random
//! sets) and *ranges* (a Rice code of each gap and an Elias gamma code of each length; a run costs a few
//! bytes however long it is). The object table is in the order of the first pass, so what one loss or one
//! late join took is mostly a run.

use nackcast_common::ranges::RangeSet;

use super::WireError;
use super::bits::{BitReader, BitWriter, gamma_len, rice_len, rice_parameter};
use super::limits::{BODY_LEN_MAX, SETS_MAX};
use crate::pb;

/// Bytes that one set takes in a message beside its bits.
const OVERHEAD: usize = 20;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Indices,
    Ranges,
}

/// Encodes the least indices of `set` that fit into `room` bytes of a message. Returns the message field and
/// the first index that did not fit, if any.
pub(crate) fn encode(set: &RangeSet, room: usize) -> (Option<pb::IndexSet>, Option<u32>) {
    let Some(base) = set.first() else { return (None, None) };
    let room_bits = (room.saturating_sub(OVERHEAD) as u64) * 8;
    let (form, k) = cheaper_form(set, base);
    let mut writer = BitWriter::new();
    let mut count = 0;
    let mut next = base;
    for range in set.ranges() {
        let pieces = match form {
            Form::Ranges => range.start..range.start + 1,
            Form::Indices => range.clone(),
        };
        for index in pieces {
            let length = range.end - range.start;
            let tail = if form == Form::Ranges { gamma_len(length) } else { 0 };
            if writer.len_bits() as u64 + rice_len(index - next, k) + tail > room_bits {
                return (finish(base, form, k, count, writer), Some(index));
            }
            writer.write_rice(index - next, k);
            next = index + 1;
            if form == Form::Ranges {
                writer.write_gamma(length);
                next = range.end;
            }
            count += 1;
        }
    }
    (finish(base, form, k, count, writer), None)
}

fn finish(base: u32, form: Form, k: u32, count: u32, writer: BitWriter) -> Option<pb::IndexSet> {
    let encoding = k * 2 + u32::from(form == Form::Ranges);
    (count > 0).then(|| pb::IndexSet { base, encoding, count, bits: writer.into_bytes().into() })
}

fn cheaper_form(set: &RangeSet, base: u32) -> (Form, u32) {
    let end = set.ranges().last().map_or(base, |r| r.end);
    let members = set.count();
    let span = u64::from(end - base);
    let ranges = set.ranges().len() as u64;
    // All gaps together are what is not in the set; indices inside a run have a gap of zero.
    let gaps = span - members;
    let k_indices = rice_parameter(gaps, members);
    let k_ranges = rice_parameter(gaps, ranges);
    let (mut as_indices, mut as_ranges, mut next) = (0, 0, base);
    for range in set.ranges() {
        let (gap, length) = (range.start - next, range.end - range.start);
        as_indices += rice_len(gap, k_indices) + u64::from(length - 1) * (1 + u64::from(k_indices));
        as_ranges += rice_len(gap, k_ranges) + gamma_len(length);
        next = range.end;
    }
    if as_indices < as_ranges { (Form::Indices, k_indices) } else { (Form::Ranges, k_ranges) }
}

/// Decodes the sets of a message into one.
pub(crate) fn decode(sets: &[pb::IndexSet]) -> Result<RangeSet, WireError> {
    let bad = || WireError::Field("index set");
    if sets.len() > SETS_MAX {
        return Err(bad());
    }
    let mut result = RangeSet::new();
    for set in sets {
        if set.bits.len() > BODY_LEN_MAX || u64::from(set.count) > set.bits.len() as u64 * 8 || set.encoding > 63 {
            return Err(bad());
        }
        let (k, ranges) = (set.encoding / 2, set.encoding % 2 == 1);
        let mut reader = BitReader::new(&set.bits);
        let mut next = set.base;
        for _ in 0..set.count {
            let start = reader.read_rice(k).and_then(|gap| next.checked_add(gap)).ok_or_else(bad)?;
            let length = if ranges { reader.read_gamma().ok_or_else(bad)? } else { 1 };
            next = start.checked_add(length).ok_or_else(bad)?;
            result.insert(start..next);
        }
    }
    Ok(result)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all(set: &RangeSet, room: usize) -> Vec<pb::IndexSet> {
        let mut rest = set.clone();
        let mut sets = Vec::new();
        loop {
            let (encoded, next) = encode(&rest, room);
            sets.extend(encoded);
            let Some(next) = next else { return sets };
            rest.remove(0..next);
        }
    }

    proptest! {
        #[test]
        fn agrees_with_a_plain_set(
            singles in prop::collection::btree_set(0_u32..50_000, 0..200),
            runs in prop::collection::vec((0_u32..50_000, 1_u32..2000), 0..4),
            room in 60_usize..1400,
        ) {
            let mut set: RangeSet = singles.into_iter().collect();
            for (start, length) in runs {
                set.insert(start..start + length);
            }
            for encoded in all(&set, room) {
                prop_assert!(prost::Message::encoded_len(&encoded) + 3 <= room);
            }
            let decoded = all(&set, room).chunks(SETS_MAX).fold(RangeSet::new(), |mut sum, part| {
                sum.union(&decode(part).unwrap());
                sum
            });
            prop_assert_eq!(decoded, set);
        }

        #[test]
        fn hostile_sets_stay_small(base: u32, encoding in 0_u32..80, count: u32, bits in prop::collection::vec(any::<u8>(), 0..300)) {
            let bytes = bits.len();
            if let Ok(set) = decode(&[pb::IndexSet { base, encoding, count, bits: bits.into() }]) {
                prop_assert!(set.ranges().len() <= bytes * 8);
            }
        }
    }

    #[test]
    fn random_sets_are_near_the_entropy_bound() {
        // 10.1 KB and 58.6 KB are the bounds for 1 % and 10 % of a million.
        for (share, bound) in [(0.01_f64, 10_100.0_f64), (0.1, 58_600.0)] {
            let mut state = 7_u64;
            let set: RangeSet = (0..1_000_000_u32)
                .filter(|_| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    ((state >> 33) as f64) < share * f64::from(1_u32 << 31)
                })
                .collect();
            let bytes: usize = all(&set, BODY_LEN_MAX - 100).iter().map(prost::Message::encoded_len).sum();
            assert!((bytes as f64) < bound * 1.15, "{bytes} bytes for {share}");
        }
        assert!(all(&RangeSet::full(1_000_000), 1000).iter().map(prost::Message::encoded_len).sum::<usize>() < 20);
    }
}
