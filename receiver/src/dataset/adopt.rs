//! Taking a manifest: from an earlier run, or put together from what was received.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use nackcast_common::archive::{Archive, ArchiveError};
use nackcast_common::ids::{ChannelId, Digest};
use nackcast_common::keys::VerifyingKey;
use nackcast_common::manifest::Manifest;
use nackcast_proto::manifest::{ManifestCodecError, decode_root};

use super::{Dataset, Report};
use crate::disk::scan::Depth;

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

impl Dataset {
    pub(super) fn remember(&mut self) {
        match load_manifest(&self.archive, &self.settings.publisher, self.settings.channel) {
            Ok(Some((hash, manifest))) => {
                self.take(hash, Arc::new(manifest));
                self.scan(Depth::Quick, None);
            }
            Ok(None) => self.tell(Report::Lost("the manifest of the last run is gone".to_owned())),
            Err(error) => self.tell(Report::Lost(format!("the manifest of the last run is not usable: {error}"))),
        }
    }

    pub(super) fn assemble(&mut self, hash: Digest, blobs: BTreeMap<Digest, Bytes>) {
        match self.adopt(hash, &blobs) {
            Ok(manifest) => {
                self.take(hash, Arc::new(manifest));
                self.scan(Depth::Quick, None);
            }
            Err(AdoptError::Archive(error)) => {
                // The state's disk, not the manifest: tried again with the next comparison.
                self.pending = Some((hash, blobs));
                self.tell(Report::Failed(format!("cannot keep the manifest: {error}; trying again")));
            }
            // It was at hand when it was looked for: a disk that cannot be read now makes no manifest bad.
            Err(error @ (AdoptError::NoRoot | AdoptError::Codec(ManifestCodecError::PartMissing(_)))) => {
                self.tell(Report::Lost(format!("{error}; it is fetched again")));
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
        self.blocked.clear();
        self.damaged.clear();
        self.files.set(&manifest);
        // One that could not be kept before is an older one now.
        self.pending = None;
        self.manifest = Some((hash, manifest));
        self.load_chaining();
    }
}
