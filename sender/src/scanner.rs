//! One channel's content over time: scans its directory, signs and stores what changed, and tells the driver.
//!
//! - A scan runs on a thread of its own, while sending goes on with what was found before. It cannot be
//!   interrupted, and so never holds up the end of the node.
//! - Scans are asked for by time, by command, by the file system, and by blocks that did not verify. Requests of
//!   the last two kinds wait until it is quiet; those that keep finding nothing come less and less often.
//! - What looks like a lost file system is never published as an empty generation.
//! - While an epoch is announced nothing is published; the first generation after that is of the new epoch, even if
//!   the directory did not change.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use nackcast_common::clock::Clock;
use nackcast_common::control::{Refusal, Reply, Scan};
use nackcast_common::ids::{Epoch, Generation, ObjectId};
use nackcast_common::keys::{SigningKey, VerifyingKey};
use nackcast_common::manifest::{Head, Manifest};
use nackcast_proto::manifest;
use notify::{RecursiveMode, Watcher};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use crate::error::RunError;
use crate::library::{self, Change, Content, Library, Previous, Problem, ProblemKind};
use crate::node::Trouble;
use crate::publish::{ManifestStore, Published};
use crate::state::NodeState;

/// So long nothing must have changed before a scan that the file system asked for.
const QUIET: Duration = Duration::from_millis(500);
/// Such a scan comes after this time even if it is never quiet.
const QUIET_MAX: Duration = Duration::from_secs(5);
/// First and longest wait before a file that changed while it was hashed is tried again.
const RETRY: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(60));
/// Problems of one scan that are logged; of the rest the number.
const LOGGED_MAX: usize = 20;

/// A wish for a scan.
#[derive(Debug)]
pub(crate) enum Request {
    /// At once.
    Now {
        /// Publish the directory even if it became empty.
        allow_empty: bool,
        /// Who wants to know.
        reply: Option<Reply<Scan>>,
    },
    /// When it is quiet: a block was not what it should be. The number comes back with the scan.
    Soon(u64),
    /// What is published from then on is of this epoch, and nothing is published before. An earlier epoch, or that of
    /// today, changes nothing.
    Epoch {
        /// Which.
        epoch: Epoch,
        /// From when on.
        begins: Instant,
    },
}

/// What a scan came to, for the driver.
#[derive(Debug)]
pub(crate) struct Scanned {
    /// What can be served; none when the scan failed and the old content stays.
    pub(crate) content: Option<Arc<Content>>,
    /// A manifest that was not served before, and whether it is new.
    pub(crate) published: Option<(Published, bool)>,
    /// What was left out.
    pub(crate) problems: Vec<Trouble>,
    /// The highest [`Request::Soon`] that this scan answers.
    pub(crate) answers: u64,
    /// Objects of the manifest whose bytes are not here.
    pub(crate) lacks: Vec<ObjectId>,
}

/// What a scanner works with.
#[derive(Debug)]
pub(crate) struct ScannerConfig {
    pub(crate) name: String,
    pub(crate) library: Library,
    pub(crate) state: NodeState,
    pub(crate) publisher: Option<SigningKey>,
    pub(crate) publisher_key: VerifyingKey,
    /// Between scans by time; zero: none.
    pub(crate) rescan: Duration,
    pub(crate) watch: bool,
}

/// The way in and out of a scanner.
#[derive(Debug)]
pub(crate) struct ScannerPorts {
    pub(crate) requests: mpsc::Receiver<Request>,
    pub(crate) scanned: mpsc::Sender<Scanned>,
    /// How far a running scan is.
    pub(crate) progress: watch::Sender<Option<library::Progress>>,
}

/// Scans as long as the driver listens. Ends early only when the first scan gives nothing to serve.
pub(crate) async fn run(config: ScannerConfig, ports: ScannerPorts) -> Result<(), RunError> {
    let (touch, touched) = mpsc::channel(1);
    let rescan = config.rescan;
    let publisher = Publisher::new(config, touch);
    let scanner = Scanner {
        publisher: Some(publisher),
        ports,
        touched,
        rescan,
        due: None,
        touched_since: None,
        by_time: None,
        retry: RETRY.0,
        futile: 0,
        answers: 0,
        allow_empty: false,
        next_epoch: None,
        replies: Vec::new(),
    };
    scanner.run().await
}

