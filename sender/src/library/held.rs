//! Content by somebody else's manifest: what a directory holds of it.
//!
//! A backup does not make a manifest, it follows one. Where each object's bytes are follows from the manifest's
//! entries; what is not there (yet) is told, by size and modification time. A block is verified before it is sent, so
//! that a file which only looks right does no harm.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::sync::Arc;

use nackcast_common::ids::{Digest, ObjectId, ObjectIndex};
use nackcast_common::manifest::{Chaining, Content as Place, EntryKind, Manifest, ObjectKind};

use super::content::{Content, Member, ObjectSource};
use super::root::Root;

/// What a directory holds of a manifest.
#[derive(Debug)]
pub(crate) struct Held {
    /// To read blocks from.
    pub(crate) content: Arc<Content>,
    /// Objects of which something is not there.
    pub(crate) lacks: Vec<ObjectId>,
}

/// Looks for everything that `manifest` lists below `directory`. `lists` gives the bytes of a hash list.
pub(crate) fn held(
    directory: &Path,
    manifest: &Arc<Manifest>,
    lists: impl Fn(ObjectId) -> Option<Vec<u8>>,
) -> io::Result<Held> {
    let root = Root::open(directory)?;
    let mut sources: Vec<ObjectSource> = manifest
        .objects()
        .iter()
        .map(|object| match object.kind {
            ObjectKind::File | ObjectKind::Pack => ObjectSource::Absent,
            ObjectKind::Chaining => {
                let bytes = lists(object.id).filter(|bytes| Digest::of(bytes) == object.digest);
                bytes.map_or(ObjectSource::Absent, |bytes| ObjectSource::Memory(bytes.into()))
            }
        })
        .collect();
    let lists = (0..).map(ObjectIndex).zip(&sources).filter(|(_, source)| matches!(source, ObjectSource::Memory(_)));
    let has_list: BTreeSet<_> = lists.map(|(index, _)| index).collect();
    // Blocks without hashes cannot be verified, and are as good as not there.
    let is_verifiable = |index: ObjectIndex| match manifest.object(index).map(|object| &object.chaining) {
        Some(Chaining::Object(list)) => manifest.index_of(*list).is_none_or(|list| has_list.contains(&list)),
        Some(Chaining::Digest | Chaining::Inline(_)) | None => true,
    };
    // Several paths may have the same bytes: one that is there is as good as another.
    let mut slices: BTreeMap<(ObjectIndex, u64), Member> = BTreeMap::new();
    for entry in manifest.entries() {
        let EntryKind::File { size, digest, content } = entry.kind else { continue };
        if !root.still_has(&entry.path, size, entry.mtime) {
            continue;
        }
        match content {
            Place::Empty => {}
            Place::Object(index) => {
                if let Some(source) = sources.get_mut(index.as_usize()).filter(|_| is_verifiable(index)) {
                    *source = ObjectSource::File(entry.path.clone());
                }
            }
            Place::Slice { pack, offset } => {
                let member = Member { path: entry.path.clone(), offset, size, digest };
                slices.insert((pack, offset), member);
            }
        }
    }
    let mut packs: BTreeMap<ObjectIndex, Vec<Member>> = BTreeMap::new();
    for ((pack, _), member) in slices {
        packs.entry(pack).or_default().push(member);
    }
    for (pack, members) in packs {
        let (Some(object), Some(source)) = (manifest.object(pack), sources.get_mut(pack.as_usize())) else { continue };
        // In order of their offsets; only a pack without gaps can be sent.
        let end = members.iter().try_fold(0, |end, m| (m.offset == end).then_some(end + m.size));
        if end == Some(object.layout.size()) && is_verifiable(pack) {
            *source = ObjectSource::Pack(members);
        }
    }
    let absent = |(_, source): &(_, &ObjectSource)| matches!(source, ObjectSource::Absent);
    let lacks = manifest.objects().iter().zip(&sources).filter(absent).map(|(object, _)| object.id).collect();
    let content = Arc::new(Content::new(Arc::clone(manifest), sources, Arc::new(root)));
    Ok(Held { content, lacks })
}
