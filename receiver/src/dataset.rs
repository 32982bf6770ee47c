//! Dataset work: compares the directory with the manifest, plans what must be fetched, installs.
//!
//! - What is here already under another path is copied or renamed, never fetched.
//! - Of a damaged or changed large file, the sound blocks are taken over; of a pack, the blocks whose members
//!   are all here.
//! - What we installed or verified is recorded with a stamp, so that the next start need not read it again.
//! - A directory that holds other things than ours is touched only after every entry of the dataset was found
//!   equal, absent, or `--overwrite` was given.
//!
//! [`Dataset`] gets its orders from [`crate::node::ReceiverNode`], and its reports go back there. It has no thread
//! of its own: the daemon runs it on one, a simulator calls it.

mod adopt;
mod blocked;
mod chaining;
mod finish;
mod install;
mod plan;
mod record;
mod suspend;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use nackcast_common::archive::Archive;
use nackcast_common::control::{Reply, Scan};
use nackcast_common::files::Errno;
use nackcast_common::ids::{ChannelId, Digest, ObjectId, ObjectIndex};
use nackcast_common::keys::VerifyingKey;
use nackcast_common::manifest::{ChainingValue, Content, Entry, EntryKind, Manifest};
use nackcast_proto::manifest::ManifestCodecError;

pub(crate) use self::adopt::{AdoptError, load_manifest};
pub use self::blocked::Blocked;
use self::blocked::BlockedEntries;
pub use self::record::Record;
use crate::disk::DiskError;
use crate::disk::install::{Installer, Obstacles, Policy, Removal};
use crate::disk::part::{PartError, PartStore};
use crate::disk::scan::{Depth, ScanError};
use crate::disk::target::TargetDir;
use crate::engine::{InstallOutcome, Wants};
use crate::verified::VerifiedFiles;

/// Objects installed in one batch at most.
pub const BATCH_MAX: usize = 64;
/// Lines of a scan that an admin is shown.
const PROBLEMS_MAX: usize = 1000;

/// What a dataset is made with.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The channel.
    pub channel: ChannelId,
    /// Who signs its manifests.
    pub publisher: VerifyingKey,
    /// Mode bits that are kept.
    pub mode_mask: u32,
    /// Replace differing files that are not ours.
    pub overwrite: bool,
    /// Remove what left the dataset.
    pub prune: bool,
}

/// An order.
#[derive(Debug)]
pub enum Order {
    /// Take over the manifest of an earlier run.
    Remember,
    /// Put this manifest together from the bytes at hand, and compare.
    Assemble {
        /// Hash of its root.
        hash: Digest,
        /// Root and parts that were received.
        blobs: BTreeMap<Digest, Bytes>,
    },
    /// Compare again.
    Scan {
        /// How closely.
        depth: Depth,
        /// Who wants to know; dropped unanswered when no comparison could be made.
        answer: Option<Reply<Scan>>,
    },
    /// Install complete objects in one batch.
    Install(Vec<ObjectId>),
    /// Nothing more is wanted.
    Finish,
}

impl Order {
    /// Takes the order that comes next into this one if both install: one flush for many files. Gives it back if
    /// it must be carried out by itself.
    #[must_use]
    pub fn join(&mut self, next: Self) -> Option<Self> {
        match (self, next) {
            (Self::Install(batch), Self::Install(more)) if batch.len() + more.len() <= BATCH_MAX => {
                batch.extend(more);
                None
            }
            (_, next) => Some(next),
        }
    }
}

