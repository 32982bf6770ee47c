//! The hash cache: digests of files that did not change since they were hashed, kept across restarts.
//!
//! - One file, written to a temporary and renamed; a damaged one, or one of another version or block size,
//!   is ignored and made anew: it only costs hashing.
//! - Only *settled* files enter: a file touched within [`RACY_MS`] of being hashed could change once more
//!   without its times telling (file systems count in ticks).
//!
//! Layout, integers little-endian: magic, block size u32, count u64, then per file: path length u16, path,
//! size u64, mtime (i64, u32), ctime (i64, u32), inode u64, device u64, digest, number of chaining values
//! u32, the values; at the end the BLAKE3 of all before.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nackcast_common::geometry::Geometry;
use nackcast_common::ids::{ChannelId, Digest};
use nackcast_common::manifest::{ChainingValue, Mtime};
use nackcast_common::path::DatasetPath;

use super::hashing::Sums;
use super::root::Stamp;

#[cfg(feature = "fuzzing")]
pub(crate) mod fuzz;

/// How long before it was hashed a file must have been left alone.
pub(super) const RACY_MS: i64 = 50;
/// Name and version: change the last digit with the layout.
const MAGIC: &[u8; 8] = b"nkhash01";
const CHECKSUM_LEN: usize = 32;

/// Digests by path, in the order in which they are written.
#[derive(Debug)]
pub(super) struct HashCache {
    file: PathBuf,
    geometry: Geometry,
    known: BTreeMap<DatasetPath, (Stamp, Sums)>,
}

/// Why a cache file is of no use.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum DecodeError {
    #[error("it is damaged")]
    Damaged,
    #[error("it was written by another version or for another block size")]
    Foreign,
}

impl HashCache {
    /// Reads the cache of a channel; empty when there is none, or none that is sound.
    pub(super) fn load(directory: &Path, channel: ChannelId, geometry: Geometry) -> Self {
        let file = directory.join(format!("hashes-{channel}"));
        let mut known = BTreeMap::new();
        match fs::read(&file).map(|bytes| decode(&bytes, geometry)) {
            Ok(Ok(entries)) => known = entries,
            Ok(Err(error)) => {
                tracing::warn!(file = %file.display(), %error, "hash cache ignored: all files are hashed again");
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                tracing::warn!(file = %file.display(), %error, "hash cache cannot be read: all files are hashed again");
            }
        }
        Self { file, geometry, known }
    }

    /// An empty cache that will be stored in the same place.
    pub(super) fn successor(&self) -> Self {
        Self { file: self.file.clone(), geometry: self.geometry, known: BTreeMap::new() }
    }

    /// What is known of a file in this state.
    pub(super) fn get(&self, path: &DatasetPath, stamp: &Stamp) -> Option<&Sums> {
        self.known.get(path).filter(|(known, _)| known == stamp).map(|(_, sums)| sums)
    }

    /// Remembers a file that was hashed from `started_ms` on, if nobody touched it shortly before.
    pub(super) fn insert(&mut self, path: &DatasetPath, stamp: Stamp, sums: &Sums, started_ms: u64) {
        let started = i64::try_from(started_ms).unwrap_or(i64::MAX);
        if stamp.touched_ms() < started.saturating_sub(RACY_MS) {
            self.keep(path, stamp, sums);
        }
    }

    /// Takes over an entry that was settled before.
    pub(super) fn keep(&mut self, path: &DatasetPath, stamp: Stamp, sums: &Sums) {
        self.known.insert(path.clone(), (stamp, sums.clone()));
    }

    pub(super) fn same_as(&self, other: &Self) -> bool {
        self.known == other.known
    }

    /// Writes the cache. A crash leaves the old one or the new one.
    pub(super) fn store(&self) -> io::Result<()> {
        replace(&self.file, &self.encode())
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64 + self.known.len() * 200);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&self.geometry.block_size().to_le_bytes());
        out.extend_from_slice(&(self.known.len() as u64).to_le_bytes());
        for (path, (stamp, sums)) in &self.known {
            encode_entry(&mut out, path, stamp, sums);
        }
        let checksum = Digest::of(&out);
        out.extend_from_slice(&checksum.0);
        out
    }
}

/// Writes a file of the cache directory as a whole or not at all.
pub(super) fn replace(file: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = file.with_extension("new");
    fs::write(&temporary, bytes)?;
    fs::rename(&temporary, file)
}

fn encode_entry(out: &mut Vec<u8>, path: &DatasetPath, stamp: &Stamp, sums: &Sums) {
    let bytes = path.as_bytes();
    // A dataset path has at most 4,095 bytes, and an object fewer than 2^32 blocks.
    let length = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(bytes);
    out.extend_from_slice(&stamp.size.to_le_bytes());
    for time in [stamp.mtime, stamp.ctime] {
        out.extend_from_slice(&time.seconds.to_le_bytes());
        out.extend_from_slice(&time.nanos.to_le_bytes());
    }
    out.extend_from_slice(&stamp.inode.to_le_bytes());
    out.extend_from_slice(&stamp.device.to_le_bytes());
    out.extend_from_slice(&sums.digest.0);
    let values = sums.chaining.as_deref().unwrap_or_default();
    out.extend_from_slice(&u32::try_from(values.len()).unwrap_or(u32::MAX).to_le_bytes());
    out.extend_from_slice(values.as_flattened());
}

fn decode(bytes: &[u8], geometry: Geometry) -> Result<BTreeMap<DatasetPath, (Stamp, Sums)>, DecodeError> {
    let split = bytes.len().checked_sub(CHECKSUM_LEN).ok_or(DecodeError::Damaged)?;
    let (body, checksum) = bytes.split_at(split);
    let mut left = Reader(body);
    if left.array::<8>()? != *MAGIC {
        return Err(DecodeError::Foreign);
    }
    if Digest::of(body).0 != checksum {
        return Err(DecodeError::Damaged);
    }
    if left.u32()? != geometry.block_size() {
        return Err(DecodeError::Foreign);
    }
    let count = left.u64()?;
    let mut known = BTreeMap::new();
    for _ in 0..count {
        let (path, value) = left.entry()?;
        known.insert(path, value);
    }
    if left.0.is_empty() { Ok(known) } else { Err(DecodeError::Damaged) }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(DecodeError::Damaged)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        self.take(N)?.try_into().map_err(|_| DecodeError::Damaged)
    }

    fn u32(&mut self) -> Result<u32, DecodeError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64, DecodeError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn time(&mut self) -> Result<Mtime, DecodeError> {
        Ok(Mtime { seconds: i64::from_le_bytes(self.array()?), nanos: self.u32()? })
    }

    fn entry(&mut self) -> Result<(DatasetPath, (Stamp, Sums)), DecodeError> {
        let length = u16::from_le_bytes(self.array()?);
        let path = DatasetPath::new(self.take(length.into())?).map_err(|_| DecodeError::Damaged)?;
        let stamp = Stamp {
            size: self.u64()?,
            mtime: self.time()?,
            ctime: self.time()?,
            inode: self.u64()?,
            device: self.u64()?,
        };
        let digest = Digest(self.array()?);
        let count = self.u32()? as usize;
        let flat = self.take(count.checked_mul(32).ok_or(DecodeError::Damaged)?)?;
        let values: Arc<[ChainingValue]> = flat.as_chunks().0.into();
        let chaining = (!values.is_empty()).then_some(values);
        Ok((path, (stamp, Sums { digest, chaining })))
    }
}
