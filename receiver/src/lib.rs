//! The receiving node.

pub mod config;
