//! The stamp by which an unchanged file is known again.

use nackcast_common::files::{Facts, Kind};
use nackcast_common::ids::Digest;
use nackcast_common::manifest::Mtime;

/// What a file looked like when its bytes were last verified. As long as all of it still holds, the file
/// is taken to have that content: a write changes the change time, which no user can set back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileStamp {
    /// Bytes.
    pub size: u64,
    /// Modification time.
    pub mtime: Mtime,
    /// Change time.
    pub ctime: Mtime,
    /// Inode.
    pub inode: u64,
    /// The digest that was verified, so that a stamp of a former generation is not taken for one of this. All of
    /// it: whoever makes content can find two files whose digests begin alike.
    pub content: Digest,
}

/// Bytes of a stored stamp.
pub const STAMP_LEN: usize = 72;

impl FileStamp {
    /// Of a file whose bytes were just seen to have `digest`.
    #[must_use]
    pub fn of(facts: &Facts, digest: &Digest) -> Self {
        Self { size: facts.size, mtime: facts.mtime, ctime: facts.ctime, inode: facts.inode, content: *digest }
    }

    /// Whether a file that looks like `facts` still is the one of the stamp, with the content `digest`.
    #[must_use]
    pub fn holds(&self, facts: &Facts, digest: &Digest) -> bool {
        facts.kind == Kind::File && Self::of(facts, digest) == *self
    }

    /// For the state store: size, mtime, ctime, inode, content, all big-endian.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; STAMP_LEN] {
        let mut bytes = [0; STAMP_LEN];
        bytes[..8].copy_from_slice(&self.size.to_be_bytes());
        bytes[8..16].copy_from_slice(&self.mtime.seconds.to_be_bytes());
        bytes[16..20].copy_from_slice(&self.mtime.nanos.to_be_bytes());
        bytes[20..28].copy_from_slice(&self.ctime.seconds.to_be_bytes());
        bytes[28..32].copy_from_slice(&self.ctime.nanos.to_be_bytes());
        bytes[32..40].copy_from_slice(&self.inode.to_be_bytes());
        bytes[40..].copy_from_slice(&self.content.0);
        bytes
    }

    /// From the state store.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; STAMP_LEN] = bytes.try_into().ok()?;
        let eight = |at: usize| Some(u64::from_be_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
        let four = |at: usize| Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
        let time = |at: usize| Some(Mtime { seconds: eight(at)?.cast_signed(), nanos: four(at + 8)? });
        let content = Digest(bytes.get(40..)?.try_into().ok()?);
        Some(Self { size: eight(0)?, mtime: time(8)?, ctime: time(20)?, inode: eight(32)?, content })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_stamp_tells_contents_apart_whose_digests_begin_alike() {
        let (mut one, mut other) = ([7; 32], [7; 32]);
        (one[8], other[8]) = (1, 2);
        let facts = Facts {
            kind: Kind::File,
            size: 1,
            mode: 0o644,
            mtime: Mtime::default(),
            ctime: Mtime::default(),
            inode: 1,
            links: 1,
            stored: 1,
            owner: 0,
        };
        let stamp = FileStamp::of(&facts, &Digest(one));
        assert!(stamp.holds(&facts, &Digest(one)) && !stamp.holds(&facts, &Digest(other)));
    }

    proptest! {
        #[test]
        fn stamps_survive_the_store(size: u64, seconds: i64, nanos: u32, inode: u64, content: [u8; 32]) {
            let mtime = Mtime { seconds, nanos };
            let ctime = Mtime { seconds: seconds.wrapping_add(1), nanos: nanos / 2 };
            let stamp = FileStamp { size, mtime, ctime, inode, content: Digest(content) };
            prop_assert_eq!(FileStamp::from_bytes(&stamp.to_bytes()), Some(stamp));
        }

        #[test]
        fn bytes_of_another_length_are_no_stamp(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            prop_assert_eq!(FileStamp::from_bytes(&bytes).is_some(), bytes.len() == STAMP_LEN);
        }
    }
}
