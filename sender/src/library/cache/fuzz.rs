//! Fuzz target of the hash cache's file.

use std::path::PathBuf;

use super::*;

/// A cache file: the input as it is, and with the checksum that makes it whole.
pub fn hash_cache(input: &[u8]) {
    let geometry = Geometry::default();
    let _as_it_is = decode(input, geometry).is_ok();
    let sealed = [input, &Digest::of(input).0].concat();
    if let Ok(known) = decode(&sealed, geometry) {
        let cache = HashCache { file: PathBuf::new(), geometry, known };
        let again = decode(&cache.encode(), geometry);
        assert_eq!(again.as_ref(), Ok(&cache.known), "a cache comes back as it was");
    }
}

/// Small valid files without their checksum.
pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let geometry = Geometry::default();
    let empty = HashCache { file: PathBuf::new(), geometry, known: BTreeMap::new() };
    let mut full = empty.successor();
    let times = Mtime { seconds: -1, nanos: 5 };
    let stamp = Stamp { size: 3, mtime: times, ctime: times, inode: 7, device: 1 };
    for (path, length) in [("a", 3), ("dir/b", 700_000)] {
        let path = DatasetPath::new(path.as_bytes()).expect("a sound path");
        full.keep(&path, Stamp { size: length as u64, ..stamp }, &Sums::of(&vec![1; length], geometry));
    }
    let without_checksum = |cache: &HashCache| {
        let mut bytes = cache.encode();
        bytes.truncate(bytes.len() - CHECKSUM_LEN);
        bytes
    };
    vec![without_checksum(&empty), without_checksum(&full)]
}
