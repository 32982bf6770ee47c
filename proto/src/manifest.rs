//! A manifest to signed bytes and back.
//!
//! The root (signed by the publisher, one block) lists parts; each part holds a run of the object table or
//! of the entries and is an object of one block. Parts are cut where a record's own hash says so, not at a
//! fixed length, so that a change in one directory changes one or two parts and the rest need not be sent
//! again.

use std::sync::Arc;

use bytes::Bytes;
use nackcast_common::geometry::Geometry;
use nackcast_common::ids::{ChannelId, Digest, Epoch, Generation, ObjectId, ObjectIndex};
use nackcast_common::keys::{SigningKey, VerifyingKey};
use nackcast_common::manifest::{
    Chaining, ChainingValue, Content, Entry, EntryKind, Head, Manifest, ManifestError, Mtime, ObjectKind, ObjectRecord,
};
use nackcast_common::path::DatasetPath;
use prost::Message;

use crate::pb;
use crate::wire::{ManifestRef, WireError};

const DOMAIN: &str = "manifest root";
/// A part is not cut before it has so many bytes.
const PART_LEN_MIN: usize = 48 << 10;
/// One record in so many ends a part that is long enough.
const CUT_ONE_IN: u64 = 256;
/// Most parts that a root may list.
const PARTS_MAX: usize = 200_000;

/// Why bytes are no manifest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ManifestCodecError {
    /// Not parsable, or a field is out of range, or the signature is wrong.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// The tables do not fit together.
    #[error("the manifest is not sound: {0}")]
    Manifest(#[from] ManifestError),
    /// A part that the root lists is not at hand.
    #[error("part {0} of the manifest is missing")]
    PartMissing(Digest),
    /// The root would not fit one block.
    #[error("the manifest's root of {0} bytes does not fit one block: use a larger block size")]
    RootTooLong(usize),
    /// A path in it is not acceptable.
    #[error(transparent)]
    Path(#[from] nackcast_common::path::PathError),
}

/// One part, or the root, as an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// BLAKE3 of its bytes.
    pub digest: Digest,
    /// Its bytes, at most one block.
    pub bytes: Bytes,
}

/// A manifest as it is sent.
#[derive(Clone, Debug)]
pub struct EncodedManifest {
    /// What advertisements name.
    pub reference: ManifestRef,
    /// The signed root.
    pub root: Part,
    /// The parts that the root lists, each once.
    pub parts: Vec<Part>,
}

/// A verified root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root {
    /// The manifest's head.
    pub head: Head,
    /// Parts of the object table, in order.
    pub objects: Vec<(Digest, u32)>,
    /// Parts of the entries, in order.
    pub entries: Vec<(Digest, u32)>,
    /// Bytes of all files, for display.
    pub file_bytes: u64,
}

/// Encodes and signs.
///
/// # Errors
/// When the root would not fit one block.
pub fn encode(manifest: &Manifest, publisher: &SigningKey) -> Result<EncodedManifest, ManifestCodecError> {
    let head = manifest.head();
    let part_len_max = head.geometry.block_size() as usize;
    let objects = manifest.objects().iter().map(|o| (o.id.0, object_to_pb(o, head.geometry)));
    let objects = cut_parts(objects, part_len_max, |objects| pb::ObjectsPart { objects });
    let entries = manifest.entries().iter().map(|e| (Digest::of(e.path.as_bytes()).prefix(), entry_to_pb(e, manifest)));
    let entries = cut_parts(entries, part_len_max, |entries| pb::EntriesPart { entries });
    let refs = |parts: &[Part]| {
        let reference = |p: &Part| pb::PartRef { digest: p.digest.0.to_vec().into(), length: len_u32(&p.bytes) };
        parts.iter().map(reference).collect()
    };
    let root = pb::ManifestRoot {
        channel: head.channel.0.to_vec().into(),
        generation: head.generation.0,
        parent: head.parent.map_or_else(Bytes::new, |p| p.0.to_vec().into()),
        epoch: head.epoch.0,
        symbol_size: head.geometry.symbol_size().into(),
        block_size: head.geometry.block_size(),
        fec: head.geometry.fec().id().into(),
        objects: refs(&objects),
        entries: refs(&entries),
        object_count: manifest.objects().len() as u64,
        entry_count: manifest.entries().len() as u64,
        file_bytes: manifest.file_bytes(),
    };
    let bytes: Bytes = crate::wire::digest::sign(DOMAIN, publisher, root.encode_to_vec()).into();
    if bytes.len() > part_len_max {
        return Err(ManifestCodecError::RootTooLong(bytes.len()));
    }
    let root = Part { digest: Digest::of(&bytes), bytes };
    let reference = ManifestRef { hash: root.digest, length: len_u32(&root.bytes), geometry: head.geometry };
    Ok(EncodedManifest { reference, root, parts: objects.into_iter().chain(entries).collect() })
}

