//! A manifest survives its bytes, and nobody but the publisher makes one.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may fail")]

use std::collections::HashMap;
use std::sync::Arc;

use nackcast_common::geometry::Geometry;
use nackcast_common::hash::{chaining_value, merge};
use nackcast_common::ids::{ChannelId, Digest, Epoch, Generation, ObjectIndex};
use nackcast_common::keys::SigningKey;
use nackcast_common::manifest::{
    Chaining, Content, Entry, EntryKind, Head, Manifest, ManifestError, Mtime, ObjectKind, ObjectRecord,
};
use nackcast_common::path::DatasetPath;
use nackcast_proto::manifest::{Part, decode_root, encode};

const CHANNEL: ChannelId = ChannelId([7; 16]);

fn head() -> Head {
    Head {
        channel: CHANNEL,
        generation: Generation(2),
        parent: Some(Digest::of(b"p")),
        epoch: Epoch(1),
        geometry: Geometry::default(),
    }
}

fn object(bytes: &[u8], kind: ObjectKind) -> ObjectRecord {
    let geometry = Geometry::default();
    let layout = geometry.object(bytes.len() as u64).unwrap();
    let digest = Digest::of(bytes);
    let block = geometry.block_size() as usize;
    let chaining = if layout.block_count() == 1 {
        Chaining::Digest
    } else {
        let values: Vec<_> = bytes.chunks(block).zip(0..).map(|(b, i)| chaining_value(b, i * block as u64)).collect();
        assert_eq!(merge(&values), digest);
        Chaining::Inline(Arc::from(values))
    };
    ObjectRecord {
        id: geometry.object_id(&digest, bytes.len() as u64),
        digest,
        layout,
        kind,
        since: Generation(1),
        chaining,
    }
}

fn entry(path: &[u8], kind: EntryKind) -> Entry {
    Entry { path: DatasetPath::new(path).unwrap(), kind, mode: 0o644, mtime: Mtime { seconds: -5, nanos: 999_999_999 } }
}

fn file(path: &[u8], bytes: &[u8], content: Content) -> Entry {
    entry(path, EntryKind::File { size: bytes.len() as u64, digest: Digest::of(bytes), content })
}

fn sample(files: u32) -> Manifest {
    let big = vec![3; 700_000];
    let pack = vec![1; 5000];
    let objects = vec![object(&big, ObjectKind::File), object(&pack, ObjectKind::Pack)];
    let mut entries = vec![
        entry(b"dir", EntryKind::Directory),
        file(b"dir/big\xff\n", &big, Content::Object(ObjectIndex(0))),
        file(b"dir/empty", b"", Content::Empty),
        entry(b"link", EntryKind::Symlink { target: b"dir/../\xfe".to_vec().into() }),
    ];
    let slice = Content::Slice { pack: ObjectIndex(1), offset: 1000 };
    entries.extend((0..files).map(|i| file(format!("small/{i:08}").as_bytes(), &pack[..1000], slice)));
    Manifest::new(head(), objects, entries).unwrap()
}

fn by_digest(parts: &[Part]) -> HashMap<Digest, bytes::Bytes> {
    parts.iter().map(|p| (p.digest, p.bytes.clone())).collect()
}

#[test]
fn comes_back_whole() {
    let key = SigningKey::from_seed([1; 32]);
    for files in [0, 1, 20_000] {
        let manifest = sample(files);
        let encoded = encode(&manifest, &key).unwrap();
        assert!(encoded.parts.iter().all(|p| p.bytes.len() <= 256 << 10), "parts are of one block");
        let root = decode_root(&encoded.root.bytes, &key.verifying_key(), CHANNEL).unwrap();
        let parts = by_digest(&encoded.parts);
        assert_eq!(root.assemble(|d| parts.get(d).cloned()).unwrap(), manifest);
        assert!(root.assemble(|_| None).is_err());
    }
}

#[test]
fn only_the_publisher_signs() {
    let key = SigningKey::from_seed([1; 32]);
    let encoded = encode(&sample(3), &SigningKey::from_seed([2; 32])).unwrap();
    assert!(decode_root(&encoded.root.bytes, &key.verifying_key(), CHANNEL).is_err());
    let encoded = encode(&sample(3), &key).unwrap();
    assert!(decode_root(&encoded.root.bytes, &key.verifying_key(), ChannelId([1; 16])).is_err());
    for at in 0..encoded.root.bytes.len() {
        let mut damaged = encoded.root.bytes.to_vec();
        damaged[at] ^= 1;
        assert!(decode_root(&damaged, &key.verifying_key(), CHANNEL).is_err(), "byte {at}");
    }
}

#[test]
fn a_small_change_changes_few_parts() {
    let key = SigningKey::from_seed([1; 32]);
    let before = encode(&sample(20_000), &key).unwrap();
    let manifest = sample(20_000);
    let mut entries = manifest.entries().to_vec();
    entries.remove(9000);
    let after = Manifest::new(manifest.head().clone(), manifest.objects().to_vec(), entries).unwrap();
    let after = encode(&after, &key).unwrap();
    let known = by_digest(&before.parts);
    let new: usize = after.parts.iter().filter(|p| !known.contains_key(&p.digest)).map(|p| p.bytes.len()).sum();
    let all: usize = after.parts.iter().map(|p| p.bytes.len()).sum();
    assert!(new * 4 < all, "{new} of {all} bytes are new");
}

#[test]
fn refuses_what_would_write_elsewhere() {
    let refused =
        |entries: Vec<Entry>| Manifest::new(head(), vec![object(&[1; 50], ObjectKind::File)], entries).unwrap_err();
    let link = entry(b"a", EntryKind::Symlink { target: b"/etc".to_vec().into() });
    assert!(matches!(
        refused(vec![link.clone(), file(b"a/b", b"", Content::Empty)]),
        ManifestError::BelowNonDirectory(_)
    ));
    // `a-b` sorts between `a` and `a/b`: the check must not depend on neighbours.
    let between = file(b"a-b", b"", Content::Empty);
    assert!(matches!(
        refused(vec![link.clone(), between, file(b"a/b/c", b"", Content::Empty)]),
        ManifestError::BelowNonDirectory(_)
    ));
    assert!(matches!(refused(vec![link.clone(), link]), ManifestError::Order(_)));
    let foreign = file(b"f", &[2; 50], Content::Object(ObjectIndex(0)));
    assert!(matches!(refused(vec![foreign]), ManifestError::Content(_)));
    let outside = file(b"f", &[1; 50], Content::Object(ObjectIndex(1)));
    assert!(matches!(refused(vec![outside]), ManifestError::Content(_)));
}

#[test]
fn refuses_objects_that_cannot_be_verified() {
    let mut wrong = object(&vec![3; 700_000], ObjectKind::File);
    wrong.chaining = Chaining::Digest;
    assert!(matches!(Manifest::new(head(), vec![wrong], vec![]), Err(ManifestError::Chaining(_))));
    let mut wrong = object(&vec![3; 700_000], ObjectKind::File);
    wrong.digest = Digest::of(b"other");
    assert!(matches!(Manifest::new(head(), vec![wrong], vec![]), Err(ManifestError::ObjectId(_))));
    let twice = object(&[1; 50], ObjectKind::File);
    assert!(matches!(Manifest::new(head(), vec![twice.clone(), twice], vec![]), Err(ManifestError::ObjectId(_))));
}
