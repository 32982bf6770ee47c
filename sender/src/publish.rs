//! The signed manifest of a channel on disk, and as the engine is told of it.
//!
//! It lies in `STATE/manifest-CHANNEL/` (see [`Archive`]); what is read back is verified like what comes from the
//! network.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use nackcast_common::archive::{Archive, ArchiveError};
use nackcast_common::geometry::Layout;
use nackcast_common::ids::{ChannelId, Digest, ObjectId};
use nackcast_common::keys::VerifyingKey;
use nackcast_common::manifest::Manifest;
use nackcast_proto::manifest::{self, EncodedManifest, ManifestCodecError, Part};
use nackcast_proto::pull::Offer;
use nackcast_proto::wire::ManifestRef;

use crate::engine::Publication;
use crate::error::RunError;

/// A signed manifest with all its bytes.
#[derive(Clone, Debug)]
pub(crate) struct Published {
    pub(crate) reference: ManifestRef,
    pub(crate) manifest: Arc<Manifest>,
    /// The root first.
    parts: Vec<Part>,
}

impl Published {
    pub(crate) fn new(manifest: Arc<Manifest>, encoded: EncodedManifest) -> Self {
        let EncodedManifest { reference, root, parts } = encoded;
        Self { reference, manifest, parts: std::iter::once(root).chain(parts).collect() }
    }

    /// Root and parts by the ids under which they are sent.
    pub(crate) fn objects(&self) -> HashMap<ObjectId, (Layout, Bytes)> {
        self.with_layouts().map(|(id, layout, part)| (id, (layout, part.bytes.clone()))).collect()
    }

    /// What the engine is told.
    pub(crate) fn publication(&self, fresh: bool, passes: Vec<(ObjectId, u32)>) -> Publication {
        Publication {
            reference: self.reference,
            manifest: Arc::clone(&self.manifest),
            parts: self.with_layouts().map(|(id, layout, _)| (id, layout)).collect(),
            fresh,
            passes,
        }
    }

    /// As it is given to those who pull.
    pub(crate) fn offer(&self) -> Option<Offer> {
        let root = self.parts.first()?.bytes.clone();
        Some(Offer { generation: self.manifest.head().generation, reference: self.reference, root })
    }

    fn with_layouts(&self) -> impl Iterator<Item = (ObjectId, Layout, &Part)> {
        let geometry = self.reference.geometry;
        self.parts.iter().filter_map(move |part| {
            let len = part.bytes.len() as u64;
            // A part is at most one block, so no object is too large.
            let layout = geometry.object(len).ok()?;
            Some((geometry.object_id(&part.digest, len), layout, part))
        })
    }
}

/// Why a stored manifest is of no use.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadError {
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    #[error(transparent)]
    Codec(#[from] ManifestCodecError),
}

/// The place of one channel's manifest.
#[derive(Clone, Debug)]
pub(crate) struct ManifestStore {
    archive: Archive,
}

impl ManifestStore {
    pub(crate) fn new(state: &Path, channel: ChannelId) -> Self {
        Self::at(state.join(format!("manifest-{channel}")))
    }

    /// Where somebody else keeps it.
    pub(crate) fn at(directory: PathBuf) -> Self {
        Self { archive: Archive::new(nackcast_common::files::linux(), directory) }
    }

    /// The generation that was stored last, if there is one.
    pub(crate) fn load(&self, publisher: &VerifyingKey, channel: ChannelId) -> Result<Option<Published>, LoadError> {
        let Some((hash, bytes)) = self.archive.current()? else { return Ok(None) };
        let parsed = manifest::decode_root(&bytes, publisher, channel)?;
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let reference = ManifestRef { hash, length, geometry: parsed.head.geometry };
        let mut seen = BTreeSet::new();
        let mut parts = vec![Part { digest: hash, bytes: bytes.into() }];
        for (digest, _) in parsed.parts().filter(|(digest, _)| seen.insert(*digest)) {
            parts.push(Part { digest, bytes: self.archive.get(&digest)?.into() });
        }
        let by_digest: HashMap<Digest, Bytes> = parts.iter().map(|p| (p.digest, p.bytes.clone())).collect();
        let manifest = parsed.assemble(|digest| by_digest.get(digest).cloned())?;
        Ok(Some(Published { reference, manifest: Arc::new(manifest), parts }))
    }

