//! The content of a backup over time: it follows the manifest of a receiver on the same node, and never publishes.
//!
//! - The receiver keeps its signed manifest and the hash lists in its state, and installs into the directory that is
//!   served here. Both are only read, and verified like what comes from the network.
//! - What is not installed yet is told as lacking, and looked for again; so is a directory that cannot be read.
//! - It speaks to the driver as the [scanner](crate::scanner) does.

use std::path::PathBuf;
use std::time::Duration;

use nackcast_common::control::{Reply, Scan};
use nackcast_common::ids::{ChannelId, Digest, ObjectId};
use nackcast_common::keys::VerifyingKey;
use tokio::time::Instant;

use crate::error::RunError;
use crate::library::{Held, held};
use crate::node::Trouble;
use crate::publish::{ManifestStore, Published};
use crate::scanner::{Request, Scanned, ScannerPorts};

/// Between two looks at the receiver's manifest.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Between two looks for what was lacking, or could not be read.
const LACKS_EVERY: Duration = Duration::from_secs(2);

/// What a follower works with.
#[derive(Debug)]
pub(crate) struct FollowerConfig {
    pub(crate) name: String,
    pub(crate) channel: ChannelId,
    pub(crate) publisher_key: VerifyingKey,
    /// What is served.
    pub(crate) directory: PathBuf,
    /// The receiver's state of this channel.
    pub(crate) state: PathBuf,
}

/// Follows as long as the driver listens.
pub(crate) async fn run(config: FollowerConfig, mut ports: ScannerPorts) -> Result<(), RunError> {
    let mut follower = Follower { config, followed: None, lacks: Vec::new(), complaint: None };
    let (mut answers, mut replies) = (0, Vec::<Reply<Scan>>::new());
    let (mut look_all, mut looked_at) = (true, Instant::now());
    loop {
        let is_short = !follower.lacks.is_empty() || follower.complaint.is_some();
        let is_due = look_all || (is_short && looked_at.elapsed() >= LACKS_EVERY);
        let work = move || {
            let looked = follower.look(is_due);
            (follower, looked)
        };
        let looked;
        (follower, looked) =
            tokio::task::spawn_blocking(work).await.map_err(|error| RunError::Broken(error.to_string()))?;
        if is_due {
            looked_at = Instant::now();
        }
        let generation = follower.followed.as_ref().map_or(0, |(_, p)| p.manifest.head().generation.0);
        for reply in replies.drain(..) {
            // Whoever asked may have gone away.
            drop(reply.send(Ok(Scan { generation, changed: looked.is_some(), ..Scan::default() })));
        }
        look_all = false;
        if let Some(Looked { published, held }) = looked {
            let scanned = Scanned {
                content: Some(held.content),
                published: Some((published, false)),
                problems: Vec::new(),
                answers,
                lacks: held.lacks,
            };
            if ports.scanned.send(scanned).await.is_err() {
                return Ok(());
            }
        } else if is_due && follower.complaint.is_some() {
            let line = follower.complaint.clone().unwrap_or_default();
            let problems = vec![Trouble { line, is_failure: true }];
            let scanned = Scanned { content: None, published: None, problems, answers, lacks: Vec::new() };
            if ports.scanned.send(scanned).await.is_err() {
                return Ok(());
            }
        }
        tokio::select! {
            request = ports.requests.recv() => match request {
                Some(Request::Now { reply, allow_empty: _ }) => {
                    replies.extend(reply);
                    look_all = true;
                }
                // Its epoch is that of the manifest which it follows.
                Some(Request::Epoch { .. }) => {}
                Some(Request::Soon(number)) => {
                    answers = answers.max(number);
                    tokio::time::sleep(LOOK_EVERY).await;
                    look_all = true;
                }
                None => return Ok(()),
            },
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}

/// Something to serve, or to serve anew.
struct Looked {
    published: Published,
    held: Held,
}

#[derive(Debug)]
struct Follower {
    config: FollowerConfig,
    /// The manifest in force, by the hash of its root.
    followed: Option<(Digest, Published)>,
    lacks: Vec<ObjectId>,
    /// What was said last.
    complaint: Option<String>,
}

impl Follower {
    /// Looks whether there is another manifest and, if `all`, what of it is here.
    fn look(&mut self, all: bool) -> Option<Looked> {
        let manifests = ManifestStore::at(self.config.state.join("manifest"));
        let is_new = match manifests.current() {
            Ok(Some(hash)) => self.followed.as_ref().is_none_or(|(known, _)| *known != hash),
            Ok(None) => false,
            Err(error) => {
                self.complain(&error.to_string());
                false
            }
        };
        if is_new {
            match manifests.load(&self.config.publisher_key, self.config.channel) {
                Ok(Some(published)) => self.followed = Some((published.reference.hash, published)),
                Ok(None) => return None,
                // The receiver may be putting another one in force just now.
                Err(error) => {
                    tracing::debug!(channel = self.config.name, %error, "the receiver's manifest cannot be read now");
                    return None;
                }
            }
        } else if !all {
            return None;
        }
        let (_, published) = self.followed.as_ref()?;
        let lists = self.config.state.join("chaining");
        let held =
            held(&self.config.directory, &published.manifest, |id| std::fs::read(lists.join(id.to_string())).ok());
        match held {
            Ok(held) => {
                self.complaint = None;
                tracing::debug!(
                    channel = self.config.name, generation = %published.manifest.head().generation,
                    objects = published.manifest.objects().len(), lacks = held.lacks.len(), "held"
                );
                self.lacks.clone_from(&held.lacks);
                Some(Looked { published: published.clone(), held })
            }
            Err(error) => {
                let directory = self.config.directory.display();
                self.complain(&format!("cannot read directory {directory}: {error}"));
                None
            }
        }
    }

    fn complain(&mut self, line: &str) {
        if self.complaint.as_deref() != Some(line) {
            tracing::warn!(channel = self.config.name, "{line}");
            self.complaint = Some(line.to_owned());
        }
    }
}