/// A result.
#[derive(Debug)]
pub enum Report {
    /// Compared.
    Wants(Box<Wants>),
    /// Not acceptable.
    Refused {
        /// Hash of the manifest's root.
        hash: Digest,
        /// For people.
        why: String,
    },
    /// A manifest, or a part of it, that was here is not: it must be fetched again. For people.
    Lost(String),
    /// Block hashes are at hand.
    Chaining(ObjectId, Arc<[ChainingValue]>),
    /// Installed, or not.
    Installed {
        /// The object.
        object: ObjectId,
        /// What became of it.
        outcome: InstallOutcome,
    },
    /// Nothing more was wanted.
    Finished {
        /// Whether the dataset is whole.
        whole: bool,
    },
    /// For people: a line that says what, where and what to do.
    Trouble(String),
    /// The directory holds other files under the dataset's names: nothing was touched.
    NotOurs(Vec<String>),
    /// A comparison could not be made: try again later.
    Failed(String),
    /// Entries that cannot be put where they belong: all of them, whenever that changes.
    Blocked(Blocked),
    /// Files that were sound are not, or are gone: they are fetched again.
    Damaged {
        /// Some of them.
        paths: Vec<String>,
        /// How many there are.
        count: u64,
    },
}

/// What a scan found, for the admin and `verify`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScanReport {
    /// Generation compared with; 0: no manifest yet.
    pub generation: u64,
    /// Entries of it.
    pub entries: u64,
    /// Paths that are missing.
    pub missing: Vec<String>,
    /// Paths that are damaged or different.
    pub damaged: Vec<String>,
    /// Paths that the manifest does not have; where nobody counted what is in a directory, it is one.
    pub extra: u64,
}

impl From<ScanReport> for Scan {
    fn from(report: ScanReport) -> Self {
        let ScanReport { generation, missing, damaged, .. } = report;
        let lines = missing.iter().map(|path| format!("missing: {path}"));
        let lines = lines.chain(damaged.iter().map(|line| format!("damaged: {line}")));
        Self {
            generation,
            changed: !(missing.is_empty() && damaged.is_empty()),
            problems: lines.take(PROBLEMS_MAX).collect(),
            missing: missing.len() as u64,
            damaged: damaged.len() as u64,
        }
    }
}

