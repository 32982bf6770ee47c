//! `--on-complete CMD`: a command for each generation that is installed and verified, once.
//!
//! What was run is kept in the state directory, so that a restart does not run it again. A command that fails is
//! logged and not repeated. Generations that follow each other while a command runs are one: the last counts.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use nackcast_common::report::Progress;
use tokio::process::Command;
use tokio::sync::watch;

use crate::places::Node;

const FILE: &str = "on-complete.json";
/// What a receiver says of a channel that is whole.
const COMPLETE: &str = "complete";

/// Runs commands.
#[derive(Debug)]
pub(super) struct Hook {
    command: String,
    node: Node,
    file: PathBuf,
    /// Generations that a command was run for, by channel id.
    done: BTreeMap<String, u64>,
}

impl Hook {
    pub(super) fn new(command: String, state: &Path, node: &Node) -> Self {
        let file = state.join(FILE);
        let done = std::fs::read(&file).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
        Self { command, node: node.clone(), file, done }
    }

    /// Runs what is due, until the node ends.
    pub(super) async fn watch(mut self, mut progress: watch::Receiver<Progress>) {
        loop {
            let now = progress.borrow_and_update().clone();
            self.run(&now).await;
            if progress.changed().await.is_err() {
                // The last report may be that all is there.
                let last = progress.borrow().clone();
                return self.run(&last).await;
            }
        }
    }

    async fn run(&mut self, progress: &Progress) {
        for (channel, row) in self.node.channels.clone().iter().zip(&progress.channels) {
            let is_new = row.generation > 0 && self.done.get(&channel.channel) != Some(&row.generation);
            if row.state != COMPLETE || !is_new {
                continue;
            }
            self.done.insert(channel.channel.clone(), row.generation);
            self.keep();
            let mut command = Command::new("/bin/sh");
            command.arg("-c").arg(&self.command).stdin(Stdio::null()).stdout(Stdio::null()).kill_on_drop(true);
            command.env("NACKCAST_CHANNEL", &channel.name).env("NACKCAST_DIRECTORY", &channel.directory);
            command.env("NACKCAST_GENERATION", row.generation.to_string()).env_remove("NACKCAST_TICKET");
            match command.status().await {
                Ok(status) if status.success() => tracing::debug!("{}: --on-complete is done", channel.name),
                Ok(status) => tracing::warn!("{}: --on-complete ended with {status}", channel.name),
                Err(error) => tracing::warn!("{}: --on-complete cannot be run: {error}", channel.name),
            }
        }
    }

    fn keep(&self) {
        let new = self.file.with_extension("new");
        let kept = serde_json::to_vec(&self.done).map_err(std::io::Error::from);
        let kept = kept.and_then(|text| std::fs::write(&new, text)).and_then(|()| std::fs::rename(&new, &self.file));
        if let Err(error) = kept {
            tracing::warn!("{}: after a restart --on-complete runs again: {error}", self.file.display());
        }
    }
}
