//! What a receiver gives to other receivers (`--serve-peers`): blocks of the manifest in force that are verified, from
//! partial objects and from installed files. Each is verified again when it is read, since anybody may change files.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use nackcast_common::archive::Archive;
use nackcast_common::geometry::Layout;
use nackcast_common::ids::{ChannelId, Digest, ObjectId, ObjectIndex};
use nackcast_common::keys::VerifyingKey;
use nackcast_common::manifest::{Chaining, ChainingValue, Content, EntryKind, Manifest, ObjectKind, ObjectRecord};
use nackcast_proto::manifest::decode_root;
use nackcast_proto::pull::{Offer, Shelf};
use nackcast_proto::wire::ManifestRef;

use crate::disk::part::PartStore;
use crate::disk::seed::BlockCheck;
use crate::disk::target::TargetDir;
use crate::node::ReceiverNode;

/// The blocks of one channel.
pub struct ReceiverShelf {
    channel: ChannelId,
    publisher: VerifyingKey,
    target: Arc<TargetDir>,
    parts: Arc<PartStore>,
    archive: Archive,
    current: Mutex<Option<Current>>,
    held: Mutex<Option<Arc<Held>>>,
    given: AtomicU64,
}

impl fmt::Debug for ReceiverShelf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReceiverShelf").field("channel", &self.channel).finish_non_exhaustive()
    }
}

/// The manifest in force, as the node has it.
#[derive(Clone)]
struct Current {
    hash: Digest,
    manifest: Arc<Manifest>,
    chaining: BTreeMap<ObjectId, Arc<[ChainingValue]>>,
}

/// The same, and where its objects' bytes are.
struct Held {
    now: Current,
    /// The manifest's own objects.
    offer: Option<Offer>,
    pieces: BTreeMap<ObjectId, (Layout, Digest)>,
    /// Entries with bytes of an object, in order.
    members: BTreeMap<ObjectIndex, Vec<usize>>,
}

impl ReceiverShelf {
    pub(crate) fn new(
        channel: ChannelId,
        publisher: VerifyingKey,
        target: Arc<TargetDir>,
        parts: Arc<PartStore>,
        archive: Archive,
    ) -> Self {
        let (current, held, given) = (Mutex::default(), Mutex::default(), AtomicU64::new(0));
        Self { channel, publisher, target, parts, archive, current, held, given }
    }

    /// Bytes that were given.
    pub(crate) fn given(&self) -> u64 {
        self.given.load(Ordering::Relaxed)
    }

    /// Gives blocks of what the node holds now.
    pub fn follow(&self, node: &ReceiverNode) {
        let Some((hash, manifest)) = node.manifest() else { return };
        let mut current = lock(&self.current);
        if !current.as_ref().is_some_and(|now| now.hash == hash && now.chaining.len() == node.chaining().len()) {
            *current = Some(Current { hash, manifest: Arc::clone(manifest), chaining: node.chaining().clone() });
        }
    }

    /// Described when it is first needed.
    fn held(&self) -> Option<Arc<Held>> {
        let mut held = lock(&self.held);
        let current = lock(&self.current);
        let now = current.as_ref()?;
        let is_same = |held: &Arc<Held>| held.now.hash == now.hash && held.now.chaining.len() == now.chaining.len();
        if !held.as_ref().is_some_and(is_same) {
            let now = now.clone();
            // The node goes on meanwhile.
            drop(current);
            *held = Some(Arc::new(self.describe(now)));
        }
        held.clone()
    }

