//! The receiver: what is wanted, what is asked for, and what is installed.
//!
//! - [`engine`]: every decision, without sockets, files or clock.
//! - [`disk`]: the target directory, partial objects, install, scan.

pub mod config;
pub mod disk;
pub mod engine;

pub use config::{Config, Subscription};
