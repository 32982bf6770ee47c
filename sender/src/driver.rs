//! Sockets, disk and tasks around the [node](crate::node).
//!
//! | module | does |
//! |---|---|
//! | [`channel`] | one task for each channel: inputs to the node, its outputs to where they belong |
//! | [`outlet`] | what the sockets do not take yet, and what they refuse |
//! | [`origin`] | where the bytes of blocks come from |
//! | [`caller`] | other senders, asked over QUIC |
//! | [`nacks`] | one socket for all channels |
//! | [`names`] | where other senders are |
//! | [`peers`] | advertisements of other senders |
//! | [`passes`] | pass counts to the store |
//! | [`shelf`] | what those get who pull or ask |

pub(crate) mod caller;
pub(crate) mod channel;
pub(crate) mod nacks;
pub(crate) mod names;
pub(crate) mod origin;
pub(crate) mod outlet;
pub(crate) mod passes;
pub(crate) mod peers;
pub(crate) mod shelf;