/// When to scan, and for whom.
#[derive(Debug)]
struct Scanner {
    /// Away while a scan runs.
    publisher: Option<Publisher>,
    ports: ScannerPorts,
    touched: mpsc::Receiver<()>,
    rescan: Duration,
    /// Of the scan that was asked for.
    due: Option<Instant>,
    touched_since: Option<Instant>,
    by_time: Option<Instant>,
    retry: Duration,
    /// Scans in a row that found nothing new though a block had changed.
    futile: u32,
    answers: u64,
    /// The next scan may publish a directory that became empty.
    allow_empty: bool,
    /// The epoch that is announced, and when it begins.
    next_epoch: Option<(Epoch, Instant)>,
    replies: Vec<Reply<Scan>>,
}

impl Scanner {
    async fn run(mut self) -> Result<(), RunError> {
        let mut first = true;
        loop {
            let found = self.scan().await?;
            self.take_waiting();
            // Who was taken off while it scanned must not get what it found: that is published in the next epoch.
            if self.is_overtaken() {
                if !self.wait().await {
                    return Ok(());
                }
                continue;
            }
            let asked_for_a_block = self.answers;
            let (scanned, outcome) = match found {
                Ok(found) => self.settle(found),
                Err(error) if first => return Err(error),
                Err(error) => self.failed(&error),
            };
            tracing::debug!(?outcome, answers = asked_for_a_block, "scan over");
            for reply in self.replies.drain(..) {
                // Whoever asked may have gone away.
                drop(reply.send(Ok(outcome.clone())));
            }
            if self.ports.scanned.send(scanned).await.is_err() {
                return Ok(());
            }
            first = false;
            if !self.wait().await {
                return Ok(());
            }
        }
    }

    /// Waits until a scan is due; false when nobody needs one any more.
    async fn wait(&mut self) -> bool {
        self.by_time = (!self.rescan.is_zero()).then(|| Instant::now() + self.rescan);
        loop {
            if !self.wait_for_one().await {
                return false;
            }
            // Those that wait already are served by this scan.
            self.take_waiting();
            while self.touched.try_recv().is_ok() {}
            // Unless one of them says that nothing is published now.
            if self.next_epoch.is_none_or(|(_, begins)| begins <= Instant::now()) {
                break;
            }
        }
        (self.due, self.touched_since) = (None, None);
        true
    }

