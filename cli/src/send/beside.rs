//! A backup: a receiver and a sender in one process. Admins see one node.
//!
//! What the receiver finds wrong stands beside what the sender does, and a scan that is asked for is the receiver's:
//! the sender looks by itself at what is there.

use nackcast_common::control::{Ask, Refusal, Request};
use nackcast_common::report::Progress;
use nackcast_sender::{Config, Control, Summary};
use tokio::sync::{mpsc, watch};

use crate::failure::Failure;
use crate::node::{self, Ports};

/// Requests that wait for one of the two.
const REQUESTS_MAX: usize = 64;
/// To whoever wants it to publish.
const NEVER_PUBLISHES: &str = "this is a backup, which follows the primary and publishes nothing: publish at the \
                               primary; if that is gone for good, end this node and run `nackcast send --role \
                               primary` with the channel's own key file on this directory";

/// Runs both: when one of the two ends, so does the other.
pub(super) async fn run(sender: Config, receiver: nackcast_receiver::Config, ports: Ports) -> Result<Summary, Failure> {
    let Ports { shutdown, requests, progress, files } = ports;
    let (sent, sending) = watch::channel(Progress::default());
    let (received, receiving) = watch::channel(Progress::default());
    let (to_sender, asked_of_sender) = mpsc::channel(REQUESTS_MAX);
    let (to_receiver, asked_of_receiver) = mpsc::channel(REQUESTS_MAX);
    let control = nackcast_receiver::Control {
        shutdown: shutdown.clone(),
        requests: asked_of_receiver,
        progress: received,
        files,
    };
    let receive = async {
        let result = nackcast_receiver::run(receiver, control).await;
        shutdown.cancel();
        result.map_err(|error| node::fail(error.is_usage(), error))
    };
    let control = Control { shutdown: shutdown.clone(), requests: asked_of_sender, progress: sent };
    let send = async {
        let result = nackcast_sender::run(sender, control).await;
        shutdown.cancel();
        result.map_err(|error| node::fail(error.is_usage(), error))
    };
    let last = (sending.clone(), receiving.clone());
    let ended = async { tokio::join!(receive, send) };
    let (received, sent) = tokio::select! {
        ended = ended => ended,
        () = hand_on(requests, to_sender, to_receiver) => unreachable!("it never ends"),
        () = show(sending, receiving, &progress) => unreachable!("it never ends"),
    };
    progress.send_replace(together(&last.0.borrow(), &last.1.borrow()));
    received?;
    sent
}

/// Hands requests to the one of the two that they are for, for as long as it is polled.
async fn hand_on(
    mut requests: mpsc::Receiver<Request>,
    to_sender: mpsc::Sender<Request>,
    to_receiver: mpsc::Sender<Request>,
) {
    while let Some(request) = requests.recv().await {
        let to = match request.ask {
            Ask::Scan { publish: true, reply, .. } => {
                drop(reply.map(|reply| reply.send(Err(Refusal::NotNow(NEVER_PUBLISHES.to_owned())))));
                continue;
            }
            Ask::Scan { .. } => &to_receiver,
            _ => &to_sender,
        };
        // Whoever asks one that takes no more loses the answer, and so hears of it.
        drop(to.try_send(request));
    }
    std::future::pending().await
}

/// Shows what both do, for as long as it is polled.
async fn show(
    mut sending: watch::Receiver<Progress>,
    mut receiving: watch::Receiver<Progress>,
    progress: &watch::Sender<Progress>,
) {
    // One that ended says no more; then the other will end, too.
    while tokio::select! {
        changed = sending.changed() => changed.is_ok(),
        changed = receiving.changed() => changed.is_ok(),
    } {
        progress.send_replace(together(&sending.borrow_and_update(), &receiving.borrow_and_update()));
    }
    std::future::pending().await
}

/// What the sender does, and what the receiver finds wrong as well.
fn together(sending: &Progress, receiving: &Progress) -> Progress {
    let mut together = sending.clone();
    for (row, received) in together.channels.iter_mut().zip(&receiving.channels) {
        // The sender counts what is still to be sent to everybody, which is nothing; here counts what it could send.
        if (received.generation, received.objects_done) < (row.generation, received.objects) {
            row.objects_done = row.objects_done.min(received.objects_done);
            row.bytes_done = row.bytes_done.min(received.bytes_done);
        }
        row.served_by.clone_from(&received.served_by);
        for finding in &received.findings {
            // The same kind about the same thing would be one alert that is told in two ways.
            if row.findings.iter().all(|own| (own.kind, &own.subject) != (finding.kind, &finding.subject)) {
                row.findings.push(finding.clone());
            }
        }
    }
    together
}

#[cfg(test)]
mod tests {
    use nackcast_common::alerts::{Finding, Kind};
    use nackcast_common::report::ChannelProgress;

    use super::*;

    #[test]
    fn a_backup_that_holds_nothing_has_nothing_done() {
        let row = |generation, objects_done| {
            let row = ChannelProgress { generation, objects: 9, objects_done, bytes: 90, ..Default::default() };
            Progress { channels: vec![ChannelProgress { bytes_done: objects_done * 10, ..row }] }
        };
        let done = |sending, receiving| {
            let row = &together(&sending, &receiving).channels[0];
            (row.objects_done, row.bytes_done)
        };
        assert_eq!(done(row(2, 9), row(2, 0)), (0, 0));
        assert_eq!(done(row(2, 9), row(0, 0)), (0, 0), "it knows of no manifest yet");
        assert_eq!(done(row(2, 9), row(2, 3)), (3, 30));
        assert_eq!(done(row(2, 4), row(2, 9)), (4, 40), "a first pass that it sends");
        assert_eq!(done(row(2, 9), row(3, 1)), (9, 90), "it still serves the one before");
    }

    #[tokio::test]
    async fn a_backup_refuses_to_publish_and_scans() {
        let (asking, requests) = mpsc::channel(2);
        let (to_sender, _sender) = mpsc::channel(1);
        let (to_receiver, mut receiver) = mpsc::channel(1);
        let (reply, answer) = tokio::sync::oneshot::channel();
        for (publish, reply) in [(true, Some(reply)), (false, None)] {
            let ask = Ask::Scan { deep: false, publish, allow_empty: false, reply };
            asking.try_send(Request { channel: 0, ask }).unwrap();
        }
        tokio::select! {
            () = hand_on(requests, to_sender, to_receiver) => unreachable!("it never ends"),
            request = receiver.recv() => assert!(matches!(request.unwrap().ask, Ask::Scan { publish: false, .. })),
        }
        assert_eq!(answer.await.unwrap(), Err(Refusal::NotNow(NEVER_PUBLISHES.to_owned())));
    }

    #[test]
    fn what_either_finds_wrong_is_told_once() {
        let row = |kinds: &[Kind]| Progress {
            channels: vec![ChannelProgress {
                findings: kinds.iter().map(|kind| Finding::lasting(*kind, "", "x")).collect(),
                ..ChannelProgress::default()
            }],
        };
        let both = together(&row(&[Kind::ClockOff]), &row(&[Kind::ClockOff, Kind::KeyRejected]));
        let kinds: Vec<_> = both.channels[0].findings.iter().map(|finding| finding.kind).collect();
        assert_eq!(kinds, [Kind::ClockOff, Kind::KeyRejected]);
    }
}
