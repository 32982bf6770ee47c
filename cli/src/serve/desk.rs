//! What the services share: the node's reports, the way to ask it, and its alerts.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use nackcast_common::alerts::{Alert, Book, Kept, Severity};
use nackcast_common::clock::Clock;
use nackcast_common::control::{Ask, Reply, Request};
use nackcast_common::report::{ChannelProgress, Progress};
use nackcast_common::store::{Store, StoreError};
use tokio::sync::{mpsc, oneshot, watch};

use crate::failure::{Failure, OrFail};
use crate::places::{Node, NodeChannel, NodeRole};

/// In the state directory: a store of its own, since who keeps alerts is not who keeps content.
const STORE: &str = "alerts";
/// Digits of a channel's id that name it.
const ID_DIGITS: usize = 8;

/// Shared by all services of a node.
#[derive(Debug)]
pub(crate) struct Desk {
    node: Node,
    host: String,
    started_ms: u64,
    progress: watch::Receiver<Progress>,
    requests: mpsc::Sender<Request>,
    book: Mutex<Book>,
    kept: Kept,
    /// Wakes those who follow, with how often the book changed.
    changes: watch::Sender<u64>,
    /// What the log last said of each alert in the book, and when.
    said: Mutex<BTreeMap<u64, (Said, u64)>>,
}

/// Why a channel did not answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Unanswered {
    /// The node ends, or the channel takes no more.
    Busy,
    /// It said no.
    Refused(nackcast_common::control::Refusal),
}

impl Desk {
    /// Takes up the alerts where an earlier run left them.
    pub(crate) async fn open(
        state: &Path,
        node: &Node,
        progress: watch::Receiver<Progress>,
        requests: mpsc::Sender<Request>,
    ) -> Result<Self, Failure> {
        let dir = state.join(STORE);
        let open = move || {
            let (store, warning) = Store::open(&dir)?;
            let kept = Kept::new(store)?;
            let alerts = kept.load()?;
            Ok::<_, StoreError>((kept, alerts, warning))
        };
        let opened = tokio::task::spawn_blocking(open).await.or_running("the alerts cannot be read")?;
        let (kept, alerts, warning) = opened.or_usage("alerts")?;
        if let Some(warning) = warning {
            tracing::warn!("{warning}");
        }
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned();
        let started_ms = Clock::wall_ms();
        Ok(Self {
            node: node.clone(),
            book: Mutex::new(Book::new(host.clone(), started_ms, alerts)),
            host,
            started_ms,
            progress,
            requests,
            kept,
            changes: watch::channel(0).0,
            said: Mutex::default(),
        })
    }

    /// Takes every report into the book, for as long as it is polled.
    pub(crate) async fn keep(self: std::sync::Arc<Self>) {
        let mut progress = self.progress.clone();
        while progress.changed().await.is_ok() {
            let rows = progress.borrow_and_update().channels.clone();
            let now_ms = Clock::wall_ms();
            {
                let mut book = self.book();
                for (row, channel) in rows.iter().zip(&self.node.channels) {
                    book.report(now_ms, &channel.name, &row.findings);
                }
            }
            self.save().await;
        }
    }

    /// Writes what changed, and tells those who follow.
    pub(crate) async fn save(&self) {
        let batch = {
            let mut book = self.book();
            let changed = book.take_changes();
            if changed.is_empty() {
                return;
            }
            self.log(&book, &changed);
            Kept::batch(&book, &changed)
        };
        self.changes.send_modify(|count| *count += 1);
        let kept = self.kept.clone();
        match tokio::task::spawn_blocking(move || kept.save(batch)).await {
            Ok(Ok(())) => {}
            // They are told all the same, until the node ends.
            Ok(Err(error)) => tracing::warn!("alerts are not kept: {error}"),
            Err(error) => tracing::warn!("alerts are not kept: {error}"),
        }
    }

