//! The sending node.

pub mod config;
