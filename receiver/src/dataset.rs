//! The dataset thread: compares the directory with the manifest, plans what must be fetched, installs.
//!
//! - What is here already under another path is copied or renamed, never fetched.
//! - Of a damaged or changed large file, the sound blocks are taken over; of a pack, the blocks whose members
//!   are all here.
//! - What we installed or verified is recorded with a stamp, so that the next start need not read it again.
//! - A directory that holds other things than ours is touched only after every entry of the dataset was found
//!   equal, absent, or `--overwrite` was given.

mod plan;
mod record;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use nackcast_common::archive::{Archive, ArchiveError};
use nackcast_common::files::Kind;
use nackcast_common::ids::{ChannelId, Digest, ObjectId, ObjectIndex};
use nackcast_common::keys::VerifyingKey;
use nackcast_common::manifest::{
    Chaining, ChainingValue, Content, Entry, EntryKind, INLINE_CHAINING_MAX, Manifest, ObjectKind, ObjectRecord,
};
use nackcast_common::path::DatasetPath;
use nackcast_proto::manifest::{ManifestCodecError, decode_root};
use tokio::sync::mpsc;

use crate::disk::DiskError;
use crate::disk::facts::FileStamp;
use crate::disk::install::{InstallError, Installer, Obstacles, Outcome, Policy, Source};
use crate::disk::part::{Finished, PartError, PartStore};
use crate::disk::scan::{Depth, ScanError};
use crate::disk::target::TargetDir;
use crate::engine::{InstallOutcome, Wants};
pub(crate) use record::Record;

/// Installed in one batch at most.
const BATCH_MAX: usize = 64;

/// What a dataset is made with.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) channel: ChannelId,
    pub(crate) publisher: VerifyingKey,
    pub(crate) mode_mask: u32,
    pub(crate) overwrite: bool,
    pub(crate) prune: bool,
}

/// An order.
#[derive(Debug)]
pub(crate) enum Order {
    /// Take over the manifest of an earlier run.
    Remember,
    /// Put this manifest together from the bytes at hand, and compare.
    Assemble { hash: Digest, blobs: BTreeMap<Digest, Bytes> },
    /// Compare again.
    Scan { depth: Depth, answer: Option<tokio::sync::oneshot::Sender<ScanReport>> },
    /// Install a complete object.
    Install(ObjectId),
    /// Nothing more is wanted.
    Finish,
}

/// A result.
#[derive(Debug)]
pub(crate) enum Report {
    /// Compared.
    Wants(Box<Wants>),
    /// Not acceptable.
    Refused { hash: Digest, why: String },
    /// Block hashes are at hand.
    Chaining(ObjectId, Arc<[ChainingValue]>),
    /// Installed, or not.
    Installed { object: ObjectId, outcome: InstallOutcome },
    /// Whether the dataset is whole.
    Finished { whole: bool },
    /// For people: a line that says what, where and what to do.
    Trouble(String),
    /// The directory holds other files under the dataset's names: nothing was touched.
    NotOurs(Vec<String>),
    /// A comparison could not be made: try again later.
    Failed(String),
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
    /// Paths that the manifest does not have.
    pub extra: u64,
}

