//! How nackcast behaves with ten to a hundred thousand receivers, in one process.
//!
//! - The engines are the real ones, a sender's and one for each receiver; content is a real manifest without bytes.
//!   Symbols come in runs with the places of the lost ones ([`nackcast_receiver::engine::ReceiverEngine::handle_run`]).
//! - Receivers begin with nothing: they greet the sender, get the manifest part by part under loss, then content.
//! - Disks answer at once. Datagrams take 3 to 7 ms to a receiver, which of eight delays is fixed for each; a NACK
//!   takes up to 1 ms more or less, so that NACKs come in any order. NACKs wait in a socket of finite size and take
//!   time to be read; what does not fit is dropped and counted.
//! - The same scenario gives the same outcome.

mod content;
mod group;
mod inbox;
mod least;
mod loss;
mod meter;
mod multicast;
mod outcome;
mod world;

use std::time::Duration;

pub use least::least_symbols;
pub use loss::Loss;
pub use meter::{Meter, Owner};
pub use outcome::{Outcome, Sample};

/// What is simulated.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// How many receivers.
    pub receivers: u32,
    /// Bytes of content.
    pub bytes: u64,
    /// In so many files of about the same size.
    pub files: u32,
    /// How datagrams are lost, in both directions.
    pub loss: Loss,
    /// The sender's rate in bits a second, headers of IP and UDP counted.
    pub rate: u64,
    /// Everything random follows from it.
    pub seed: u64,
    /// Given up after so long.
    pub limit: Duration,
}

/// Runs a scenario until every receiver is complete and said so. `watch` is told how it stands once a second.
///
/// # Errors
/// When the scenario describes no content that a manifest can list.
pub fn run(scenario: &Scenario, meter: &Meter, watch: &mut dyn FnMut(&Sample)) -> anyhow::Result<Outcome> {
    let mut world = world::World::new(scenario, meter)?;
    Ok(world.run(watch))
}
