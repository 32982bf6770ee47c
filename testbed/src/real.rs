//! A scenario of the simulator, run by real processes: the program itself, on hosts of a network of namespaces whose
//! fabric does what the scenario says.
//!
//! - The same text describes both runs, and the same [`Figures`] come out of both, counted at the same place.
//! - Everybody is started before the sender; the scenario's time begins with the first advertisement on the sender's
//!   cable, which is what a simulated sender begins with.
//! - What a process cannot be made to do (power that fails, a clock that runs fast, a disk that lies) is refused, not
//!   left out. Disks are those of this machine, and a socket's buffer is what the kernel gives: these are not modelled.

mod course;
mod source;
mod stage;

use std::io;
use std::path::{Path, PathBuf};

use crate::fabric::FabricError;
use crate::netns::NetnsError;
use crate::network::NetworkError;
use crate::process::ProcessError;
use crate::sim::figures::Figures;
use crate::sim::scenario::Scenario;

use self::course::Course;
use self::stage::Stage;

/// Why a scenario did not run, or not to its end.
#[derive(Debug, thiserror::Error)]
pub enum RealError {
    /// Processes cannot be made to do it.
    #[error("`{0}` cannot be done to real processes: take it out of the scenario, or leave --real out")]
    Refused(&'static str),
    /// The network could not be built, or asked.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// The fabric ended, or does not know what the scenario asks for.
    #[error(transparent)]
    Fabric(#[from] FabricError),
    /// A namespace could not be entered.
    #[error(transparent)]
    Namespace(#[from] NetnsError),
    /// A process did not start, or not do what it was to do.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// What is to be sent could not be laid out.
    #[error("cannot write {path}: {source}")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system answered.
        source: io::Error,
    },
    /// A process ended that was to run on.
    #[error("{name} ended\n{tail}")]
    Ended {
        /// Which.
        name: String,
        /// The ends of its logs.
        tail: String,
    },
    /// The sender does not advertise.
    #[error("the sender says nothing\n{0}")]
    Silent(String),
    /// Somebody is not complete in time.
    #[error("{names} not complete {liveness_ms} ms after the heal\n{tail}")]
    Incomplete {
        /// Who.
        names: String,
        /// The scenario's limit.
        liveness_ms: u64,
        /// The ends of the first one's logs.
        tail: String,
    },
}

/// How a run came out.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// What can be compared with the simulator.
    pub figures: Figures,
    /// Datagrams that this machine was too slow for: loss that nobody asked for.
    pub overflows: u64,
}

/// Whether processes can be made to do what a scenario says.
///
/// # Errors
/// When they cannot.
pub fn check(scenario: &Scenario) -> Result<(), RealError> {
    course::check(scenario)
}

/// Runs a scenario to its end with the program `nackcast` at `program`; files go below `place`, which must be empty.
///
/// The caller has the rights to build networks: see [`crate::netns`].
///
/// # Errors
/// When it cannot be run, or not everybody is complete within the scenario's time.
pub fn run(scenario: &Scenario, program: &Path, place: &Path) -> Result<Outcome, RealError> {
    check(scenario)?;
    let stage = Stage::build(scenario, program, place)?;
    Course::begin(scenario, &stage)?.run()
}
