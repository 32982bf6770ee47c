//! A deterministic simulator: the daemon's own sender and receivers, in virtual time, on a network and disks that
//! fail as a scenario says.
//!
//! - [`swarm`] makes a [`scenario::Scenario`] of a seed; [`world`] runs it; [`oracle`] looks at everything; [`mod@shrink`]
//!   makes a failing scenario smaller; [`trace`] and [`plot`] show what happened.
//! - What runs is [`nackcast_sender::node::SenderNode`], [`nackcast_receiver::node::ReceiverNode`] and the receivers'
//!   disk workers, with real bytes, real sealing and real erasure codes. Replaced are sockets, threads, clocks and
//!   the file system ([`disk`]).
//! - [`scale`] has the engines alone, with up to a hundred thousand receivers.
//! - The same scenario gives the same trace, in debug and in release.

pub mod clock;
pub mod content;
pub mod disk;
pub mod figures;
pub mod network;
pub mod oracle;
pub mod plot;
pub mod queue;
pub mod receiver;
pub mod roles;
pub mod scale;
pub mod scenario;
pub mod sender;
pub mod shrink;
pub mod swarm;
pub mod trace;
pub mod unicast;
pub mod wiretap;
pub mod world;

use scenario::Scenario;
use trace::Watch;
use world::{Outcome, World};

/// Runs a scenario to its end.
#[must_use]
pub fn run(scenario: &Scenario, watch: Option<Watch>) -> Outcome {
    // Lines for people, of thousands of nodes, would only cost time; what a run says is its trace.
    tracing::subscriber::with_default(tracing::subscriber::NoSubscriber::new(), || World::new(scenario, watch).run())
}

/// Makes a failing scenario as small as it gets while the same oracle fails; gives it back unchanged if it passes.
#[must_use]
pub fn shrink(scenario: &Scenario) -> Scenario {
    let Some(failure) = run(scenario, None).failure else { return scenario.clone() };
    shrink::shrink(scenario, |smaller| run(smaller, None).failure.is_some_and(|f| f.oracle == failure.oracle))
}
