//! The sender: what is multicast, when, and in answer to what.
//!
//! - [`engine`]: every decision, without sockets, files or clock.
//! - [`library`]: the content: walk, hash, packs, manifest, and where each block's bytes are.
//! - `driver` (private): sockets, disk and tasks around the two.

pub mod config;
pub mod engine;
#[cfg(feature = "fuzzing")]
pub mod fuzz;
pub mod library;

pub use config::{ChannelConfig, Config, Once, ScheduleConfig};