fn len_u32(bytes: &Bytes) -> u32 {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX)
}

/// Cuts records into parts at places that depend on the records alone.
fn cut_parts<R: Message, M: Message>(
    records: impl Iterator<Item = (u64, R)>,
    part_len_max: usize,
    wrap: impl Fn(Vec<R>) -> M,
) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut run = Vec::new();
    let mut len = 0;
    let finish = |run: &mut Vec<R>, parts: &mut Vec<Part>| {
        let bytes: Bytes = wrap(std::mem::take(run)).encode_to_vec().into();
        parts.push(Part { digest: Digest::of(&bytes), bytes });
    };
    for (hash, record) in records {
        // Tag and length of an embedded message take at most six bytes.
        let record_len = record.encoded_len() + 6;
        if len + record_len > part_len_max {
            finish(&mut run, &mut parts);
            len = 0;
        }
        run.push(record);
        len += record_len;
        if len >= PART_LEN_MIN && hash.is_multiple_of(CUT_ONE_IN) {
            finish(&mut run, &mut parts);
            len = 0;
        }
    }
    if !run.is_empty() {
        finish(&mut run, &mut parts);
    }
    parts
}

/// Parses a root and verifies the publisher's signature.
///
/// # Errors
/// When it does not parse, is of another channel, or is not signed by the publisher.
pub fn decode_root(bytes: &[u8], publisher: &VerifyingKey, channel: ChannelId) -> Result<Root, ManifestCodecError> {
    let signed = pb::Signed::decode(bytes).map_err(WireError::from)?;
    crate::wire::digest::verify(DOMAIN, publisher, &signed)?;
    let root = pb::ManifestRoot::decode(signed.payload).map_err(WireError::from)?;
    if ChannelId::from_slice(&root.channel) != Some(channel) {
        return Err(WireError::Field("channel").into());
    }
    let geometry =
        Geometry::new(root.symbol_size, root.block_size, root.fec).map_err(|_| WireError::Field("geometry"))?;
    let parent = match root.parent.len() {
        0 => None,
        _ => Some(Digest::from_slice(&root.parent).ok_or(WireError::Field("parent"))?),
    };
    let refs = |list: &[pb::PartRef]| {
        if list.len() > PARTS_MAX {
            return Err(WireError::Field("parts"));
        }
        let part = |p: &pb::PartRef| match Digest::from_slice(&p.digest) {
            Some(digest) if p.length > 0 && p.length <= geometry.block_size() => Ok((digest, p.length)),
            Some(_) | None => Err(WireError::Field("part")),
        };
        list.iter().map(part).collect::<Result<Vec<_>, _>>()
    };
    Ok(Root {
        head: Head { channel, generation: Generation(root.generation), parent, epoch: Epoch(root.epoch), geometry },
        objects: refs(&root.objects)?,
        entries: refs(&root.entries)?,
        file_bytes: root.file_bytes,
    })
}

impl Root {
    /// The parts, each with its digest and length.
    pub fn parts(&self) -> impl Iterator<Item = (Digest, u32)> + '_ {
        self.objects.iter().chain(&self.entries).copied()
    }

    /// Puts the manifest together from its parts, which were checked against their digests.
    ///
    /// # Errors
    /// When a part is missing or does not parse, or the tables do not fit together.
    pub fn assemble(&self, part: impl Fn(&Digest) -> Option<Bytes>) -> Result<Manifest, ManifestCodecError> {
        let bytes = |digest: &Digest| part(digest).ok_or(ManifestCodecError::PartMissing(*digest));
        let mut objects = Vec::new();
        for (digest, _) in &self.objects {
            let part = pb::ObjectsPart::decode(bytes(digest)?).map_err(WireError::from)?;
            for record in &part.objects {
                objects.push(object_from_pb(record, self.head.geometry)?);
            }
        }
        let by_id: std::collections::HashMap<_, _> =
            (0_u32..).zip(&objects).map(|(at, o): (u32, &ObjectRecord)| (o.id, ObjectIndex(at))).collect();
        let mut entries = Vec::new();
        for (digest, _) in &self.entries {
            let part = pb::EntriesPart::decode(bytes(digest)?).map_err(WireError::from)?;
            for entry in part.entries {
                entries.push(entry_from_pb(&entry, &objects, |id| by_id.get(&id).copied())?);
            }
        }
        Ok(Manifest::new(self.head.clone(), objects, entries)?)
    }
}