    /// The hash of the root in force.
    pub(crate) fn current(&self) -> Result<Option<Digest>, ArchiveError> {
        Ok(self.archive.current()?.map(|(hash, _)| hash))
    }

    /// Stores a generation; durable when this returns. Files of earlier ones are removed.
    pub(crate) fn save(&self, published: &Published) -> Result<(), RunError> {
        let mut parts = published.parts.iter().map(|part| (part.digest, &part.bytes[..]));
        let Some(root) = parts.next() else { return Ok(()) };
        self.archive.save(root, parts).map_err(|source| RunError::NotStored { source })
    }

    /// Removes what is of no use, so that nothing damaged passes for a part that is there already.
    pub(crate) fn forget(&self) {
        self.archive.forget();
    }
}

#[cfg(test)]
mod tests {
    use nackcast_common::geometry::Geometry;
    use nackcast_common::ids::{Epoch, Generation};
    use nackcast_common::keys::SigningKey;
    use nackcast_common::manifest::{Content, Entry, EntryKind, Head, Mtime};
    use nackcast_common::path::DatasetPath;

    use super::*;

    const CHANNEL: ChannelId = ChannelId([5; 16]);

    /// A generation of so many empty files.
    fn generation(number: u64, files: u32, key: &SigningKey) -> Published {
        let head = Head {
            channel: CHANNEL,
            generation: Generation(number),
            parent: None,
            epoch: Epoch(1),
            geometry: Geometry::default(),
        };
        let entry = |i: u32| Entry {
            path: DatasetPath::new(format!("a-rather-long-directory-name/{i:08}").as_bytes()).unwrap(),
            kind: EntryKind::File { size: 0, digest: Digest::of(b""), content: Content::Empty },
            mode: 0o644,
            mtime: Mtime::default(),
        };
        let manifest = Arc::new(Manifest::new(head, Vec::new(), (0..files).map(entry).collect()).unwrap());
        let encoded = manifest::encode(&manifest, key).unwrap();
        Published::new(manifest, encoded)
    }

    fn files_in(store: &ManifestStore) -> usize {
        std::fs::read_dir(store.archive.directory()).unwrap().count()
    }

    #[test]
    fn a_stored_manifest_comes_back_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let key = SigningKey::generate();
        let store = ManifestStore::new(dir.path(), CHANNEL);
        assert!(store.load(&key.verifying_key(), CHANNEL).unwrap().is_none());
        for (number, files) in [(1, 5000), (2, 60_000), (3, 7)] {
            let published = generation(number, files, &key);
            store.save(&published).unwrap();
            let back = store.load(&key.verifying_key(), CHANNEL).unwrap().unwrap();
            assert_eq!((back.reference, &back.parts), (published.reference, &published.parts));
            assert_eq!(back.manifest.entries(), published.manifest.entries());
            assert_eq!(files_in(&store), published.parts.len() + 1, "only what is needed stays");
            let told = back.publication(true, Vec::new());
            assert_eq!(
                told.parts[0].0,
                back.reference.geometry.object_id(&back.reference.hash, back.reference.length.into())
            );
            assert!(told.parts.iter().all(|(id, _)| back.objects().contains_key(id)));
        }
    }

    #[test]
    fn what_was_damaged_or_signed_by_another_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let key = SigningKey::generate();
        let store = ManifestStore::new(dir.path(), CHANNEL);
        let published = generation(1, 100, &key);
        store.save(&published).unwrap();
        let stranger = SigningKey::generate().verifying_key();
        assert!(matches!(store.load(&stranger, CHANNEL), Err(LoadError::Codec(_))));
        let part = store.archive.directory().join(published.parts[1].digest.to_string());
        let mut bytes = std::fs::read(&part).unwrap();
        bytes[3] ^= 1;
        std::fs::write(&part, &bytes).unwrap();
        assert!(matches!(store.load(&key.verifying_key(), CHANNEL), Err(LoadError::Archive(ArchiveError::Damaged(_)))));
        std::fs::remove_file(&part).unwrap();
        assert!(matches!(store.load(&key.verifying_key(), CHANNEL), Err(LoadError::Archive(ArchiveError::Io { .. }))));
    }
}