    /// Waits for the next time at which a scan is due; false when nobody needs one any more.
    async fn wait_for_one(&mut self) -> bool {
        loop {
            let at = match self.next_epoch {
                Some((_, begins)) => Some(begins),
                None => [self.due, self.by_time].into_iter().flatten().min(),
            };
            let due = async {
                match at {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                request = self.ports.requests.recv() => match request {
                    Some(request) => self.take(request),
                    None => return false,
                },
                Some(()) = self.touched.recv() => self.debounce(QUIET),
                () = due => return true,
            }
        }
    }

    fn take_waiting(&mut self) {
        while let Ok(request) = self.ports.requests.try_recv() {
            self.take(request);
        }
    }

    fn may_begin(&self, epoch: Epoch) -> bool {
        self.publisher.as_ref().is_some_and(|publisher| publisher.may_begin(epoch))
    }

    /// A later epoch than that of the last scan is announced.
    fn is_overtaken(&self) -> bool {
        self.next_epoch.is_some_and(|(epoch, _)| self.may_begin(epoch))
    }

    fn take(&mut self, request: Request) {
        match request {
            Request::Epoch { epoch, begins } => {
                // One that is announced already is not put off.
                if self.may_begin(epoch) && self.next_epoch.is_none_or(|(next, _)| epoch > next) {
                    self.next_epoch = Some((epoch, begins));
                }
            }
            Request::Now { reply: Some(reply), .. } if self.is_overtaken() => {
                let why = "the channel goes over to its next epoch: nothing is published until then";
                drop(reply.send(Err(Refusal::NotNow(why.to_owned()))));
            }
            Request::Now { allow_empty, reply } => {
                self.replies.extend(reply);
                self.allow_empty |= allow_empty;
                self.due = Some(Instant::now());
            }
            Request::Soon(number) => {
                self.answers = self.answers.max(number);
                self.debounce((QUIET * 2_u32.saturating_pow(self.futile.min(7))).min(RETRY.1));
            }
        }
    }

    /// After so much quiet, but not for ever.
    fn debounce(&mut self, quiet: Duration) {
        let now = Instant::now();
        let since = *self.touched_since.get_or_insert(now);
        let latest = since + QUIET_MAX.max(quiet);
        let at = (now + quiet).min(latest);
        // An earlier wish that cannot wait stays.
        if self.due.is_none_or(|due| due > now) {
            self.due = Some(at);
        }
    }

    /// Scans on a thread that the end of the node does not wait for.
    async fn scan(&mut self) -> Result<Result<Found, RunError>, RunError> {
        let Some(mut publisher) = self.publisher.take() else {
            return Err(RunError::Broken("a scan never came back".to_owned()));
        };
        if let Some((epoch, _)) = self.next_epoch {
            publisher.config.library.set_epoch(epoch);
        }
        let progress = self.ports.progress.clone();
        let allow_empty = std::mem::take(&mut self.allow_empty);
        let (done, result) = oneshot::channel();
        let thread = std::thread::Builder::new().name("scan".to_owned()).spawn(move || {
            let tell = |now| {
                progress.send_replace(Some(now));
            };
            let found = publisher.scan(&tell, allow_empty);
            progress.send_replace(None);
            drop(done.send((publisher, found)));
        });
        thread.map_err(|error| RunError::Broken(format!("no thread for a scan: {error}")))?;
        let (publisher, found) = result.await.map_err(|_| RunError::Broken("a scan panicked".to_owned()))?;
        self.publisher = Some(publisher);
        Ok(found)
    }

    fn settle(&mut self, found: Found) -> (Scanned, Scan) {
        self.next_epoch = None;
        let Found { content, published, problems } = found;
        let changed = published.as_ref().is_some_and(|(_, fresh)| *fresh);
        self.futile = if changed { 0 } else { self.futile + 1 };
        let unsettled = problems.iter().any(|(_, kind)| *kind == Kind::Changing);
        if unsettled {
            // Whoever writes to it needs some time.
            self.try_again();
        } else {
            self.retry = RETRY.0;
        }
        let problems: Vec<_> = problems.into_iter().map(|(trouble, _)| trouble).collect();
        let outcome = Scan {
            generation: content.manifest().head().generation.0,
            changed,
            problems: problems.iter().map(|trouble| trouble.line.clone()).collect(),
            ..Scan::default()
        };
        (Scanned { content: Some(content), published, problems, answers: self.answers, lacks: Vec::new() }, outcome)
    }

    fn try_again(&mut self) {
        self.due = Some(Instant::now() + self.retry);
        self.retry = (self.retry * 2).min(RETRY.1);
    }

    fn failed(&mut self, error: &RunError) -> (Scanned, Scan) {
        tracing::warn!("{error}; the last generation stays as it is");
        self.futile += 1;
        // A disk that is back tells nobody.
        self.try_again();
        // It begins as soon as the directory can be read.
        self.next_epoch = self.next_epoch.map(|(epoch, _)| (epoch, Instant::now() + RETRY.0));
        let generation = self.publisher.as_ref().and_then(Publisher::generation).unwrap_or_default().0;
        let outcome = Scan { generation, problems: vec![error.to_string()], ..Scan::default() };
        let trouble = Trouble { line: error.to_string(), is_failure: true };
        let problems = vec![trouble];
        (Scanned { content: None, published: None, problems, answers: self.answers, lacks: Vec::new() }, outcome)
    }
}

/// A new generation is at least the wall clock in milliseconds, as a start number is: so a publisher that lost its
/// state, or has an older copy of it, begins above everything that receivers hold.
fn least_generation() -> Generation {
    Generation(Clock::wall_ms().max(1))
}

/// What a scan of the publisher gives.
#[derive(Debug)]
struct Found {
    content: Arc<Content>,
    published: Option<(Published, bool)>,
    problems: Vec<(Trouble, Kind)>,
}

/// Whether a problem passes by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Changing,
    Lasting,
}

