//! A word to systemd, where it started the node (`Type=notify`): ready, what it does, that it is alive.

use std::sync::Arc;
use std::time::Duration;

use nackcast_common::report::Progress;
use nackcast_common::units::counted;
use sd_notify::NotifyState;

use super::desk::Desk;

/// Between two words on what the node does, if no watchdog wants more.
const STATUS_EVERY: Duration = Duration::from_secs(5);

/// Tells it as long as it is polled. The node is ready when its first report shows that it runs.
pub(super) async fn tell(desk: Arc<Desk>) {
    if std::env::var_os("NOTIFY_SOCKET").is_none() {
        return;
    }
    let mut progress = desk.progress();
    let runs = |progress: &Progress| progress.channels.iter().all(|row| !row.state.is_empty());
    let first = progress.wait_for(|progress| !progress.channels.is_empty() && runs(progress)).await;
    if first.map(drop).is_err() {
        return;
    }
    say(&[NotifyState::Ready]);
    let watchdog = sd_notify::watchdog_enabled();
    let mut tick = tokio::time::interval(watchdog.map_or(STATUS_EVERY, |within| (within / 2).min(STATUS_EVERY)));
    // A node whose reports stop is stuck, and its watchdog is not fed.
    while progress.changed().await.is_ok() {
        tick.tick().await;
        let text = one_line(&progress.borrow_and_update());
        say(&[NotifyState::Status(&text), NotifyState::Watchdog]);
    }
}

/// The node is about to end.
pub(super) fn stopping() {
    if std::env::var_os("NOTIFY_SOCKET").is_some() {
        say(&[NotifyState::Stopping]);
    }
}

fn say(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "systemd was not told");
    }
}

fn one_line(progress: &Progress) -> String {
    let row = |row: &nackcast_common::report::ChannelProgress| {
        format!(
            "{}: {}, generation {}, {} of {}",
            row.name,
            row.state,
            row.generation,
            row.objects_done,
            counted(row.objects, "object")
        )
    };
    progress.channels.iter().map(row).collect::<Vec<_>>().join("; ")
}