    fn describe(&self, now: Current) -> Held {
        let (hash, manifest) = (now.hash, &now.manifest);
        let mut members: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for (at, entry) in manifest.entries().iter().enumerate() {
            if let EntryKind::File { content: Content::Object(index) | Content::Slice { pack: index, .. }, .. } =
                entry.kind
            {
                members.entry(index).or_default().push(at);
            }
        }
        let geometry = manifest.head().geometry;
        let mut pieces = BTreeMap::new();
        let mut offer = None;
        if let Ok(root) = self.archive.get(&hash)
            && let Ok(parsed) = decode_root(&root, &self.publisher, self.channel)
        {
            let length = u32::try_from(root.len()).unwrap_or(u32::MAX);
            for (digest, length) in parsed.parts().chain([(hash, length)]) {
                if let Ok(layout) = geometry.object(length.into()) {
                    pieces.insert(geometry.object_id(&digest, length.into()), (layout, digest));
                }
            }
            let reference = ManifestRef { hash, length, geometry };
            offer = Some(Offer { generation: parsed.head.generation, reference, root: root.into() });
        }
        Held { now, offer, pieces, members }
    }

    fn read(&self, held: &Held, id: ObjectId, block: u32) -> Option<Vec<u8>> {
        if let Some((_, digest)) = held.pieces.get(&id) {
            return (block == 0).then(|| self.archive.get(digest).ok()).flatten();
        }
        let index = held.now.manifest.index_of(id)?;
        let record = held.now.manifest.object(index).filter(|record| block < record.layout.block_count())?;
        let check = check(held, record)?;
        let sound = |bytes: &Vec<u8>| check.holds(&record.layout, block, bytes);
        if let Some(bytes) = self.parts.read_block(id, block).ok().filter(sound) {
            return Some(bytes);
        }
        let bytes = match record.kind {
            ObjectKind::Chaining => {
                let list = held.now.chaining.get(&id)?.concat();
                let start = usize::try_from(record.layout.block_offset(block)).ok()?;
                list.get(start..start + record.layout.block_len(block) as usize)?.to_vec()
            }
            ObjectKind::File | ObjectKind::Pack => self.read_installed(held, record, index, block)?,
        };
        sound(&bytes).then_some(bytes)
    }

    /// From the files that hold the object's bytes; of equal files, the first that can be read.
    fn read_installed(&self, held: &Held, record: &ObjectRecord, index: ObjectIndex, block: u32) -> Option<Vec<u8>> {
        let (start, length) = (record.layout.block_offset(block), record.layout.block_len(block));
        let end = start + u64::from(length);
        let mut bytes = vec![0; length as usize];
        for entry in held.members.get(&index)?.iter().filter_map(|at| held.now.manifest.entries().get(*at)) {
            let EntryKind::File { size, content, .. } = entry.kind else { continue };
            match content {
                Content::Object(_) => {
                    if let Ok(file) = self.target.open_file(&entry.path)
                        && file.read_exact_at(&mut bytes, start).is_ok()
                    {
                        return Some(bytes);
                    }
                }
                Content::Slice { offset, .. } => {
                    let (from, to) = (start.max(offset), end.min(offset + size));
                    if from < to {
                        let file = self.target.open_file(&entry.path).ok()?;
                        let place = usize::try_from(from - start).ok()?..usize::try_from(to - start).ok()?;
                        file.read_exact_at(bytes.get_mut(place)?, from - offset).ok()?;
                    }
                }
                Content::Empty => {}
            }
        }
        // Of a pack every member was read, if they are all here.
        (record.kind == ObjectKind::Pack).then_some(bytes)
    }
}

/// A panic elsewhere leaves what is here valid.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn check<'a>(held: &'a Held, record: &'a ObjectRecord) -> Option<BlockCheck<'a>> {
    Some(match &record.chaining {
        Chaining::Digest => BlockCheck::Digest(&record.digest),
        Chaining::Inline(values) => BlockCheck::Chaining(values),
        Chaining::Object(id) => BlockCheck::Chaining(held.now.chaining.get(id)?),
    })
}

impl Shelf for ReceiverShelf {
    fn manifest(&self) -> Option<Offer> {
        self.held()?.offer.clone()
    }

    fn block(&self, object: ObjectId, block: u32) -> Option<Bytes> {
        let bytes = self.read(&*self.held()?, object, block)?;
        self.given.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Some(bytes.into())
    }
}