/// Why a manifest was not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AdoptError {
    #[error(transparent)]
    Codec(#[from] ManifestCodecError),
    #[error("cannot keep the manifest: {0}")]
    Archive(#[from] ArchiveError),
    #[error("the manifest's root is not at hand")]
    NoRoot,
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
    #[error("{} entries differ", .0.len())]
    NotOurs(Vec<String>),
}

/// The thread's state.
#[derive(Debug)]
pub(crate) struct Dataset {
    settings: Settings,
    target: Arc<TargetDir>,
    parts: Arc<PartStore>,
    archive: Archive,
    record: Record,
    installer: Installer,
    reports: mpsc::UnboundedSender<Report>,
    manifest: Option<(Digest, Arc<Manifest>)>,
    members: BTreeMap<ObjectIndex, Vec<usize>>,
    /// Entries whose bytes are wanted of an object.
    wanted: BTreeSet<usize>,
    /// Entries with something in their way that only a person can remove: not fetched over and over.
    refused: BTreeSet<usize>,
    /// A manifest that could not be kept yet.
    pending: Option<(Digest, BTreeMap<Digest, Bytes>)>,
    chaining: BTreeMap<ObjectId, Arc<[ChainingValue]>>,
}

impl Dataset {
    pub(crate) fn new(
        settings: Settings,
        target: Arc<TargetDir>,
        parts: Arc<PartStore>,
        archive: Archive,
        record: Record,
        reports: mpsc::UnboundedSender<Report>,
    ) -> Self {
        let obstacles = if settings.overwrite { Obstacles::Remove } else { Obstacles::Keep };
        let policy = Policy { mode_mask: settings.mode_mask, obstacles };
        let installer = Installer::new(Arc::clone(&target), policy);
        Self {
            settings,
            target,
            parts,
            archive,
            record,
            installer,
            reports,
            manifest: None,
            members: BTreeMap::new(),
            wanted: BTreeSet::new(),
            refused: BTreeSet::new(),
            pending: None,
            chaining: BTreeMap::new(),
        }
    }

    /// Works until nobody gives orders any more.
    pub(crate) fn run(mut self, orders: &std::sync::mpsc::Receiver<Order>) {
        let mut next = None;
        while let Some(order) = next.take().or_else(|| orders.recv().ok()) {
            match order {
                Order::Remember => self.remember(),
                Order::Assemble { hash, blobs } => self.assemble(hash, &blobs),
                Order::Scan { depth, answer } => {
                    self.refused.clear();
                    match self.pending.take() {
                        Some((hash, blobs)) => self.assemble(hash, &blobs),
                        None => self.scan(depth, answer),
                    }
                }
                Order::Finish => {
                    let whole = self.finish();
                    self.tell(Report::Finished { whole });
                }
                Order::Install(object) => {
                    // What waits behind is installed in the same batch: one flush for many files.
                    let mut objects = vec![object];
                    while objects.len() < BATCH_MAX {
                        match orders.try_recv() {
                            Ok(Order::Install(object)) => objects.push(object),
                            Ok(other) => {
                                next = Some(other);
                                break;
                            }
                            Err(_) => break,
                        }
                    }
                    self.install(&objects);
                }
            }
        }
    }

    fn tell(&self, report: Report) {
        if self.reports.send(report).is_err() {
            tracing::debug!("nobody listens any more");
        }
    }

    fn remember(&mut self) {
        match load_manifest(&self.archive, &self.settings.publisher, self.settings.channel) {
            Ok(Some((hash, manifest))) => {
                self.take(hash, Arc::new(manifest));
                self.scan(Depth::Quick, None);
            }
            Ok(None) => {}
            Err(error) => self.tell(Report::Trouble(format!("the manifest of the last run is not usable: {error}"))),
        }
    }

    fn assemble(&mut self, hash: Digest, blobs: &BTreeMap<Digest, Bytes>) {
        match self.adopt(hash, blobs) {
            Ok(manifest) => {
                self.take(hash, Arc::new(manifest));
                self.scan(Depth::Quick, None);
            }
            Err(AdoptError::Archive(error)) => {
                // The state's disk, not the manifest: tried again with the next comparison.
                self.pending = Some((hash, blobs.clone()));
                self.tell(Report::Failed(format!("cannot keep the manifest: {error}; trying again")));
            }
            Err(error) => self.tell(Report::Refused { hash, why: error.to_string() }),
        }
    }

    fn adopt(&self, hash: Digest, blobs: &BTreeMap<Digest, Bytes>) -> Result<Manifest, AdoptError> {
        let at_hand = |digest: &Digest| match blobs.get(digest) {
            Some(bytes) => Some(bytes.clone()),
            None => self.archive.get(digest).ok().map(Bytes::from),
        };
        let bytes = at_hand(&hash).ok_or(AdoptError::NoRoot)?;
        let root = decode_root(&bytes, &self.settings.publisher, self.settings.channel)?;
        let manifest = root.assemble(at_hand)?;
        let parts: Vec<_> = root.parts().filter_map(|(digest, _)| Some((digest, at_hand(&digest)?))).collect();
        self.archive.save((hash, &bytes), parts.iter().map(|(digest, bytes)| (*digest, &bytes[..])))?;
        Ok(manifest)
    }

    fn take(&mut self, hash: Digest, manifest: Arc<Manifest>) {
        self.members = manifest.members();
        self.refused.clear();
        self.manifest = Some((hash, manifest));
        self.load_chaining();
    }

    fn scan(&mut self, depth: Depth, answer: Option<tokio::sync::oneshot::Sender<ScanReport>>) {
        let result = self.compare(depth);
        let report = match result {
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
            && answer.send(report).is_err()
        {
            tracing::debug!("whoever asked for the scan is gone");
        }
    }

    /// Installs complete objects: all their files in one batch.
    fn install(&mut self, objects: &[ObjectId]) {
        let Some((_, manifest)) = self.manifest.clone() else { return };
        let mut outcomes = BTreeMap::new();
        let mut finished = Vec::new();
        for id in objects {
            let outcome = match self.stage_object(&manifest, *id, &mut finished) {
                Ok(()) => InstallOutcome::Installed,
                Err(error) => self.judge(&error),
            };
            outcomes.insert(*id, outcome);
        }
        let committed = self.installer.commit();
        let mut durable = true;
        match committed {
            Ok(results) => self.record_outcomes(&manifest, results, &mut outcomes),
            Err(error) => {
                durable = false;
                let outcome = self.judge(&InstallError::Disk(error));
                outcomes.values_mut().for_each(|o| *o = outcome);
            }
        }
        for (id, outcome) in outcomes {
            let keep = matches!(outcome, InstallOutcome::Later | InstallOutcome::Full) || !durable;
            if !keep && let Err(error) = self.parts.remove(id) {
                self.tell(Report::Trouble(error.to_string()));
            }
            self.tell(Report::Installed { object: id, outcome });
        }
    }

    fn stage_object(
        &mut self,
        manifest: &Manifest,
        id: ObjectId,
        finished: &mut Vec<Finished>,
    ) -> Result<(), InstallError> {
        let Some(record) = manifest.index_of(id).and_then(|index| manifest.object(index).zip(Some(index))) else {
            return Ok(());
        };
        let (record, index) = record;
        if record.kind == ObjectKind::Chaining {
            return self.keep_chaining(manifest, record);
        }
        let object = match self.parts.finish(id) {
            Ok(object) => object,
            Err(PartError::Disk(error)) => return Err(error.into()),
            Err(error) => {
                tracing::warn!(%error, "partial object is not whole");
                return Err(InstallError::WrongBytes { path: format!("object {id}") });
            }
        };
        let entries: Vec<_> = self.members.get(&index).into_iter().flatten().copied().collect();
        let entries: Vec<_> = entries.into_iter().filter(|at| self.wanted.contains(at)).collect();
        for (nth, at) in entries.iter().enumerate() {
            let Some(entry) = manifest.entries().get(*at) else { continue };
            let source = match entry.kind {
                EntryKind::File { content: Content::Slice { offset, .. }, .. } => {
                    Source::Slice { pack: &object, offset }
                }
                // The last entry takes the data file itself.
                EntryKind::File { .. } if nth + 1 == entries.len() => Source::Object(&object),
                EntryKind::File { .. } => Source::CopyOf(&object),
                EntryKind::Directory | EntryKind::Symlink { .. } => Source::Nothing,
            };
            self.installer.stage(entry, source)?;
        }
        finished.push(object);
        Ok(())
    }

    /// Chaining values must merge to their owners' digests; they are kept for the next start.
    fn keep_chaining(&mut self, manifest: &Manifest, record: &ObjectRecord) -> Result<(), InstallError> {
        let wrong = || InstallError::WrongBytes { path: format!("block hashes {}", record.id) };
        let mut bytes = Vec::new();
        for block in 0..record.layout.block_count() {
            match self.parts.read_block(record.id, block) {
                Ok(block) => bytes.extend(block),
                Err(PartError::Disk(error)) => return Err(error.into()),
                Err(_) => return Err(wrong()),
            }
        }
        let values: Arc<[ChainingValue]> =
            bytes.chunks_exact(32).filter_map(|c| ChainingValue::try_from(c).ok()).collect();
        let owners = manifest.objects().iter().filter(|o| o.chaining == Chaining::Object(record.id));
        for owner in owners {
            if values.len() < INLINE_CHAINING_MAX as usize || nackcast_common::hash::merge(&values) != owner.digest {
                return Err(wrong());
            }
        }
        if let Err(error) = self.record.keep_chaining(record.id, &bytes) {
            tracing::warn!(%error, "block hashes are not kept for the next start");
        }
        self.tell(Report::Chaining(record.id, Arc::clone(&values)));
        self.chaining.insert(record.id, values);
        Ok(())
    }

    fn load_chaining(&mut self) {
        let Some((_, manifest)) = &self.manifest else { return };
        let mut loaded = BTreeMap::new();
        for record in manifest.objects().iter().filter(|o| o.kind == ObjectKind::Chaining) {
            if let Some(values) = self.chaining.remove(&record.id) {
                loaded.insert(record.id, values);
            } else if let Some(bytes) = self.record.chaining(record.id)
                && Digest::of(&bytes) == record.digest
            {
                let values = bytes.chunks_exact(32).filter_map(|c| ChainingValue::try_from(c).ok());
                loaded.insert(record.id, values.collect());
            }
        }
        self.record.retain_chaining(|id| loaded.contains_key(&id));
        for (id, values) in &loaded {
            self.tell(Report::Chaining(*id, Arc::clone(values)));
        }
        self.chaining = loaded;
    }

    /// The values by which blocks of an object are checked, as far as they are here.
    fn values(&self, record: &ObjectRecord) -> Option<Arc<[ChainingValue]>> {
        match &record.chaining {
            Chaining::Digest => None,
            Chaining::Inline(values) => Some(Arc::clone(values)),
            Chaining::Object(id) => self.chaining.get(id).cloned(),
        }
    }

    fn record_outcomes(
        &mut self,
        manifest: &Manifest,
        results: Vec<Outcome>,
        outcomes: &mut BTreeMap<ObjectId, InstallOutcome>,
    ) {
        let mut stamps = Vec::new();
        for Outcome { path, result } in results {
            match result {
                Ok(stamp) => {
                    if let Ok(at) = manifest.entries().binary_search_by(|e| e.path.cmp(&path)) {
                        self.wanted.remove(&at);
                    }
                    stamps.push((path, stamp));
                }
                Err(error) => {
                    let outcome = self.judge(&error);
                    if outcome == InstallOutcome::Refused
                        && let Ok(at) = manifest.entries().binary_search_by(|e| e.path.cmp(&path))
                    {
                        self.refused.insert(at);
                    }
                    if let Some(id) = object_of(manifest, &path) {
                        outcomes.insert(id, outcome);
                    }
                }
            }
        }
        if let Err(error) = self.record.put_stamps(&stamps) {
            self.tell(Report::Trouble(error.to_string()));
        }
    }

    /// What an error means for the object that met it; people are told.
    fn judge(&self, error: &InstallError) -> InstallOutcome {
        self.tell(Report::Trouble(error.to_string()));
        match error {
            InstallError::Disk(error) if error.is_full() => InstallOutcome::Full,
            InstallError::Disk(_) | InstallError::Interfered { .. } => InstallOutcome::Later,
            InstallError::Conflict(_) => InstallOutcome::Refused,
            InstallError::WrongBytes { .. } | InstallError::Misfit { .. } => InstallOutcome::Refetch,
        }
    }

    /// Everything is installed: directories, prune, and a last quick look.
    fn finish(&mut self) -> bool {
        let Some((_, manifest)) = self.manifest.clone() else { return false };
        if self.settings.prune {
            self.prune(&manifest);
        }
        match self.installer.finish_directories(&manifest) {
            Ok(failed) => failed.into_iter().for_each(|error| self.tell(Report::Trouble(error.to_string()))),
            Err(error) => {
                self.tell(Report::Trouble(error.to_string()));
                return false;
            }
        }
        let whole = match self.look(&manifest, Depth::Quick) {
            Ok(comparison) => {
                let whole = plan::is_whole(&manifest, &comparison);
                if !whole {
                    let left = plan::differing(&manifest, &comparison).take(3).collect::<Vec<_>>();
                    tracing::debug!("not whole yet: {}", left.join(", "));
                }
                whole
            }
            Err(error) => {
                self.tell(Report::Trouble(error.to_string()));
                false
            }
        };
        if whole {
            self.clean_up();
        } else {
            self.scan(Depth::Quick, None);
        }
        whole
    }

    fn prune(&mut self, manifest: &Manifest) {
        let left: Vec<DatasetPath> = match self.record.paths() {
            Ok(paths) => paths.into_iter().filter(|p| manifest.entry(p.as_bytes()).is_none()).collect(),
            Err(error) => return self.tell(Report::Trouble(error.to_string())),
        };
        let (left, foreign): (Vec<_>, Vec<_>) = left.into_iter().partition(|path| self.is_still_ours(path));
        for path in &foreign {
            self.tell(Report::Trouble(format!("{path} left the dataset, but was changed here: it stays")));
        }
        if let Err(error) = self.record.forget(&foreign) {
            self.tell(Report::Trouble(error.to_string()));
        }
        if left.is_empty() {
            return;
        }
        match self.installer.prune(&left, manifest) {
            Ok(pruned) => {
                let kept: BTreeSet<_> = pruned.kept.iter().map(|(path, _)| path.as_bytes()).collect();
                let gone: Vec<_> = left.iter().filter(|p| !kept.contains(p.as_bytes())).cloned().collect();
                for (path, why) in &pruned.kept {
                    self.tell(Report::Trouble(format!("{path} left the dataset but was not removed: {why:?}")));
                }
                if let Err(error) = self.record.forget(&gone) {
                    self.tell(Report::Trouble(error.to_string()));
                }
            }
            Err(error) => self.tell(Report::Trouble(error.to_string())),
        }
    }

    /// What stands there is what we put there: not another file, nor one that somebody wrote to since.
    fn is_still_ours(&self, path: &DatasetPath) -> bool {
        let Ok(Some(facts)) = self.target.facts(path) else { return true };
        match self.record.stamp(path) {
            Some(stamp) => {
                let now = FileStamp::of(&facts, &Digest::default());
                facts.kind == Kind::File
                    && (now.size, now.mtime, now.ctime, now.inode)
                        == (stamp.size, stamp.mtime, stamp.ctime, stamp.inode)
            }
            None if self.record.is_symlink(path) => facts.kind == Kind::Symlink,
            None => facts.kind == Kind::Directory,
        }
    }

    /// What we put where the manifest now wants something of another kind goes first: a file where a directory
    /// shall be, and what is in a directory where a file or link shall be.
    fn clear_the_way(&mut self, manifest: &Manifest) -> Result<(), CompareError> {
        let mut files = Vec::new();
        let mut inside = Vec::new();
        for path in self.record.paths()? {
            let blocked = |above: &[u8]| manifest.entry(above).is_some_and(|e| e.kind != EntryKind::Directory);
            let becomes_directory = match manifest.entry(path.as_bytes()) {
                Some(entry) => entry.kind == EntryKind::Directory,
                None => manifest.has_below(path.as_bytes()),
            };
            let stands = self.target.facts(&path).ok().flatten().map(|f| f.kind);
            if path.ancestors().any(blocked) {
                inside.push(path);
            } else if becomes_directory && matches!(stands, Some(Kind::File | Kind::Symlink)) {
                files.push(path);
            }
        }
        files.retain(|path| self.is_still_ours(path));
        inside.retain(|path| self.is_still_ours(path));
        if !inside.is_empty() {
            self.installer.prune(&inside, manifest)?;
        }
        if !files.is_empty() {
            // The manifest has these names, as directories: nothing of it is in the way yet.
            let nothing =
                Manifest::new(manifest.head().clone(), Vec::new(), Vec::new()).map_err(ManifestCodecError::from)?;
            self.installer.prune(&files, &nothing)?;
        }
        self.record.forget(&files)?;
        self.record.forget(&inside)?;
        Ok(())
    }

    fn clean_up(&self) {
        let cleaned = self.parts.retain(|_| false).and_then(|_| self.target.remove_part_directory());
        if let Err(error) = cleaned {
            self.tell(Report::Trouble(error.to_string()));
        }
        if let Err(error) = self.record.flush() {
            self.tell(Report::Trouble(error.to_string()));
        }
    }
}

fn object_of(manifest: &Manifest, path: &DatasetPath) -> Option<ObjectId> {
    match manifest.entry(path.as_bytes())?.kind {
        EntryKind::File { content: Content::Object(index) | Content::Slice { pack: index, .. }, .. } => {
            manifest.object(index).map(|o| o.id)
        }
        EntryKind::File { .. } | EntryKind::Directory | EntryKind::Symlink { .. } => None,
    }
}

/// The manifest that an archive has in force, verified.
pub(crate) fn load_manifest(
    archive: &Archive,
    publisher: &VerifyingKey,
    channel: ChannelId,
) -> Result<Option<(Digest, Manifest)>, AdoptError> {
    let Some((hash, bytes)) = archive.current()? else { return Ok(None) };
    let root = decode_root(&bytes, publisher, channel)?;
    Ok(Some((hash, root.assemble(|digest| archive.get(digest).ok().map(Bytes::from))?)))
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