    fn log(&self, book: &Book, changed: &[u64]) {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        let now_ms = Clock::wall_ms();
        for id in changed {
            let Some(alert) = book.get(*id) else {
                said.remove(id);
                continue;
            };
            let news = (alert.count, alert.is_raised(), alert.acknowledged_ms.is_some());
            if is_worth_a_line(said.get(id), news, now_ms) {
                said.insert(*id, (news, now_ms));
                log(alert);
            }
        }
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        // Every holder leaves it whole.
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What follows changes of the book.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// All alerts, or those that are raised and not acknowledged.
    pub(crate) fn alerts(&self, all: bool) -> Vec<Alert> {
        let wanted = |alert: &&Alert| all || (alert.is_raised() && alert.acknowledged_ms.is_none());
        self.book().iter().filter(wanted).cloned().collect()
    }

    /// How many alerts are wrong, and how many of these are critical.
    pub(crate) fn wrong(&self) -> (u64, u64) {
        let book = self.book();
        let wrong = || book.iter().filter(|alert| alert.is_wrong());
        let critical = wrong().filter(|alert| alert.kind.severity() == Severity::Critical).count();
        (wrong().count() as u64, critical as u64)
    }

    /// Takes note of these; those that are not in the book are returned.
    pub(crate) async fn acknowledge(&self, ids: &[u64]) -> Vec<u64> {
        let now_ms = Clock::wall_ms();
        let unknown = {
            let mut book = self.book();
            ids.iter().copied().filter(|id| !book.acknowledge(now_ms, *id)).collect()
        };
        self.save().await;
        unknown
    }

    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    pub(crate) const fn role(&self) -> &'static str {
        match self.node.role {
            NodeRole::Send => "sender",
            NodeRole::Receive => "receiver",
        }
    }

    pub(crate) const fn started_ms(&self) -> u64 {
        self.started_ms
    }

    pub(crate) fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.clone()
    }

    /// Every channel with its last report.
    pub(crate) fn channels(&self) -> Vec<(NodeChannel, ChannelProgress)> {
        let rows = self.progress.borrow().channels.clone();
        let rows = rows.into_iter().chain(std::iter::repeat_with(ChannelProgress::default));
        self.node.channels.iter().cloned().zip(rows).collect()
    }

    /// The channels that a name, an id or its beginning means; all for an empty text. The error names those there are.
    pub(crate) fn chosen(&self, wanted: &str) -> Result<Vec<usize>, String> {
        let is_wanted = |channel: &NodeChannel| {
            let by_id = wanted.len() >= ID_DIGITS && channel.channel.starts_with(wanted);
            wanted.is_empty() || channel.name == wanted || by_id
        };
        let all = self.node.channels.iter().enumerate();
        let chosen: Vec<_> = all.filter(|(_, channel)| is_wanted(channel)).map(|(at, _)| at).collect();
        if chosen.is_empty() {
            let names: Vec<_> = self.node.channels.iter().map(|channel| channel.name.as_str()).collect();
            return Err(format!("this node has no channel {wanted}; it has: {}", names.join(", ")));
        }
        Ok(chosen)
    }

    pub(crate) fn name(&self, channel: usize) -> &str {
        self.node.channels.get(channel).map_or("", |channel| channel.name.as_str())
    }

    /// Asks a channel something, and waits for the answer.
    pub(crate) async fn ask<T>(&self, channel: usize, ask: impl FnOnce(Reply<T>) -> Ask) -> Result<T, Unanswered> {
        let (reply, answer) = oneshot::channel();
        let request = Request { channel, ask: ask(reply) };
        self.requests.send(request).await.map_err(|_| Unanswered::Busy)?;
        match answer.await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(refusal)) => Err(Unanswered::Refused(refusal)),
            Err(_) => Err(Unanswered::Busy),
        }
    }
}

/// What of an alert is news to a log: its numbers may change twice a second.
type Said = (u64, bool, bool);

/// Between two lines that say only that it happened again: somebody may make it happen all the time.
const AGAIN_MS: u64 = 60_000;

fn is_worth_a_line(before: Option<&(Said, u64)>, news: Said, now_ms: u64) -> bool {
    before.is_none_or(|((count, raised, acknowledged), at)| {
        let is_again = *count != news.0 && now_ms.abs_diff(*at) >= AGAIN_MS;
        is_again || (*raised, *acknowledged) != (news.1, news.2)
    })
}

fn log(alert: &Alert) {
    let Alert { id, kind, channel, text, .. } = alert;
    if alert.acknowledged_ms.is_some() {
        tracing::debug!(id, %kind, "alert acknowledged");
    } else if alert.is_raised() {
        tracing::warn!("{channel}: alert {id} ({kind}): {text}; {}", kind.check());
    } else {
        tracing::info!("{channel}: alert {id} ({kind}) is over");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happens_all_the_time_gets_a_line_a_minute() {
        let before = Some(&((1, true, false), 5_000));
        assert!(is_worth_a_line(None, (1, true, false), 0));
        assert!(!is_worth_a_line(before, (9, true, false), 5_000 + AGAIN_MS - 1));
        assert!(is_worth_a_line(before, (9, true, false), 5_000 + AGAIN_MS));
        assert!(!is_worth_a_line(before, (1, true, false), 5_000 + AGAIN_MS), "nothing new");
        assert!(is_worth_a_line(before, (1, false, false), 5_001), "it is over");
        assert!(is_worth_a_line(before, (1, true, true), 5_001));
        assert!(is_worth_a_line(Some(&((1, true, false), 90_000)), (2, true, false), 5_000), "the clock was set back");
    }
}
