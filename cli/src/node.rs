//! The one place that calls the nodes: their types go in, this crate's reports come out.

use std::path::Path;

use tokio::sync::watch;

use crate::failure::Failure;
use crate::report::{Progress, ReceiveSummary, SendSummary, VerifySummary};
use crate::signals::Signals;

/// Sends until done or told to end.
#[expect(clippy::unused_async, reason = "the node is async")]
pub(crate) async fn send(
    config: nackcast_sender::config::Config,
    signals: Signals,
    progress: watch::Sender<Progress>,
) -> Result<SendSummary, Failure> {
    drop((config, signals, progress));
    Err(Failure::running("sending is not in this build"))
}

/// Receives until done or told to end.
#[expect(clippy::unused_async, reason = "the node is async")]
pub(crate) async fn receive(
    config: nackcast_receiver::config::Config,
    signals: Signals,
    progress: watch::Sender<Progress>,
) -> Result<ReceiveSummary, Failure> {
    drop((config, signals, progress));
    Err(Failure::running("receiving is not in this build"))
}

/// Compares a directory with the manifest in the state.
pub(crate) fn verify(directory: &Path, state: &Path, deep: bool) -> Result<VerifySummary, Failure> {
    let _ = (directory, state, deep);
    Err(Failure::running("verifying is not in this build"))
}
