//! Networks for tests and demonstrations: hosts in network namespaces, joined by a switch in user space
//! that loses, delays and damages what it is told to, and real processes running on them; and the parts of a
//! simulator ([`sim`]).
//!
//! - [`network::Network`] builds it all with no program but this one; dropping it leaves nothing behind.
//! - [`sim`] runs the same nodes in virtual time, with no network at all; [`real`] runs a scenario of the simulator
//!   with real processes.
//! - Root is not needed where user namespaces are allowed: see [`netns`].
//! - What a host sends crosses as single frames of at most 1,514 bytes with valid checksums, as on a wire.

pub mod fabric;
pub mod netns;
pub mod network;
pub mod process;
pub mod real;
pub mod sim;
mod sys;
