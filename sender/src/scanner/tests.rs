//! The scanner alone: what it publishes, and when.

use std::fs;

use globset::GlobSet;
use nackcast_common::geometry::Geometry;
use nackcast_common::ids::ChannelId;
use tempfile::TempDir;

use super::*;
use crate::library::LibraryConfig;

const CHANNEL: ChannelId = ChannelId([6; 16]);

/// A scanner that runs, and its other ends.
struct Bench {
    place: TempDir,
    key: SigningKey,
    requests: mpsc::Sender<Request>,
    scanned: mpsc::Receiver<Scanned>,
    task: tokio::task::JoinHandle<Result<(), RunError>>,
}

impl Bench {
    fn new(watch: bool) -> Self {
        let place = TempDir::new().unwrap();
        fs::create_dir(place.path().join("content")).unwrap();
        fs::write(place.path().join("content/first"), "first").unwrap();
        Self::start(place, SigningKey::generate(), watch)
    }

    fn start(place: TempDir, key: SigningKey, watch: bool) -> Self {
        let state = NodeState::open(&place.path().join("state"), &[(CHANNEL, "news")]).unwrap();
        let library = Library::open(LibraryConfig {
            root: place.path().join("content"),
            exclude: GlobSet::empty(),
            priorities: Vec::new(),
            geometry: Geometry::default(),
            cache: place.path().join("state/cache"),
            channel: CHANNEL,
            epoch: Epoch(1),
        });
        let config = ScannerConfig {
            name: "news".to_owned(),
            library: library.unwrap(),
            state,
            publisher: Some(key.clone()),
            publisher_key: key.verifying_key(),
            rescan: Duration::ZERO,
            watch,
        };
        let (requests, requested) = mpsc::channel(4);
        let (scanned_sender, scanned) = mpsc::channel(4);
        let ports = ScannerPorts { requests: requested, scanned: scanned_sender, progress: watch::channel(None).0 };
        let task = tokio::spawn(run(config, ports));
        Self { place, key, requests, scanned, task }
    }

    async fn next(&mut self) -> Scanned {
        tokio::time::timeout(Duration::from_secs(20), self.scanned.recv()).await.unwrap().unwrap()
    }

    async fn ask(&self) -> Scan {
        let (reply, answer) = oneshot::channel();
        self.requests.send(Request::Now { allow_empty: false, reply: Some(reply) }).await.unwrap();
        tokio::time::timeout(Duration::from_secs(20), answer).await.unwrap().unwrap().unwrap()
    }

    /// Ends it, as the end of a node does, and begins anew in the same place.
    async fn restart(self) -> Self {
        let Self { place, key, requests, scanned, task } = self;
        drop((requests, scanned));
        task.await.unwrap().unwrap();
        Self::start(place, key, false)
    }
}

#[tokio::test]
async fn what_is_published_survives_a_restart_and_is_then_not_fresh() {
    let mut bench = Bench::new(false);
    let (first, fresh) = bench.next().await.published.unwrap();
    assert!(fresh);
    let mut bench = bench.restart().await;
    let (again, fresh) = bench.next().await.published.unwrap();
    assert!(!fresh);
    assert_eq!(again.reference, first.reference);
    fs::write(bench.place.path().join("content/second"), "second").unwrap();
    let outcome = bench.ask().await;
    assert!(outcome.changed && outcome.generation > first.manifest.head().generation.0);
    let (second, fresh) = bench.next().await.published.unwrap();
    assert!(fresh);
    assert_eq!(second.manifest.head().parent, Some(first.reference.hash));
}

#[tokio::test]
async fn a_publisher_that_lost_its_state_begins_above_what_receivers_hold() {
    let mut bench = Bench::new(false);
    let (first, _) = bench.next().await.published.unwrap();
    fs::write(bench.place.path().join("content/second"), "second").unwrap();
    bench.ask().await;
    let (second, _) = bench.next().await.published.unwrap();
    assert!(second.manifest.head().generation > first.manifest.head().generation);
    let Bench { place, key, requests, scanned, task } = bench;
    drop((requests, scanned));
    task.await.unwrap().unwrap();
    fs::remove_dir_all(place.path().join("state")).unwrap();
    let mut bench = Bench::start(place, key, false);
    let (again, fresh) = bench.next().await.published.unwrap();
    assert!(fresh && again.manifest.head().generation > second.manifest.head().generation);
}

