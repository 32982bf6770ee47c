//! The one place that calls the nodes: their types go in, this crate's reports come out.
//!
//! What is expected of the two crates; all numbers are `u64`, and all fields public:
//!
//! ```text
//! nackcast_sender::run(Config, Control) -> Result<Summary, RunError>      async; the receiver's alike
//! Control { shutdown: CancellationToken, rescan: mpsc::Receiver<()>, progress: watch::Sender<Progress> }
//! Progress { channels: Vec<ChannelProgress> }                             Default; fields as in `crate::report`
//! Summary { success: bool, channels: Vec<ChannelSummary> }                sender: as `report::SentChannel`,
//!                                          receiver: as `report::ReceivedChannel`, with `into: PathBuf`
//! RunError::is_usage(&self) -> bool                                       exit code 2, else 1
//! nackcast_receiver::verify(directory: &Path, state: &Path, deep: bool) -> Result<VerifyReport, RunError>
//! VerifyReport { generation: u64, entries: u64, missing: Vec<String>, damaged: Vec<String>, extra: u64 }
//! ```

use std::path::Path;

use tokio::sync::watch;

use crate::failure::Failure;
use crate::report::{Progress, ReceiveSummary, SendSummary, VerifySummary};
use crate::signals::Signals;

/// Sends until done or told to end.
#[expect(clippy::unused_async, reason = "the node is async")]
pub(crate) async fn send(
    config: nackcast_sender::Config,
    signals: Signals,
    progress: watch::Sender<Progress>,
) -> Result<SendSummary, Failure> {
    drop((config, signals.shutdown, signals.rescan, progress));
    Err(Failure::running("sending is not in this build"))
}

/// Receives until done or told to end.
#[expect(clippy::unused_async, reason = "the node is async")]
pub(crate) async fn receive(
    config: nackcast_receiver::Config,
    signals: Signals,
    progress: watch::Sender<Progress>,
) -> Result<ReceiveSummary, Failure> {
    drop((config, signals.shutdown, signals.rescan, progress));
    Err(Failure::running("receiving is not in this build"))
}

/// Compares a directory with the manifest in the state.
pub(crate) fn verify(directory: &Path, state: &Path, deep: bool) -> Result<VerifySummary, Failure> {
    let _ = (directory, state, deep);
    Err(Failure::running("verifying is not in this build"))
}
