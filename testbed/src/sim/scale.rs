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
mod picture;
mod rows;
mod world;

use std::time::Duration;

pub use content::Content;
pub use least::least_symbols;
pub use loss::Loss;
pub use meter::{Meter, Owner};
pub use outcome::{Outcome, Sample};
pub use picture::scale_svg;
pub use rows::{Row, keep_row, read_rows};

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

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(receivers: u32, loss: Loss, seed: u64) -> Outcome {
        let limit = Duration::from_secs(60);
        let scenario = Scenario { receivers, bytes: 6_000_000, files: 5_000, loss, rate: 100_000_000, seed, limit };
        let outcome = run(&scenario, &Meter::NONE, &mut |_| {}).unwrap();
        assert_eq!(outcome.complete, receivers);
        outcome
    }

    #[test]
    fn nobody_of_a_large_group_needs_the_manifest_again() {
        let outcome = outcome(500, Loss::independent(0.05), 1);
        let manifest = outcome.manifest_bytes.div_ceil(outcome.symbol_size);
        assert!(outcome.manifest_symbols * 100 < manifest * 130, "{} of {manifest}", outcome.manifest_symbols);
    }

    #[test]
    fn content_waits_for_those_whose_first_report_was_lost() {
        for seed in 1..=6 {
            let outcome = outcome(100, Loss::independent(0.05), seed);
            let ratio = outcome.symbol_ratio();
            assert!(ratio < outcome.least_ratio() + 0.03, "seed {seed}: {ratio}");
        }
    }

    #[test]
    fn receivers_that_lose_the_same_are_sent_little_more_than_one() {
        let outcome = outcome(300, Loss::behind(1, 0.02, 0.0), 1);
        assert!(outcome.symbol_ratio() < outcome.least_ratio() + 0.015, "{}", outcome.symbol_ratio());
    }
}
