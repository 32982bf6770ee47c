//! A sorted set of `u32` indices kept as disjoint half-open ranges: blocks wanted, objects missing, passes to send.
//!
//! Ranges are sorted, not empty, and never touch (neighbours are merged). Every operation keeps that.

use std::ops::Range;

/// A set of indices as ranges.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangeSet {
    ranges: Vec<Range<u32>>,
}

impl RangeSet {
    /// The empty set.
    #[must_use]
    pub const fn new() -> Self {
        Self { ranges: Vec::new() }
    }

    /// All of `0..end`.
    #[must_use]
    pub fn full(end: u32) -> Self {
        std::iter::once(0..end).collect()
    }

    /// Nothing is in the set.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// How many indices the set has.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.ranges.iter().map(|r| u64::from(r.end - r.start)).sum()
    }

    /// The ranges, ascending.
    pub fn ranges(&self) -> impl ExactSizeIterator<Item = Range<u32>> + '_ {
        self.ranges.iter().cloned()
    }

    /// Every index, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.ranges.iter().cloned().flatten()
    }

    /// The least index.
    #[must_use]
    pub fn first(&self) -> Option<u32> {
        self.ranges.first().map(|r| r.start)
    }

    /// Takes the least index out.
    pub fn pop_first(&mut self) -> Option<u32> {
        let first = self.first()?;
        self.remove(first..first + 1);
        Some(first)
    }

    /// Whether `index` is in the set.
    #[must_use]
    pub fn contains(&self, index: u32) -> bool {
        let at = self.ranges.partition_point(|r| r.end <= index);
        self.ranges.get(at).is_some_and(|r| r.start <= index)
    }

    /// What of `range` is not in the set, ascending.
    pub fn gaps(&self, range: Range<u32>) -> impl Iterator<Item = Range<u32>> + '_ {
        let from = self.ranges.partition_point(|r| r.end <= range.start);
        let to = self.ranges.partition_point(|r| r.start < range.end);
        let members = self.ranges.get(from..to).unwrap_or_default().iter().cloned();
        let mut next = range.start;
        members.chain(std::iter::once(range.end..range.end)).filter_map(move |member| {
            let gap = next..member.start;
            next = member.end;
            (gap.start < gap.end).then_some(gap)
        })
    }

    /// Adds a range.
    pub fn insert(&mut self, range: Range<u32>) {
        if range.is_empty() {
            return;
        }
        // Everything from `from` up to `to` touches or overlaps the new range.
        let from = self.ranges.partition_point(|r| r.end < range.start);
        let to = self.ranges.partition_point(|r| r.start <= range.end);
        let mut merged = range;
        if from < to {
            merged.start = merged.start.min(self.ranges[from].start);
            merged.end = merged.end.max(self.ranges[to - 1].end);
        }
        self.ranges.splice(from..to, std::iter::once(merged));
    }

    /// Takes a range out.
    pub fn remove(&mut self, range: Range<u32>) {
        if range.is_empty() {
            return;
        }
        let from = self.ranges.partition_point(|r| r.end <= range.start);
        let to = self.ranges.partition_point(|r| r.start < range.end);
        if from >= to {
            return;
        }
        let left = self.ranges[from].start..range.start;
        let right = range.end..self.ranges[to - 1].end;
        let rest = [left, right].into_iter().filter(|r| r.start < r.end);
        self.ranges.splice(from..to, rest);
    }

    /// Adds every index of `other`.
    pub fn union(&mut self, other: &Self) {
        for range in other.ranges() {
            self.insert(range);
        }
    }
}

impl FromIterator<Range<u32>> for RangeSet {
    fn from_iter<I: IntoIterator<Item = Range<u32>>>(ranges: I) -> Self {
        let mut set = Self::new();
        for range in ranges {
            set.insert(range);
        }
        set
    }
}

impl FromIterator<u32> for RangeSet {
    fn from_iter<I: IntoIterator<Item = u32>>(indices: I) -> Self {
        let mut set = Self::new();
        for index in indices {
            // Ascending input, the usual case, only touches the last range.
            match set.ranges.last_mut() {
                Some(last) if last.end == index => last.end = index + 1,
                Some(last) if last.end < index => set.ranges.push(index..index + 1),
                None => set.ranges.push(index..index + 1),
                Some(_) => set.insert(index..index + 1),
            }
        }
        set
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn agrees_with_a_plain_set(operations in prop::collection::vec((any::<bool>(), 0_u32..200, 0_u32..30), 0..60)) {
            let mut set = RangeSet::new();
            let mut model = BTreeSet::new();
            for (add, start, length) in operations {
                if add {
                    set.insert(start..start + length);
                    model.extend(start..start + length);
                } else {
                    set.remove(start..start + length);
                    model.retain(|i| !(start..start + length).contains(i));
                }
                prop_assert!(set.iter().eq(model.iter().copied()));
                prop_assert_eq!(set.count(), model.len() as u64);
                prop_assert!((0..240).all(|i| set.contains(i) == model.contains(&i)));
                let ranges: Vec<_> = set.ranges().collect();
                prop_assert!(ranges.windows(2).all(|w| w[0].end < w[1].start));
                prop_assert_eq!(&set, &model.iter().copied().collect::<RangeSet>());
                let gaps = set.gaps(start..start + 50).flatten();
                prop_assert!(gaps.eq((start..start + 50).filter(|i| !model.contains(i))));
            }
        }
    }
}
