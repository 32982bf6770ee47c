//! What sender, receiver and wire share: domain types, manifests, block arithmetic and FEC, sealing,
//! the state store, sockets and pacing.
//!
//! - Types that describe content (`ids`, `geometry`, `manifest`, `path`) are checked when they are made;
//!   code that holds one need not check again.
//! - Only [`store`] knows sled, only [`files`], [`private_file`] and [`store`] know system calls of the file system, and only
//!   [`net`] and the drivers know sockets. Everything else here is pure: no clock, no random source of its own.

pub mod admission;
pub mod alerts;
pub mod archive;
pub mod clock;
pub mod control;
pub mod epochs;
pub mod fec;
pub mod files;
pub mod geometry;
pub mod hash;
pub mod ids;
pub mod keys;
pub mod manifest;
pub mod mutation;
pub mod net;
pub mod pacing;
pub mod path;
pub mod private_file;
pub mod ranges;
pub mod report;
pub mod seal;
pub mod store;
pub mod units;
