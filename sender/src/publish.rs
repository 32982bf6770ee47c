//! The signed manifest of a channel on disk, and as the engine is told of it.
//!
//! Root and parts lie in `STATE/manifest-CHANNEL/`, each in a file with the name of its hash; the file `current`
//! names the root. It is renamed into place after everything that it needs is durable, so a reader finds the last
//! generation or the one before, whole. What is read back is verified like what comes from the network.

use std::collections::{BTreeSet, HashMap};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use nackcast_common::geometry::Layout;
use nackcast_common::ids::{ChannelId, Digest, ObjectId};
use nackcast_common::keys::VerifyingKey;
use nackcast_common::manifest::Manifest;
use nackcast_proto::manifest::{self, EncodedManifest, ManifestCodecError, Part};
use nackcast_proto::wire::ManifestRef;

use crate::engine::Publication;
use crate::error::RunError;

/// Names the root of the generation that is served.
const CURRENT: &str = "current";
/// More new files than this are made durable by one sync of the whole file system.
const SYNC_SINGLY_MAX: usize = 32;

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
    #[error("{}: {source}", path.display())]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} is not what its name says", .0.display())]
    Damaged(PathBuf),
    #[error(transparent)]
    Codec(#[from] ManifestCodecError),
}

/// The place of one channel's manifest.
#[derive(Clone, Debug)]
pub(crate) struct ManifestStore {
    dir: PathBuf,
}

impl ManifestStore {
    pub(crate) fn new(state: &Path, channel: ChannelId) -> Self {
        Self { dir: state.join(format!("manifest-{channel}")) }
    }

    /// The generation that was stored last, if there is one.
    pub(crate) fn load(&self, publisher: &VerifyingKey, channel: ChannelId) -> Result<Option<Published>, LoadError> {
        let current = self.dir.join(CURRENT);
        let name = match fs::read_to_string(&current) {
            Ok(name) => name,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(LoadError::Io { path: current, source }),
        };
        let root = self.read(name.trim(), None)?;
        let parsed = manifest::decode_root(&root.bytes, publisher, channel)?;
        let mut seen = BTreeSet::new();
        let mut parts = Vec::new();
        for (digest, _) in parsed.parts().filter(|(digest, _)| seen.insert(*digest)) {
            parts.push(self.read(&digest.to_string(), Some(digest))?);
        }
        let by_digest: HashMap<Digest, Bytes> = parts.iter().map(|p| (p.digest, p.bytes.clone())).collect();
        let manifest = parsed.assemble(|digest| by_digest.get(digest).cloned())?;
        let length = u32::try_from(root.bytes.len()).unwrap_or(u32::MAX);
        let reference = ManifestRef { hash: root.digest, length, geometry: parsed.head.geometry };
        let parts = std::iter::once(root).chain(parts).collect();
        Ok(Some(Published { reference, manifest: Arc::new(manifest), parts }))
    }

    fn read(&self, name: &str, expected: Option<Digest>) -> Result<Part, LoadError> {
        let path = self.dir.join(name);
        let bytes: Bytes = fs::read(&path).map_err(|source| LoadError::Io { path: path.clone(), source })?.into();
        let digest = Digest::of(&bytes);
        if expected.is_some_and(|expected| expected != digest) || digest.to_string() != name {
            return Err(LoadError::Damaged(path));
        }
        Ok(Part { digest, bytes })
    }

    /// Stores a generation; durable when this returns. Files of earlier ones are removed.
    pub(crate) fn save(&self, published: &Published) -> Result<(), RunError> {
        let failed = |action| {
            let path = self.dir.clone();
            move |source| RunError::StateFile { path, action, source }
        };
        fs::create_dir_all(&self.dir).map_err(failed("made"))?;
        self.write_parts(&published.parts).map_err(failed("written"))?;
        let root = published.reference.hash.to_string();
        self.write(CURRENT, format!("{root}\n").as_bytes(), true).map_err(failed("written"))?;
        self.sync_dir().map_err(failed("synced"))?;
        self.remove_others(&published.parts);
        Ok(())
    }

    /// Removes what is of no use, so that nothing damaged passes for a part that is there already.
    pub(crate) fn forget(&self) {
        if let Err(error) = fs::remove_dir_all(&self.dir) {
            tracing::debug!(path = %self.dir.display(), %error, "a useless manifest stays");
        }
    }

    fn write_parts(&self, parts: &[Part]) -> io::Result<()> {
        // A file of this name was whole when it was renamed there; whether it is sound is checked when it is read.
        let is_new = |part: &&Part| {
            let known = fs::metadata(self.dir.join(part.digest.to_string()));
            known.map_or(true, |meta| meta.len() != part.bytes.len() as u64)
        };
        let new: Vec<_> = parts.iter().filter(is_new).collect();
        let singly = new.len() <= SYNC_SINGLY_MAX;
        for part in &new {
            self.write(&part.digest.to_string(), &part.bytes, singly)?;
        }
        if !singly {
            rustix::fs::syncfs(File::open(&self.dir)?)?;
        }
        self.sync_dir()
    }

    fn write(&self, name: &str, bytes: &[u8], sync: bool) -> io::Result<()> {
        let temporary = self.dir.join(format!("{name}.new"));
        let mut file = File::create(&temporary)?;
        file.write_all(bytes)?;
        if sync {
            file.sync_all()?;
        }
        fs::rename(temporary, self.dir.join(name))
    }

    fn sync_dir(&self) -> io::Result<()> {
        File::open(&self.dir)?.sync_all()
    }

    /// Harmless when it fails: they only take room.
    fn remove_others(&self, parts: &[Part]) {
        let kept: BTreeSet<String> = parts.iter().map(|part| part.digest.to_string()).collect();
        for entry in fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let needed = name.to_str().is_some_and(|name| name == CURRENT || kept.contains(name));
            if !needed && let Err(error) = fs::remove_file(entry.path()) {
                tracing::debug!(path = %entry.path().display(), %error, "an old part of a manifest stays");
            }
        }
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
        fs::read_dir(&store.dir).unwrap().count()
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
        let part = store.dir.join(published.parts[1].digest.to_string());
        let mut bytes = fs::read(&part).unwrap();
        bytes[3] ^= 1;
        fs::write(&part, &bytes).unwrap();
        assert!(matches!(store.load(&key.verifying_key(), CHANNEL), Err(LoadError::Damaged(_))));
        fs::remove_file(&part).unwrap();
        assert!(matches!(store.load(&key.verifying_key(), CHANNEL), Err(LoadError::Io { .. })));
    }
}
