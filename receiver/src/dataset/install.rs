//! Installing: complete objects become files, many in one batch.

use std::collections::BTreeMap;

use nackcast_common::ids::ObjectId;
use nackcast_common::manifest::{Content, Entry, EntryKind, Manifest, ObjectKind};
use nackcast_common::path::DatasetPath;
use nackcast_common::ranges::RangeSet;

use super::{Dataset, Report};
use crate::disk::DiskError;
use crate::disk::install::{InstallError, Outcome, Source};
use crate::disk::part::{Finished, PartError};
use crate::engine::InstallOutcome;

impl Dataset {
    /// Installs complete objects: all their files in one batch.
    pub(super) fn install(&mut self, objects: &[ObjectId]) {
        let Some((_, manifest)) = self.manifest.clone() else { return };
        let mut outcomes = BTreeMap::new();
        let mut finished = Vec::new();
        for id in objects {
            let outcome = match self.left_of(*id) {
                Some(left) => InstallOutcome::Refetch { left },
                None => match self.stage_object(&manifest, *id, &mut finished) {
                    Ok(()) => InstallOutcome::Installed,
                    Err(error) => {
                        if matches!(error, InstallError::Disk(DiskError::Lost { .. })) {
                            self.distrust(*id);
                        }
                        self.block_object(&manifest, *id, &error);
                        self.judge(&error)
                    }
                },
            };
            outcomes.insert(*id, outcome);
        }
        let committed = self.commit();
        let mut durable = true;
        match committed {
            Ok(results) => self.record_outcomes(&manifest, results, &mut outcomes),
            Err(error) => {
                durable = false;
                let error = InstallError::Disk(error);
                let outcome = self.judge(&error);
                for id in outcomes.keys() {
                    self.distrust(*id);
                    self.block_object(&manifest, *id, &error);
                }
                outcomes.values_mut().for_each(|o| o.clone_from(&outcome));
            }
        }
        for (id, outcome) in outcomes {
            let keep = match &outcome {
                InstallOutcome::Later | InstallOutcome::Full => true,
                InstallOutcome::Refetch { left } => !left.is_empty(),
                InstallOutcome::Installed | InstallOutcome::Refused => !durable,
            };
            if !keep && let Err(error) = self.parts.remove(id) {
                self.trouble(&error);
            }
            self.tell(Report::Installed { object: id, outcome });
        }
    }

    /// The blocks that are there of an object that is no longer whole, since the disk lost some of it.
    fn left_of(&self, id: ObjectId) -> Option<RangeSet> {
        let state = self.parts.state(id)?;
        let whole = state.verified.count() == u64::from(state.layout.block_count());
        (!whole).then_some(state.verified)
    }

    /// The disk lost bytes, perhaps of this object: the next try finds out what is left.
    fn distrust(&self, id: ObjectId) {
        match self.parts.distrust(id) {
            Ok(left) => tracing::debug!(%id, left = left.count(), "falls back to its last record"),
            Err(error) => tracing::debug!(%id, %error, "begins anew"),
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
            self.stage(entry, source)?;
        }
        finished.push(object);
        Ok(())
    }

    /// Stages an entry: where nothing stood, nothing is replaced.
    pub(super) fn stage(&mut self, entry: &Entry, source: Source<'_>) -> Result<(), InstallError> {
        if !self.record.knows(&entry.path) && !self.settings.overwrite {
            self.installer.stage_vacant(entry, source)
        } else {
            self.installer.stage(entry, source)
        }
    }

    /// We put something there, but have no stamp of it: without this mark it would be somebody else's.
    pub(super) fn doubt(&mut self, placed: &[DatasetPath]) {
        if let Err(error) = self.record.doubt(placed.iter()) {
            self.trouble(&error);
        }
    }

    pub(super) fn record_outcomes(
        &mut self,
        manifest: &Manifest,
        results: Vec<Outcome>,
        outcomes: &mut BTreeMap<ObjectId, InstallOutcome>,
    ) {
        let (mut stamps, mut doubtful, mut foreign) = (Vec::new(), Vec::new(), Vec::new());
        for Outcome { path, placed, result } in results {
            match result {
                Ok(stamp) => {
                    if let Ok(at) = manifest.entries().binary_search_by(|e| e.path.cmp(&path)) {
                        self.wanted.remove(&at);
                        self.blocked.remove(at);
                    }
                    stamps.push((path, stamp));
                }
                Err(error) => {
                    if placed {
                        doubtful.push(path.clone());
                    } else if matches!(error, InstallError::Taken { .. }) {
                        foreign.push(path.clone());
                    }
                    let outcome = self.judge(&error);
                    if let Ok(at) = manifest.entries().binary_search_by(|e| e.path.cmp(&path)) {
                        self.block(at, &error);
                        if outcome == InstallOutcome::Refused {
                            self.refused.insert(at);
                        }
                    }
                    if let Some(id) = object_of(manifest, &path) {
                        outcomes.insert(id, outcome);
                    }
                }
            }
        }
        self.doubt(&doubtful);
        if let Err(error) = self.record.disown(&foreign) {
            self.trouble(&error);
        }
        if let Err(error) = self.record.put_stamps(&stamps) {
            self.trouble(&error);
        }
    }

    /// What an error means for the object that met it; people are told.
    fn judge(&mut self, error: &InstallError) -> InstallOutcome {
        self.trouble(error);
        match error {
            InstallError::Disk(error) if error.is_full() => InstallOutcome::Full,
            InstallError::Disk(_) | InstallError::Interfered { .. } => InstallOutcome::Later,
            InstallError::Conflict(_) | InstallError::Taken { .. } => InstallOutcome::Refused,
            InstallError::WrongBytes { .. } | InstallError::Misfit { .. } => {
                InstallOutcome::Refetch { left: RangeSet::new() }
            }
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