fn object_to_pb(object: &ObjectRecord, default: Geometry) -> pb::ObjectRecord {
    let geometry = object.layout.geometry();
    let (chaining, chaining_object) = match &object.chaining {
        Chaining::Digest => (Bytes::new(), 0),
        Chaining::Inline(values) => (values.concat().into(), 0),
        Chaining::Object(id) => (Bytes::new(), id.0),
    };
    let own = geometry != default;
    pb::ObjectRecord {
        digest: object.digest.0.to_vec().into(),
        size: object.layout.size(),
        kind: match object.kind {
            ObjectKind::File => pb::ObjectKind::File,
            ObjectKind::Pack => pb::ObjectKind::Pack,
            ObjectKind::Chaining => pb::ObjectKind::Chaining,
        }
        .into(),
        since: object.since.0,
        chaining,
        chaining_object,
        symbol_size: if own { geometry.symbol_size().into() } else { 0 },
        block_size: if own { geometry.block_size() } else { 0 },
        fec: if own { geometry.fec().id().into() } else { 0 },
    }
}

fn object_from_pb(record: &pb::ObjectRecord, default: Geometry) -> Result<ObjectRecord, WireError> {
    let geometry = if record.block_size == 0 {
        default
    } else {
        Geometry::new(record.symbol_size, record.block_size, record.fec).map_err(|_| WireError::Field("geometry"))?
    };
    let digest = Digest::from_slice(&record.digest).ok_or(WireError::Field("object digest"))?;
    let layout = geometry.object(record.size).map_err(|_| WireError::Field("object size"))?;
    let chaining = match (record.chaining.len(), record.chaining_object) {
        (0, 0) => Chaining::Digest,
        (0, id) => Chaining::Object(ObjectId(id)),
        (len, 0) if len.is_multiple_of(32) => {
            let values = record.chaining.chunks_exact(32).filter_map(|c| ChainingValue::try_from(c).ok());
            Chaining::Inline(Arc::from(values.collect::<Vec<_>>()))
        }
        _ => return Err(WireError::Field("chaining")),
    };
    let kind = match pb::ObjectKind::try_from(record.kind) {
        Ok(pb::ObjectKind::File) => ObjectKind::File,
        Ok(pb::ObjectKind::Pack) => ObjectKind::Pack,
        Ok(pb::ObjectKind::Chaining) => ObjectKind::Chaining,
        Err(_) => return Err(WireError::Field("object kind")),
    };
    let id = geometry.object_id(&digest, record.size);
    Ok(ObjectRecord { id, digest, layout, kind, since: Generation(record.since), chaining })
}

fn entry_to_pb(entry: &Entry, manifest: &Manifest) -> pb::Entry {
    let mut message = pb::Entry {
        path: entry.path.as_bytes().to_vec().into(),
        mode: entry.mode,
        mtime_seconds: entry.mtime.seconds,
        mtime_nanos: entry.mtime.nanos,
        ..pb::Entry::default()
    };
    let id = |index: ObjectIndex| manifest.object(index).map_or(0, |o| o.id.0);
    match &entry.kind {
        EntryKind::Directory => message.kind = pb::EntryKind::Directory.into(),
        EntryKind::Symlink { target } => {
            message.kind = pb::EntryKind::Symlink.into();
            message.target = target.to_vec().into();
        }
        EntryKind::File { size, digest, content } => {
            message.kind = pb::EntryKind::File.into();
            message.size = *size;
            match content {
                Content::Empty => {}
                Content::Object(index) => message.object = id(*index),
                Content::Slice { pack, offset } => {
                    message.object = id(*pack);
                    message.offset = *offset;
                    message.digest = digest.0.to_vec().into();
                }
            }
        }
    }
    message
}

fn entry_from_pb(
    message: &pb::Entry,
    objects: &[ObjectRecord],
    index_of: impl Fn(ObjectId) -> Option<ObjectIndex>,
) -> Result<Entry, ManifestCodecError> {
    let path = DatasetPath::new(&message.path)?;
    let kind = match pb::EntryKind::try_from(message.kind) {
        Ok(pb::EntryKind::Directory) => EntryKind::Directory,
        Ok(pb::EntryKind::Symlink) => EntryKind::Symlink { target: message.target.to_vec().into() },
        Ok(pb::EntryKind::File) if message.size == 0 => {
            EntryKind::File { size: 0, digest: Digest::of(b""), content: Content::Empty }
        }
        Ok(pb::EntryKind::File) => {
            let index = index_of(ObjectId(message.object)).ok_or(WireError::Field("entry object"))?;
            let object = objects.get(index.as_usize()).ok_or(WireError::Field("entry object"))?;
            let (digest, content) = if object.kind == ObjectKind::Pack {
                let digest = Digest::from_slice(&message.digest).ok_or(WireError::Field("entry digest"))?;
                (digest, Content::Slice { pack: index, offset: message.offset })
            } else {
                (object.digest, Content::Object(index))
            };
            EntryKind::File { size: message.size, digest, content }
        }
        Err(_) => return Err(WireError::Field("entry kind").into()),
    };
    let mtime = Mtime { seconds: message.mtime_seconds, nanos: message.mtime_nanos };
    Ok(Entry { path, kind, mode: message.mode, mtime })
}
