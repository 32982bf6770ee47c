//! Two generations of a small dataset, with the bytes of their objects.

use std::collections::BTreeMap;
use std::sync::Arc;

use nackcast_common::geometry::{Geometry, Layout};
use nackcast_common::hash::chaining_value;
use nackcast_common::ids::{ChannelId, Digest, Epoch, Generation, ObjectId, ObjectIndex};
use nackcast_common::manifest::{Chaining, Content, Entry, EntryKind, Head, Manifest, Mtime, ObjectKind, ObjectRecord};
use nackcast_common::path::DatasetPath;

const BLOCK: usize = 1024;

/// Blocks of 1,024 bytes in symbols of 100: four of them share a page of the disk.
fn geometry() -> Geometry {
    Geometry::new(100, 1024, 1).unwrap()
}

/// One generation.
pub(crate) struct Dataset {
    pub(crate) manifest: Manifest,
    pub(crate) objects: BTreeMap<ObjectId, Object>,
}

/// An object and its bytes.
#[derive(Clone)]
pub(crate) struct Object {
    pub(crate) id: ObjectId,
    pub(crate) layout: Layout,
    pub(crate) bytes: Vec<u8>,
}

impl Object {
    pub(crate) fn block(&self, block: u32) -> &[u8] {
        let start = block as usize * BLOCK;
        &self.bytes[start..self.bytes.len().min(start + BLOCK)]
    }

    pub(crate) fn source(&self, block: u32, esi: u16) -> &[u8] {
        &self.block(block)[self.layout.symbol_range(block, esi)]
    }

    /// Bytes that stand for a repair symbol.
    pub(crate) fn repair(&self, block: u32, esi: u16) -> Vec<u8> {
        let seed = [&self.id.0.to_be_bytes()[..], &block.to_be_bytes(), &esi.to_be_bytes()].concat();
        Digest::of(&seed).0.iter().copied().cycle().take(100).collect()
    }
}

/// Bytes without a zero, so that a hole is seen.
fn bytes(seed: usize, len: usize) -> Vec<u8> {
    (0..len).map(|i| u8::try_from((i * 31 + i / 251 + seed * 7) % 255).unwrap() + 1).collect()
}

enum What<'a> {
    File(&'a [u8]),
    Slice(&'a [u8]),
    Link(&'a [u8]),
    Directory,
}

fn build(generation: u64, listed: &[(&str, u32, What<'_>)]) -> Dataset {
    let (mut records, mut objects, mut entries): (Vec<ObjectRecord>, BTreeMap<_, _>, Vec<_>) = Default::default();
    let mut add = |bytes: &[u8], kind| {
        let digest = Digest::of(bytes);
        let layout = geometry().object(bytes.len() as u64).unwrap();
        let id = geometry().object_id(&digest, layout.size());
        if let Some(at) = records.iter().position(|r| r.id == id) {
            return ObjectIndex(u32::try_from(at).unwrap());
        }
        let values = bytes.chunks(BLOCK).zip((0..).step_by(BLOCK)).map(|(b, offset)| chaining_value(b, offset));
        let chaining =
            if layout.block_count() == 1 { Chaining::Digest } else { Chaining::Inline(values.collect::<Arc<_>>()) };
        records.push(ObjectRecord { id, digest, layout, kind, since: Generation(1), chaining });
        objects.insert(id, Object { id, layout, bytes: bytes.to_vec() });
        ObjectIndex(u32::try_from(records.len() - 1).unwrap())
    };
    let slices = listed.iter().filter_map(|(.., what)| if let What::Slice(b) = what { Some(*b) } else { None });
    let pack = add(&slices.collect::<Vec<_>>().concat(), ObjectKind::Pack);
    let mut offset = 0;
    for (path, mode, what) in listed {
        let file =
            |bytes: &[u8], content| EntryKind::File { size: bytes.len() as u64, digest: Digest::of(bytes), content };
        let kind = match what {
            What::File(bytes) => file(bytes, Content::Object(add(bytes, ObjectKind::File))),
            What::Slice(bytes) => {
                let kind = file(bytes, Content::Slice { pack, offset });
                offset += bytes.len() as u64;
                kind
            }
            What::Link(to) => EntryKind::Symlink { target: (*to).into() },
            What::Directory => EntryKind::Directory,
        };
        let mtime = Mtime { seconds: 1_000_000 + i64::try_from(generation).unwrap(), nanos: 5 };
        entries.push(Entry { path: DatasetPath::new(path.as_bytes()).unwrap(), kind, mode: *mode, mtime });
    }
    entries.sort_by(|a, b| a.path.cmp(&b.path));
    let head = Head {
        channel: ChannelId([7; 16]),
        generation: Generation(generation),
        parent: None,
        epoch: Epoch(0),
        geometry: geometry(),
    };
    Dataset { manifest: Manifest::new(head, records, entries).unwrap(), objects }
}

/// The same names with other bytes, names that come and go, and files that share an object.
pub(crate) fn generations() -> [Dataset; 2] {
    use What::{Directory, File, Link, Slice};
    // So many that the whole file system is flushed for them.
    let small: Vec<_> = (0..10_usize).map(|nth| (format!("s/{nth}"), bytes(20 + nth, 700 + 90 * nth))).collect();
    let small = || small.iter().map(|(path, bytes)| (&**path, 0o644, File(bytes)));
    let (one, two, three) = (bytes(1, 7 * BLOCK + 17), bytes(2, 5000), bytes(3, 300));
    let (four, five, six) = (bytes(4, 900), bytes(5, 10), bytes(6, 1500));
    let (seven, eight, nine) = (bytes(7, 8 * BLOCK), bytes(8, 1000), bytes(9, 2000));
    let first: Vec<_> = small()
        .chain([
            ("a", 0o644, File(&one)),
            ("d/b", 0o444, File(&two)),
            ("d/e/c", 0o600, File(&one)),
            ("link", 0o777, Link(b"a")),
            ("p/1", 0o644, Slice(&four)),
            ("p/2", 0o644, Slice(&five)),
            ("p/3", 0o000, Slice(&six)),
            ("ro", 0o555, Directory),
            ("ro/x", 0o444, File(&three)),
        ])
        .collect();
    let second: Vec<_> = small()
        .chain([
            ("a", 0o444, File(&two)),
            ("d/b", 0o644, File(&one)),
            ("f/g/h", 0o644, File(&seven)),
            ("link", 0o777, Link(b"d/b")),
            ("p/1", 0o644, Slice(&four)),
            ("p/2", 0o600, Slice(&eight)),
            ("ro", 0o555, Directory),
            ("ro/x", 0o444, File(&nine)),
        ])
        .collect();
    [build(1, &first), build(2, &second)]
}