/// The blocking half: scans, signs, stores.
#[derive(Debug)]
struct Publisher {
    config: ScannerConfig,
    manifests: ManifestStore,
    /// What is published, or was by an earlier run.
    stored: Option<Published>,
    previous: Option<Previous>,
    begun: bool,
    /// Wakes the scanner; kept by the watch.
    touch: mpsc::Sender<()>,
    watch: Option<notify::RecommendedWatcher>,
    /// People were told that nothing is watched.
    unwatched: bool,
    /// Of the last scan: a problem that lasts is logged once.
    logged: BTreeSet<Trouble>,
}

impl Publisher {
    fn new(config: ScannerConfig, touch: mpsc::Sender<()>) -> Self {
        let manifests = ManifestStore::new(config.state.dir(), config.library.config().channel);
        let logged = BTreeSet::new();
        Self {
            config,
            manifests,
            stored: None,
            previous: None,
            begun: false,
            touch,
            watch: None,
            unwatched: false,
            logged,
        }
    }

    fn generation(&self) -> Option<Generation> {
        Some(self.previous.as_ref()?.manifest.head().generation)
    }

    fn scan(&mut self, progress: &(dyn Fn(library::Progress) + Sync), allow_empty: bool) -> Result<Found, RunError> {
        let first = !self.begun;
        if first {
            self.begin()?;
        }
        self.renew_watch();
        let config = &mut self.config;
        let scan = config
            .library
            .scan(self.previous.as_ref(), least_generation(), progress)
            .map_err(|source| RunError::Library { channel: config.name.clone(), source })?;
        let problems = self.troubles(scan.problems);
        let content = scan.content;
        let published = match (scan.change, &self.stored) {
            (Change::None, Some(stored)) => first.then(|| (stored.clone(), false)),
            (Change::None, None) | (Change::NewGeneration, _) => {
                if !allow_empty {
                    self.refuse_emptied(content.manifest())?;
                }
                Some((self.publish(content.manifest())?, true))
            }
        };
        self.begun = true;
        Ok(Found { content, published, problems })
    }

    /// Takes up where an earlier run ended.
    fn begin(&mut self) -> Result<(), RunError> {
        let library = self.config.library.config();
        let (channel, geometry) = (library.channel, library.geometry);
        match self.manifests.load(&self.config.publisher_key, channel) {
            Ok(stored) => self.stored = stored,
            Err(error) => {
                tracing::warn!(channel = self.config.name, %error, "the stored manifest is of no use: everything counts as new");
                self.manifests.forget();
            }
        }
        self.follow_stored_epoch();
        self.previous = self
            .stored
            .as_ref()
            .map(|stored| Previous { manifest: Arc::clone(&stored.manifest), root_hash: stored.reference.hash });
        if let (None, Some((generation, root_hash))) = (&self.previous, self.config.state.published(channel)?) {
            // An empty one with that number, so that numbering goes on. Its epoch makes it differ from every other.
            let epoch = Epoch(self.config.library.config().epoch.0 ^ 1);
            let head = Head { channel, generation, parent: None, epoch, geometry };
            self.previous = Manifest::new(head, Vec::new(), Vec::new())
                .ok()
                .map(|manifest| Previous { manifest: Arc::new(manifest), root_hash });
        }
        Ok(())
    }

    /// Whether a generation of this epoch can be made here and now.
    fn may_begin(&self, epoch: Epoch) -> bool {
        self.config.publisher.is_some() && epoch > self.config.library.config().epoch
    }

    /// Epochs only grow, even where the key file is an old copy; and who may not publish serves what there is.
    fn follow_stored_epoch(&mut self) {
        let Some(stored) = self.stored.as_ref().map(|stored| stored.manifest.head().epoch) else { return };
        let ours = self.config.library.config().epoch;
        if stored > ours {
            tracing::warn!(
                channel = self.config.name, key_file = %ours, published = %stored,
                "the key file is of an earlier epoch than what was published: bring it up to date"
            );
        }
        if stored > ours || self.config.publisher.is_none() {
            self.config.library.set_epoch(stored);
        }
    }

