//! Content that is made up: random bytes, so that no two blocks are the same, in files of one size.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use rand::rngs::Xoshiro256PlusPlus;
use rand::{Rng, SeedableRng};

/// So many files lie in a directory.
const IN_A_DIRECTORY: u64 = 1_000;
const PIECE: u64 = 1 << 20;

/// Makes `files` files of `bytes` in all; the first ones are a byte longer where these cannot be shared equally.
pub(super) fn make(root: &Path, bytes: u64, files: u64) -> io::Result<()> {
    let mut random = Xoshiro256PlusPlus::seed_from_u64(1);
    let mut piece = vec![0; usize::try_from(PIECE.min(bytes)).unwrap_or_default()];
    for number in 0..files {
        let directory = root.join(format!("{:05}", number / IN_A_DIRECTORY));
        if number.is_multiple_of(IN_A_DIRECTORY) {
            fs::create_dir_all(&directory)?;
        }
        let mut file = File::create(directory.join(format!("{number:08}")))?;
        let mut left = bytes / files + u64::from(number < bytes % files);
        while left > 0 {
            let now = &mut piece[..usize::try_from(left.min(PIECE)).unwrap_or_default()];
            random.fill_bytes(now);
            file.write_all(now)?;
            left -= now.len() as u64;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_bytes_are_there_in_files_that_differ() {
        let place = tempfile::tempdir().unwrap();
        make(place.path(), 10_003, 1_001).unwrap();
        let files = walkdir::WalkDir::new(place.path()).into_iter().map(Result::unwrap);
        let files: Vec<_> = files.filter(|entry| entry.file_type().is_file()).collect();
        let lengths = files.iter().map(|file| file.metadata().unwrap().len());
        assert_eq!((files.len(), lengths.sum::<u64>()), (1_001, 10_003));
        let read = |name: &str| fs::read(place.path().join(name)).unwrap();
        assert_ne!(read("00000/00000000"), read("00000/00000001"));
        assert_eq!(read("00001/00001000").len(), 9);
    }
}
