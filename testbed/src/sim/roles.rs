//! Senders with roles: primaries and backups that fail, come back and cannot hear each other, and their receivers.
//!
//! - [`cast`] makes a [`Cast`] of a seed; [`world`] runs it. What runs is the daemon's own nodes, as in
//!   [`super::world`]; there one sender meets everything that network and disks can do, here several senders meet each
//!   other.
//! - What is not modelled: the receiver beside a backup. A backup has a new generation some time after it was
//!   published.

pub mod cast;
mod wires;
pub mod world;

pub use cast::{Cast, Turn};
pub use world::{Outcome, World};

/// Runs a cast to its end.
#[must_use]
pub fn run(cast: &Cast) -> Outcome {
    tracing::subscriber::with_default(tracing::subscriber::NoSubscriber::new(), || World::new(cast).run())
}
