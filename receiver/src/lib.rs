//! The receiver: what is wanted, what is asked for, and what is installed.
//!
//! - [`engine`]: every decision, without sockets, files or clock.
//! - [`disk`]: the target directory, partial objects, install, scan.
//! - [`node`]: one channel whole, without sockets, threads and clock: engine, keys, codecs, memory.
//! - [`blocks`], [`dataset`]: the disk work that a node orders.
//! - [`shelf`]: what is given to other receivers.
//! - [`app`]: the process: configuration, state, admin interface, channels.
//! - `driver` (private): sockets, threads and clock around a node.

pub mod app;
mod arena;
pub mod blocks;
mod check;
pub mod config;
pub mod dataset;
pub mod disk;
mod disks;
mod driver;
pub mod engine;
#[cfg(feature = "fuzzing")]
pub mod fuzz;
mod keys;
pub mod node;
pub mod report;
mod secrets;
pub mod shelf;
mod silence;
#[cfg(test)]
mod testing;
mod verified;

pub use app::{Control, RunError, run, verify};
pub use check::check;
pub use config::{Config, Peers, Subscription};
pub use dataset::ScanReport;
pub use engine::PullWhen;
pub use report::{ChannelProgress, Progress, ReceivedChannel, Summary};
pub use verified::{NotServed, Verified, VerifiedFiles};
