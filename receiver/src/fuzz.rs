//! Entry points of the fuzz targets (`testbed/fuzz`) for what this crate reads from disk, and their seeds.

pub use crate::disk::part::fuzz::part_map;

/// Small valid inputs of every target.
#[must_use]
pub fn seeds() -> Vec<(&'static str, Vec<Vec<u8>>)> {
    vec![("part_map", crate::disk::part::fuzz::seeds())]
}
