//! What befalls a receiver's disk, and how people set it right: scans, and files that are taken away.

use std::time::Duration;

use nackcast_common::clock::Time;
use nackcast_common::path::PART_DIRECTORY;
use nackcast_receiver::node::ScanRequest;
use tokio::sync::oneshot::{self, error::TryRecvError};

use super::{CAPACITY, INTO, Receiver, time_of};
use crate::sim::disk::{Faults, Stands};
use crate::sim::scenario::DiskSpec;

/// A scan that found something is repeated after so long, when that may be mended.
const SCAN_AGAIN: Duration = Duration::from_secs(8);
/// Share of changes after which the system writes something back by itself.
const WRITE_BACK: f64 = 0.02;

impl Receiver {
    /// Orders a scan, as soon as it runs.
    pub fn scan(&mut self, now: Time) {
        self.rotten = true;
        let Some(alive) = &mut self.alive else { return };
        let (answer, scanning) = oneshot::channel();
        alive.node.scan(ScanRequest { deep: self.tainted, answer: Some(answer) });
        self.scanning = Some(scanning);
        self.drain(now);
    }

    /// Whether what the disk holds may differ from what the node believes: it rotted, lied or was written to, and no
    /// scan has looked since.
    #[must_use]
    pub const fn is_doubtful(&self) -> bool {
        self.rotten || (self.tainted && !self.healed)
    }

    /// A scan that found everything sound ends the doubt; another is ordered again, since what is installed after
    /// it may have rotted before.
    pub(super) fn look_at_scan(&mut self, now: Time) {
        match self.scanning.as_mut().map(oneshot::Receiver::try_recv) {
            Some(Ok(Ok(scan))) if scan.generation > 0 && !scan.changed => {
                (self.rotten, self.scanning) = (false, None);
            }
            Some(Ok(_) | Err(TryRecvError::Closed)) => {
                self.scanning = None;
                self.rescan_at = Some(now + SCAN_AGAIN);
            }
            Some(Err(TryRecvError::Empty)) | None => {}
        }
    }

    /// The disk has only so many bytes left.
    pub fn fill(&mut self, bytes_left: u64) {
        self.disk.set_capacity(self.disk.used() + bytes_left);
    }

    /// Bits flip at rest.
    pub fn rot(&mut self, bits: u32) {
        if !self.disk.rot(&mut self.random, bits as usize).is_empty() {
            (self.tainted, self.rotten) = (true, true);
        }
    }

    /// Somebody else writes to files of the dataset; gives them.
    pub fn edit(&mut self, now: Time, files: u32, keep_time: bool) -> Vec<(Vec<u8>, u64)> {
        self.disk.set_time(time_of(now));
        let within = (INTO.as_bytes(), PART_DIRECTORY.as_bytes());
        let edited = self.disk.edit_by_hand(&mut self.random, within, files as usize, keep_time);
        self.rotten |= !edited.is_empty();
        self.edited.extend_from_slice(&edited);
        edited
    }

    /// Who changed files takes those away that `leaves` says. After a disk that lied nobody can know whose a file is: if
    /// it `obstructs`, people do as they are told, and move it away.
    pub fn take_away(&self, leaves: impl Fn(&[u8]) -> bool, obstructs: impl Fn(&[u8]) -> bool) {
        let edited = self.edited.iter().filter(|(path, _)| leaves(path)).map(|(path, inode)| (path.clone(), *inode));
        let shown = self.tainted.then(|| self.disk.shown(INTO.as_bytes(), PART_DIRECTORY.as_bytes()));
        let obstacles = shown.into_iter().flatten().filter_map(|one| match one.stands {
            Stands::File { inode, .. } if obstructs(&one.path) => Some((one.path, inode)),
            _ => None,
        });
        for (path, inode) in edited.chain(obstacles) {
            self.disk.remove_by_hand(&[INTO.as_bytes(), b"/", &path[..]].concat(), inode);
        }
    }

    /// What is dirty now cannot be written back. Of a disk that lies, that may be what it said to be durable: nobody is
    /// told of its loss.
    pub fn fail_write_back(&mut self, failing: bool) {
        self.tainted |= failing && self.cost.lies_ppm > 0;
        let write_back_error = if failing { 0.5 } else { 0.0 };
        self.disk.set_faults(Faults { write_back_error, ..faults(&self.cost) });
    }

    /// The disk has no faults any more, and room.
    pub fn heal(&mut self, now: Time) {
        self.healed = true;
        self.cost = DiskSpec { errors_ppm: 0, lies_ppm: 0, ..DiskSpec::default() };
        self.disk.set_faults(faults(&self.cost));
        self.disk.set_capacity(CAPACITY);
        self.disk.stop_after(None);
        self.skew(now, 0);
    }
}

/// What the disk does of itself.
pub(super) fn faults(cost: &DiskSpec) -> Faults {
    let share = |ppm: u32| f64::from(ppm) / 1e6;
    Faults {
        read_error: share(cost.errors_ppm),
        write_error: share(cost.errors_ppm),
        write_back_error: 0.0,
        lying_sync: share(cost.lies_ppm),
        write_back: WRITE_BACK,
    }
}