/// Why a comparison was not made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CompareError {
    #[error(transparent)]
    Scan(#[from] ScanError),
    #[error(transparent)]
    Part(#[from] PartError),
    #[error(transparent)]
    Disk(#[from] DiskError),
    #[error(transparent)]
    Store(#[from] nackcast_common::store::StoreError),
    #[error(transparent)]
    Codec(#[from] ManifestCodecError),
    #[error("{0} could not be read ({1}), so it is not known whose it is: it is compared again")]
    Unread(String, Errno),
    #[error("{} entries differ", .0.len())]
    NotOurs(Vec<String>),
}

/// The worker. After each [`Self::handle`], take its reports.
#[derive(Debug)]
pub struct Dataset {
    settings: Settings,
    target: Arc<TargetDir>,
    parts: Arc<PartStore>,
    archive: Archive,
    record: Record,
    files: VerifiedFiles,
    installer: Installer,
    reports: VecDeque<Report>,
    manifest: Option<(Digest, Arc<Manifest>)>,
    members: BTreeMap<ObjectIndex, Vec<usize>>,
    /// Entries whose bytes are wanted of an object.
    wanted: BTreeSet<usize>,
    /// Entries that were sound before and are not, as they were told last.
    damaged: BTreeSet<usize>,
    /// Entries with something in their way that only a person can remove: not fetched over and over.
    refused: BTreeSet<usize>,
    /// Entries that are kept from their places, and by what.
    blocked: BlockedEntries,
    /// A manifest that could not be kept yet.
    pending: Option<(Digest, BTreeMap<Digest, Bytes>)>,
    chaining: BTreeMap<ObjectId, Arc<[ChainingValue]>>,
}

impl Dataset {
    /// A worker on a directory, its partial objects, and what is kept of it in the state.
    #[must_use]
    pub fn new(
        settings: Settings,
        target: Arc<TargetDir>,
        parts: Arc<PartStore>,
        archive: Archive,
        record: Record,
    ) -> Self {
        let obstacles = if settings.overwrite { Obstacles::Remove } else { Obstacles::Keep };
        let policy = Policy { mode_mask: settings.mode_mask, obstacles };
        let installer = Installer::new(Arc::clone(&target), policy);
        Self {
            files: VerifiedFiles::new(Arc::clone(&target), record.table()),
            settings,
            target,
            parts,
            archive,
            record,
            installer,
            reports: VecDeque::new(),
            manifest: None,
            members: BTreeMap::new(),
            wanted: BTreeSet::new(),
            damaged: BTreeSet::new(),
            refused: BTreeSet::new(),
            blocked: BlockedEntries::default(),
            pending: None,
            chaining: BTreeMap::new(),
        }
    }

    /// The verified files, for whoever serves them.
    #[must_use]
    pub fn files(&self) -> VerifiedFiles {
        self.files.clone()
    }

    /// How far the removal of what left the dataset is.
    #[must_use]
    pub fn removal(&self) -> Arc<Removal> {
        self.installer.removal()
    }

    /// Carries out an order.
    pub fn handle(&mut self, order: Order) {
        match order {
            Order::Remember => self.remember(),
            Order::Assemble { hash, blobs } => self.assemble(hash, blobs),
            Order::Scan { depth, answer } => {
                self.refused.clear();
                match self.pending.take() {
                    Some((hash, blobs)) => self.assemble(hash, blobs),
                    None => self.scan(depth, answer),
                }
            }
            Order::Install(objects) => self.install(&objects),
            Order::Finish => self.finish(),
        }
        if let Some(blocked) = self.manifest.as_ref().and_then(|(_, manifest)| self.blocked.news(manifest)) {
            self.tell(Report::Blocked(blocked));
        }
    }

    /// The next report.
    pub fn poll_report(&mut self) -> Option<Report> {
        self.reports.pop_front()
    }

    fn tell(&mut self, report: Report) {
        self.reports.push_back(report);
    }

    fn trouble(&mut self, error: &impl ToString) {
        self.tell(Report::Trouble(error.to_string()));
    }

    fn scan(&mut self, depth: Depth, answer: Option<Reply<Scan>>) {
        let compared = self.compare(depth);
        self.tell_compared(compared, answer);
    }

    fn tell_compared(
        &mut self,
        compared: Result<Option<(Wants, ScanReport)>, CompareError>,
        answer: Option<Reply<Scan>>,
    ) {
        let report = match compared {
            Ok(Some((wants, report))) => {
                self.tell(Report::Wants(Box::new(wants)));
                report
            }
            Ok(None) => ScanReport::default(),
            Err(CompareError::NotOurs(paths)) => {
                self.tell(Report::NotOurs(paths));
                return;
            }
            Err(error) => {
                self.tell(Report::Failed(error.to_string()));
                return;
            }
        };
        if let Some(answer) = answer
            && answer.send(Ok(report.into())).is_err()
        {
            tracing::debug!("whoever asked for the scan is gone");
        }
    }
}

/// A path for people.
pub(crate) fn shown(path: &Path) -> String {
    path.display().to_string()
}

/// Whether an entry's bytes are of an object at all.
const fn has_object(entry: &Entry) -> Option<ObjectIndex> {
    match entry.kind {
        EntryKind::File { content: Content::Object(index) | Content::Slice { pack: index, .. }, .. } => Some(index),
        EntryKind::File { content: Content::Empty, .. } | EntryKind::Directory | EntryKind::Symlink { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn installs_that_follow_each_other_are_one_batch() {
        let install = |ids: std::ops::Range<u64>| Order::Install(ids.map(ObjectId).collect());
        let mut order = install(0..1);
        assert!(order.join(install(1..2)).is_none());
        assert!(matches!(&order, Order::Install(batch) if *batch == [ObjectId(0), ObjectId(1)]));
        assert!(matches!(order.join(Order::Finish), Some(Order::Finish)), "what is no install comes after");
        let most = install(0..BATCH_MAX as u64);
        assert!(order.join(most).is_some(), "a batch is bounded");
        assert!(matches!(Order::Finish.join(install(0..1)), Some(Order::Install(_))));
    }
}