#[tokio::test]
async fn an_unchanged_directory_publishes_nothing_and_a_lost_one_stays_as_it_was() {
    let mut bench = Bench::new(false);
    let generation = bench.next().await.published.unwrap().0.manifest.head().generation.0;
    let outcome = bench.ask().await;
    assert_eq!((outcome.generation, outcome.changed), (generation, false));
    let scanned = bench.next().await;
    assert!(scanned.published.is_none() && scanned.content.is_some());
    // Nothing is there, as when a file system is not mounted.
    fs::remove_file(bench.place.path().join("content/first")).unwrap();
    let outcome = bench.ask().await;
    assert_eq!((outcome.generation, outcome.changed, outcome.problems.len()), (generation, false, 1));
    assert!(bench.next().await.content.is_none());
    fs::remove_dir(bench.place.path().join("content")).unwrap();
    assert!(bench.ask().await.problems[0].contains("cannot read directory"));
    assert!(bench.next().await.content.is_none());
    fs::create_dir(bench.place.path().join("content")).unwrap();
    fs::write(bench.place.path().join("content/back"), "back").unwrap();
    assert!(bench.ask().await.generation > generation);
}

#[tokio::test]
async fn a_change_is_noticed_by_the_watch_and_reading_is_none() {
    let mut bench = Bench::new(true);
    bench.next().await;
    fs::read(bench.place.path().join("content/first")).unwrap();
    let quiet = tokio::time::timeout(QUIET * 3, bench.scanned.recv()).await;
    assert!(quiet.is_err(), "reading a file is no change: {quiet:?}");
    for part in 0..5 {
        fs::write(bench.place.path().join("content/new"), vec![b'x'; part]).unwrap();
        tokio::time::sleep(QUIET / 4).await;
    }
    let (published, _) = bench.next().await.published.unwrap();
    assert_eq!(published.manifest.entries().len(), 2, "one scan when it is quiet");
}

#[tokio::test]
async fn a_bad_block_asks_for_a_scan_and_hears_that_it_was_made() {
    let mut bench = Bench::new(false);
    bench.next().await;
    for number in 1..=3 {
        bench.requests.send(Request::Soon(number)).await.unwrap();
    }
    let scanned = bench.next().await;
    assert_eq!(scanned.answers, 3);
    assert!(scanned.content.is_some() && scanned.published.is_none());
}

#[tokio::test]
async fn a_first_scan_that_gives_nothing_to_serve_ends_it() {
    let mut bench = Bench::new(false);
    bench.next().await;
    fs::remove_file(bench.place.path().join("content/first")).unwrap();
    let bench = bench.restart().await;
    let error = bench.task.await.unwrap().unwrap_err();
    assert!(error.is_usage() && error.to_string().contains("is it mounted"), "{error}");
}

#[tokio::test]
async fn a_directory_that_is_back_is_scanned_without_being_asked() {
    let mut bench = Bench::new(false);
    bench.next().await;
    let [content, away] = ["content", "away"].map(|name| bench.place.path().join(name));
    fs::rename(&content, &away).unwrap();
    assert!(bench.ask().await.problems[0].contains("cannot read directory"));
    assert!(bench.next().await.content.is_none());
    fs::rename(&away, &content).unwrap();
    while bench.next().await.content.is_none() {}
}

#[tokio::test]
async fn a_directory_that_is_back_is_watched_again() {
    let mut bench = Bench::new(true);
    bench.next().await;
    let content = bench.place.path().join("content");
    fs::remove_dir_all(&content).unwrap();
    while bench.next().await.content.is_some() {}
    fs::create_dir(&content).unwrap();
    fs::write(content.join("back"), "back").unwrap();
    // By itself, or by trying again.
    while bench.next().await.content.is_none() {}
    // What asked for that scan may ask for one more.
    while tokio::time::timeout(QUIET * 3, bench.scanned.recv()).await.is_ok() {}
    fs::write(content.join("new"), "new").unwrap();
    let (published, _) = bench.next().await.published.unwrap();
    assert_eq!(published.manifest.entries().len(), 2);
}
