//! Parts of the tests of the disk code on the model disk.

pub mod boots;
pub mod content;
