//! Signals: SIGTERM and SIGINT drain (a second one ends at once), SIGHUP rescans.

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::failure::{Failure, OrFail};
use crate::logging::Terminal;

/// What signals set in motion.
#[derive(Debug)]
pub(crate) struct Signals {
    /// Cancelled by the first SIGTERM or SIGINT.
    pub(crate) shutdown: CancellationToken,
    /// A message for SIGHUP; several that were not yet served are one.
    pub(crate) rescan: mpsc::Receiver<()>,
}

/// Listens from now on. Call inside a runtime.
pub(crate) fn listen(terminal: Terminal) -> Result<Signals, Failure> {
    let context = "signals cannot be received";
    let mut terminate = signal(SignalKind::terminate()).or_running(context)?;
    let mut interrupt = signal(SignalKind::interrupt()).or_running(context)?;
    let mut hangup = signal(SignalKind::hangup()).or_running(context)?;
    let shutdown = CancellationToken::new();
    let (rescan_sender, rescan) = mpsc::channel(1);
    let token = shutdown.clone();
    // Lives as long as the process: a second signal must end it whatever else hangs.
    tokio::spawn(async move {
        loop {
            tokio::select! {
                Some(()) = terminate.recv() => {}
                Some(()) = interrupt.recv() => {}
                Some(()) = hangup.recv() => {
                    if rescan_sender.try_send(()).is_err() {
                        tracing::debug!("a rescan is waiting already");
                    }
                    continue;
                }
                else => return,
            }
            if token.is_cancelled() {
                terminal.line("nackcast: ended at once by a second signal");
                std::process::exit(1);
            }
            terminal.line("nackcast: finishing what is under way; a second signal ends at once");
            token.cancel();
        }
    });
    Ok(Signals { shutdown, rescan })
}
