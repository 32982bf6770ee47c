//! Sockets, disk and tasks around the engine.
//!
//! | module | does |
//! |---|---|
//! | [`channel`] | one task for each channel: inputs to the engine, its outputs to where they belong |
//! | [`outlet`] | what the sockets do not take yet, and what they refuse |
//! | [`batch`] | datagrams as sealed bytes |
//! | [`blocks`] | blocks in memory, read and encoded on other threads |
//! | [`nacks`] | one socket for all channels |
//! | [`passes`] | pass counts to the store |

pub(crate) mod batch;
pub(crate) mod blocks;
pub(crate) mod channel;
pub(crate) mod nacks;
pub(crate) mod outlet;
pub(crate) mod passes;
