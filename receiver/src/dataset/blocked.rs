//! Entries that cannot be put where they belong, and why, until they stand there: an admin is told of each.

use std::collections::BTreeMap;

use nackcast_common::alerts::NAMES_MAX;
use nackcast_common::ids::ObjectId;
use nackcast_common::manifest::Manifest;
use nackcast_common::path::DatasetPath;

use super::Dataset;
use crate::disk::install::InstallError;

/// What is blocked, for people.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Blocked {
    /// Some of the paths, each with what is in its way.
    pub paths: Vec<(String, String)>,
    /// How many there are.
    pub count: u64,
}

/// By place in the manifest.
#[derive(Debug, Default)]
pub(super) struct BlockedEntries {
    entries: BTreeMap<usize, String>,
    has_changed: bool,
}

impl BlockedEntries {
    pub(super) fn insert(&mut self, at: usize, why: String) {
        let before = self.entries.insert(at, why);
        self.has_changed |= before.as_ref() != self.entries.get(&at);
    }

    pub(super) fn remove(&mut self, at: usize) {
        self.has_changed |= self.entries.remove(&at).is_some();
    }

    pub(super) fn clear(&mut self) {
        self.has_changed |= !self.entries.is_empty();
        self.entries.clear();
    }

    /// What there is to tell since this was last asked.
    pub(super) fn news(&mut self, manifest: &Manifest) -> Option<Blocked> {
        if !std::mem::take(&mut self.has_changed) {
            return None;
        }
        let shown = self.entries.iter().take(NAMES_MAX);
        let paths = shown.filter_map(|(at, why)| Some((manifest.entries().get(*at)?.path.to_string(), why.clone())));
        Some(Blocked { paths: paths.collect(), count: self.entries.len() as u64 })
    }
}

impl Dataset {
    /// This error keeps an entry from its place.
    pub(super) fn block(&mut self, at: usize, error: &InstallError) {
        if keeps_away(error) {
            self.blocked.insert(at, error.to_string());
        }
    }

    /// The same of the entry at this path.
    pub(super) fn block_path(&mut self, path: &DatasetPath, error: &InstallError) {
        let found = self.manifest.as_ref().map(|(_, m)| m.entries().binary_search_by(|e| e.path.cmp(path)));
        if let Some(Ok(at)) = found {
            self.block(at, error);
        }
    }

    /// The same of all that an object is for.
    pub(super) fn block_object(&mut self, manifest: &Manifest, id: ObjectId, error: &InstallError) {
        let members = manifest.index_of(id).and_then(|index| self.members.get(&index)).cloned().unwrap_or_default();
        for at in members {
            if self.wanted.contains(&at) {
                self.block(at, error);
            }
        }
    }
}

/// Wrong bytes are fetched again; of a full disk there is an alert of its own.
fn keeps_away(error: &InstallError) -> bool {
    match error {
        InstallError::Disk(error) => !error.is_full(),
        InstallError::Conflict(_) | InstallError::Taken { .. } | InstallError::Interfered { .. } => true,
        InstallError::WrongBytes { .. } | InstallError::Misfit { .. } => false,
    }
}
