//! The receiver: what is wanted, what is asked for, and what is installed.
//!
//! - [`engine`]: every decision, without sockets, files or clock.

pub mod config;
pub mod engine;

pub use config::{Config, Subscription};
