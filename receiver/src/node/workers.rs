//! A channel's disk, opened: the two workers, and what the node must know of an earlier run.

use std::path::Path;
use std::sync::Arc;

use nackcast_common::archive::Archive;
use nackcast_common::ids::{Digest, Generation};
use nackcast_common::store::{Store, StoreError};

use crate::blocks::Blocks;
use crate::dataset::{Dataset, Record, Settings, load_manifest};
use crate::disk::DiskError;
use crate::disk::part::PartStore;
use crate::disk::target::TargetDir;
use crate::shelf::ReceiverShelf;

/// What does a node's disk work.
#[derive(Debug)]
pub struct Workers {
    /// Carries out [`super::Order::Blocks`].
    pub blocks: Blocks,
    /// Carries out [`super::Order::Dataset`].
    pub dataset: Dataset,
    /// Gives verified blocks to other receivers.
    pub shelf: ReceiverShelf,
    /// For [`super::NodeConfig::remembered`].
    pub remembered: Option<(Generation, Digest)>,
    /// What of an earlier run could not be used, for people.
    pub warnings: Vec<String>,
}

/// Why a channel's disk could not be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The directory.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The state.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Workers {
    /// Takes up what an earlier run left: partial objects in the target, and in the channel's part of the state
    /// (`store` is in it, and it is on the target's kind of file system) the manifest and block hashes.
    ///
    /// # Errors
    /// When another process uses the target, or target or state cannot be read.
    pub fn open(settings: Settings, target: Arc<TargetDir>, store: Store, state: &Path) -> Result<Self, OpenError> {
        let record = Record::new(store, target.files().clone(), state.join("chaining"))?;
        let (parts, survivors) = PartStore::open(&target)?;
        let mut warnings: Vec<_> = survivors.warnings.iter().map(ToString::to_string).collect();
        let archive = Archive::new(target.files().clone(), state.join("manifest"));
        let remembered = match load_manifest(&archive, &settings.publisher, settings.channel) {
            Ok(found) => found.map(|(hash, manifest)| (manifest.head().generation, hash)),
            Err(error) => {
                warnings.push(format!("the manifest of the last run is not usable: {error}"));
                None
            }
        };
        let parts = Arc::new(parts);
        let shelf = ReceiverShelf::new(
            settings.channel,
            settings.publisher,
            Arc::clone(&target),
            Arc::clone(&parts),
            archive.clone(),
        );
        let blocks = Blocks::new(Arc::clone(&parts), archive.clone());
        let dataset = Dataset::new(settings, target, parts, archive, record);
        Ok(Self { blocks, dataset, shelf, remembered, warnings })
    }
}
