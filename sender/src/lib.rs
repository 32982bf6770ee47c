//! The sender: what is multicast, when, and in answer to what.
//!
//! - [`run`]: a whole sending node, from its configuration to its summary.
//! - [`engine`]: every decision, without sockets, files or clock.
//! - [`role`]: who serves, and who stands by.
//! - [`node`]: one channel complete, with keys, blocks and sealed datagrams, and still without any of these.
//! - [`library`]: the content: walk, hash, packs, manifest, and where each block's bytes are.
//! - `driver` (private): sockets, disk and tasks around them.

mod app;
pub mod config;
mod driver;
pub mod engine;
mod error;
mod follow;
#[cfg(feature = "fuzzing")]
pub mod fuzz;
mod gate;
pub mod library;
pub mod node;
mod publish;
mod report;
pub mod role;
mod scanner;
mod state;
mod strangers;

pub use app::{Control, check, run};
pub use config::{ChannelConfig, Config, Once, RateBounds, ScheduleConfig};
pub use error::RunError;
pub use report::{ChannelProgress, ChannelSummary, Progress, Summary};
