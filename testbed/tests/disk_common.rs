//! Parts of the tests of the disk code on the model disk.

pub(crate) mod boots;
pub(crate) mod content;
