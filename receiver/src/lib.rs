//! The receiver: what is wanted, what is asked for, and what is installed.
//!
//! - [`engine`]: every decision, without sockets, files or clock.
//! - [`disk`]: the target directory, partial objects, install, scan.
//! - [`app`]: a node: configuration, state, admin interface, channels.
//! - `driver`, `blocks`, `dataset` (private): sockets and disk threads around the engine.

mod admin;
pub mod app;
mod arena;
mod blocks;
mod check;
pub mod config;
mod dataset;
pub mod disk;
mod driver;
pub mod engine;
#[cfg(feature = "fuzzing")]
pub mod fuzz;
mod keys;
pub mod report;
mod silence;

pub use app::{Control, RunError, run, verify};
pub use check::check;
pub use config::{Config, Subscription};
pub use dataset::ScanReport;
pub use report::{ChannelProgress, Progress, ReceivedChannel, Summary};
