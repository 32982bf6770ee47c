//! The one place that calls the nodes: their types go in, this crate's reports come out.

use std::path::Path;

use tokio::sync::watch;

use crate::failure::Failure;
use crate::report::{
    ChannelProgress, Progress, ReceiveSummary, ReceivedChannel, SendSummary, SentChannel, VerifySummary,
};
use crate::signals::Signals;

/// Sends until done or told to end.
pub(crate) async fn send(
    config: nackcast_sender::Config,
    signals: Signals,
    progress: watch::Sender<Progress>,
) -> Result<SendSummary, Failure> {
    let (ours, theirs) = watch::channel(nackcast_sender::Progress::default());
    let control = nackcast_sender::Control { shutdown: signals.shutdown, rescan: signals.rescan, progress: ours };
    let forward = tokio::spawn(forward(theirs, progress, |p: &nackcast_sender::Progress| Progress {
        channels: p.channels.iter().map(sending).collect(),
    }));
    let result = nackcast_sender::run(config, control).await;
    let forwarded = forward.await;
    let summary = result.map_err(|error| fail(error.is_usage(), error))?;
    forwarded.map_err(Failure::running)?;
    let channels = summary.channels.into_iter().map(|c| SentChannel {
        name: c.name,
        generation: c.generation,
        objects: c.objects,
        bytes: c.bytes,
        sent_bytes: c.sent_bytes,
        repair_bytes: c.repair_bytes,
        receivers: c.receivers,
        receivers_complete: c.receivers_complete,
        problems: c.problems,
    });
    Ok(SendSummary { success: summary.success, channels: channels.collect() })
}

/// Receives until done or told to end.
pub(crate) async fn receive(
    config: nackcast_receiver::Config,
    signals: Signals,
    progress: watch::Sender<Progress>,
) -> Result<ReceiveSummary, Failure> {
    let (ours, theirs) = watch::channel(nackcast_receiver::Progress::default());
    let control = nackcast_receiver::Control { shutdown: signals.shutdown, rescan: signals.rescan, progress: ours };
    let forward = tokio::spawn(forward(theirs, progress, |p: &nackcast_receiver::Progress| Progress {
        channels: p.channels.iter().map(receiving).collect(),
    }));
    let result = nackcast_receiver::run(config, control).await;
    let forwarded = forward.await;
    let summary = result.map_err(|error| fail(error.is_usage(), error))?;
    forwarded.map_err(Failure::running)?;
    let channels = summary.channels.into_iter().map(|c| ReceivedChannel {
        name: c.name,
        into: c.into,
        generation: c.generation,
        files: c.files,
        bytes: c.bytes,
        received_bytes: c.received_bytes,
        repair_bytes: c.repair_bytes,
        complete: c.complete,
        unicast_wanted: c.unicast_wanted,
        problems: c.problems,
    });
    Ok(ReceiveSummary { success: summary.success, channels: channels.collect() })
}

/// Compares a directory with the manifest in the state.
pub(crate) fn verify(directory: &Path, state: &Path, deep: bool) -> Result<VerifySummary, Failure> {
    let report = nackcast_receiver::verify(directory, state, deep).map_err(|error| fail(error.is_usage(), error))?;
    Ok(VerifySummary {
        directory: directory.to_owned(),
        generation: report.generation,
        entries: report.entries,
        missing: report.missing,
        damaged: report.damaged,
        extra: report.extra,
    })
}

fn fail(is_usage: bool, error: impl std::error::Error + Send + Sync + 'static) -> Failure {
    if is_usage { Failure::Usage(error.into()) } else { Failure::Running(error.into()) }
}

async fn forward<P>(
    mut theirs: watch::Receiver<P>,
    ours: watch::Sender<Progress>,
    convert: impl Fn(&P) -> Progress + Send,
) where
    P: Send + Sync,
{
    // The node drops its end when it is over; its last word is still to be forwarded.
    loop {
        let over = theirs.changed().await.is_err();
        let progress = convert(&theirs.borrow_and_update());
        ours.send_replace(progress);
        if over {
            return;
        }
    }
}

fn sending(c: &nackcast_sender::ChannelProgress) -> ChannelProgress {
    ChannelProgress {
        name: c.name.clone(),
        generation: c.generation,
        objects: c.objects,
        objects_done: c.objects_done,
        bytes: c.bytes,
        bytes_done: c.bytes_done,
        wire_bytes: c.wire_bytes,
        repair_bytes: c.repair_bytes,
        rate_bps: c.rate_bps,
        receivers: c.receivers,
        receivers_complete: c.receivers_complete,
        state: c.state.clone(),
        note: c.note.clone(),
    }
}

fn receiving(c: &nackcast_receiver::ChannelProgress) -> ChannelProgress {
    ChannelProgress {
        name: c.name.clone(),
        generation: c.generation,
        objects: c.objects,
        objects_done: c.objects_done,
        bytes: c.bytes,
        bytes_done: c.bytes_done,
        wire_bytes: c.wire_bytes,
        repair_bytes: c.repair_bytes,
        rate_bps: c.rate_bps,
        receivers: 0,
        receivers_complete: 0,
        state: c.state.clone(),
        note: c.note.clone(),
    }
}