    /// Watches what stands at the path now. A watch is of directories, not of paths, and ends with them without a word:
    /// one that was removed and is back, or a file system that was mounted anew. So each scan begins with a new one, and
    /// sees what changed before.
    fn renew_watch(&mut self) {
        if !self.config.watch {
            return;
        }
        // First the old one: the system grants so many watches in all.
        self.watch = None;
        match self.begin_watch() {
            Ok(watch) => (self.watch, self.unwatched) = (Some(watch), false),
            Err(error) => {
                if !std::mem::replace(&mut self.unwatched, true) {
                    tracing::warn!(
                        directory = %self.config.library.config().root.display(), %error,
                        "changes are not watched for, only found by the scans on a period or a command"
                    );
                }
            }
        }
    }

    fn begin_watch(&self) -> notify::Result<notify::RecommendedWatcher> {
        let root = &self.config.library.config().root;
        let touch = self.touch.clone();
        let heard = move |event: notify::Result<notify::Event>| {
            // That we read the files ourselves is no news. A queue that overflowed may have hidden some.
            let is_news = event.map_or(true, |event| {
                event.need_rescan() || event.kind.is_create() || event.kind.is_modify() || event.kind.is_remove()
            });
            if is_news {
                // Full: the scanner knows already.
                _ = touch.try_send(());
            }
        };
        let mut watch = notify::recommended_watcher(heard)?;
        watch.watch(root, RecursiveMode::Recursive)?;
        Ok(watch)
    }

    fn refuse_emptied(&self, manifest: &Manifest) -> Result<(), RunError> {
        let entries = self.previous.as_ref().map_or(0, |previous| previous.manifest.entries().len());
        if entries > 0 && manifest.entries().is_empty() {
            let directory = self.config.library.config().root.clone();
            return Err(RunError::Emptied { channel: self.config.name.clone(), directory, entries });
        }
        Ok(())
    }

    fn publish(&mut self, manifest: &Arc<Manifest>) -> Result<Published, RunError> {
        let channel = || self.config.name.clone();
        let Some(key) = &self.config.publisher else {
            let directory = self.config.library.config().root.clone();
            return Err(RunError::MayNotPublish { channel: channel(), directory });
        };
        let encoded = manifest::encode(manifest, key)
            .map_err(|error| RunError::Manifest { channel: channel(), reason: error.to_string() })?;
        let published = Published::new(Arc::clone(manifest), encoded);
        self.manifests.save(&published)?;
        let head = manifest.head();
        self.config.state.record_published(head.channel, head.generation, published.reference.hash)?;
        self.previous = Some(Previous { manifest: Arc::clone(manifest), root_hash: published.reference.hash });
        self.stored = Some(published.clone());
        Ok(published)
    }

    fn troubles(&mut self, problems: Vec<Problem>) -> Vec<(Trouble, Kind)> {
        let found: Vec<_> = problems.iter().map(trouble).collect();
        let new: Vec<_> = found.iter().filter(|(trouble, _)| !self.logged.contains(trouble)).collect();
        for (trouble, _) in new.iter().take(LOGGED_MAX) {
            tracing::warn!(channel = self.config.name, "{}", trouble.line);
        }
        if let Some(more) = new.len().checked_sub(LOGGED_MAX).filter(|more| *more > 0) {
            tracing::warn!(channel = self.config.name, "and {more} more");
        }
        self.logged = found.iter().map(|(trouble, _)| trouble.clone()).collect();
        found
    }
}

fn trouble(problem: &Problem) -> (Trouble, Kind) {
    let (is_failure, kind) = match problem.what {
        ProblemKind::Changed => (true, Kind::Changing),
        // What is no file cannot be sent by anybody.
        ProblemKind::SpecialFile | ProblemKind::Reserved => (false, Kind::Lasting),
        ProblemKind::Vanished
        | ProblemKind::Unreadable(_)
        | ProblemKind::Path(_)
        | ProblemKind::TooLarge(_)
        | ProblemKind::Clash => (true, Kind::Lasting),
    };
    (Trouble { line: problem.to_string(), is_failure }, kind)
}

#[cfg(test)]
mod tests;
