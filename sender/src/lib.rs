//! The sender: what is multicast, when, and in answer to what.
//!
//! - [`engine`]: every decision, without sockets, files or clock.
//! - `driver` (private): sockets, disk and tasks around the engine.

pub mod config;
pub mod engine;

pub use config::{ChannelConfig, Config, Once, ScheduleConfig};
