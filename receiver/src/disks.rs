//! Looks now and then how much space the target directories have left.

use std::path::Path;
use std::time::Duration;

use nackcast_common::alerts::{Finding, Kind};
use nackcast_common::clock::Time;
use nackcast_common::units::ByteCount;

use crate::config::Config;
use crate::dataset::shown;
use crate::report::Progress;

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// Less than one part in so many is little, and less than this on a large disk.
const LITTLE: u64 = 20;
const LITTLE_BYTES: u64 = 1 << 30;

/// What the last look found, one place for each channel.
#[derive(Debug, Default)]
pub(crate) struct Disks {
    looked_at: Option<Time>,
    found: Vec<Option<Finding>>,
}

impl Disks {
    /// Adds what is wrong to the rows.
    pub(crate) fn look(&mut self, now: Time, config: &Config, progress: &mut Progress) {
        if self.looked_at.is_none_or(|at| now.since(at) >= LOOK_EVERY) {
            self.looked_at = Some(now);
            let rows = config.subscriptions.iter().zip(&progress.channels);
            let look = |into: &Path, wanted| {
                let space = rustix::fs::statvfs(into).ok()?;
                let bytes = |blocks: u64| blocks.saturating_mul(space.f_frsize);
                judge(into, bytes(space.f_bavail), bytes(space.f_blocks), wanted)
            };
            self.found = rows.map(|(s, row)| look(&s.into, row.bytes.saturating_sub(row.bytes_done))).collect();
        }
        for (row, found) in progress.channels.iter_mut().zip(&self.found) {
            row.findings.extend(found.clone());
        }
    }
}

/// Whether so much free space, of so much in all, is little when so much is still to come.
fn judge(into: &Path, free: u64, total: u64, wanted: u64) -> Option<Finding> {
    if free >= wanted && free >= (total / LITTLE).min(LITTLE_BYTES) {
        return None;
    }
    let (free, total) = (ByteCount(free), ByteCount(total));
    let text = format!("{}: {free} of {total} are free, and {} are to come", shown(into), ByteCount(wanted));
    Some(Finding::lasting(Kind::DiskNearlyFull, shown(into), text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn little_space_is_a_twentieth_or_less_than_what_is_to_come() {
        let judge = |free, total, wanted| judge(Path::new("/srv"), free, total, wanted);
        assert_eq!(judge(50, 1000, 50), None);
        assert_eq!(judge(49, 1000, 0).map(|found| found.kind), Some(Kind::DiskNearlyFull));
        assert_eq!(judge(1 << 30, 1 << 40, 0), None);
        let found = judge(1 << 30, 4 << 30, 2 << 30).unwrap();
        assert!(found.text.contains("1.0 GiB of 4.0 GiB") || found.text.contains("1 GiB of 4 GiB"), "{}", found.text);
    }
}
