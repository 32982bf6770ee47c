//! The simulator: what stands in for the machine, so that the daemons' own code runs in virtual time, the same
//! way each time.
//!
//! - [`disk`]: a file system that is slow, full, torn by a crash, or lying.
//! - [`scale`]: the engines alone, with up to a hundred thousand receivers.

pub mod disk;
pub mod scale;
