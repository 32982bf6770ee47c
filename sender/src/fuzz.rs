//! Entry points of the fuzz targets (`testbed/fuzz`) for what this crate reads from disk, and their seeds.

pub use crate::library::fuzz::hash_cache;

/// Small valid inputs of every target.
#[must_use]
pub fn seeds() -> Vec<(&'static str, Vec<Vec<u8>>)> {
    vec![("hash_cache", crate::library::fuzz::seeds())]
}
