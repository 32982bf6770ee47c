//! The sender: what it has to send, when it sends it, and how it answers NACKs.
//!
//! - [`library`] knows the files: it walks, hashes, and builds manifests and blocks.

pub mod library;
