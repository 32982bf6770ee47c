//! `--on-complete CMD`: a command for each generation that is installed and verified, once.
//!
//! - Generations that become complete while a command runs wait for their turn, [`DUE_MAX`] at most: then the oldest
//!   goes without, and that is logged.
//! - What was run is kept in the state directory, so that a restart does not run it again.
//! - A command that fails is logged and not repeated.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::Stdio;

use nackcast_common::report::Progress;
use tokio::process::Command;
use tokio::sync::watch;

use crate::places::{Node, NodeChannel};

const FILE: &str = "on-complete.json";
/// What a receiver says of a channel that is whole.
const COMPLETE: &str = "complete";
/// Generations that wait for their turn.
const DUE_MAX: usize = 64;
/// Generations of a channel that are remembered to have had their turn: more than one report names.
const SEEN_MAX: usize = 64;

/// Runs commands.
#[derive(Debug)]
pub(super) struct Hook {
    command: String,
    node: Node,
    file: PathBuf,
    /// The last generation that a command was run for, by channel id.
    done: BTreeMap<String, u64>,
    /// Those that had their turn or wait for it, by channel id.
    seen: BTreeMap<String, VecDeque<u64>>,
    due: VecDeque<(NodeChannel, u64)>,
}

impl Hook {
    pub(super) fn new(command: String, state: &Path, node: &Node) -> Self {
        let file = state.join(FILE);
        let done: BTreeMap<String, u64> =
            std::fs::read(&file).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
        let seen = done.iter().map(|(channel, generation)| (channel.clone(), VecDeque::from([*generation]))).collect();
        Self { command, node: node.clone(), file, done, seen, due: VecDeque::new() }
    }

    /// Runs what is due, until the node ends and nothing is.
    pub(super) async fn watch(mut self, mut progress: watch::Receiver<Progress>) {
        let mut is_over = false;
        loop {
            // The last report may be that all is there.
            self.note(&progress.borrow_and_update().clone());
            let Some((channel, generation)) = self.due.pop_front() else {
                if is_over {
                    return;
                }
                is_over = progress.changed().await.is_err();
                continue;
            };
            self.done.insert(channel.channel.clone(), generation);
            self.keep();
            let mut running = pin!(run(self.command.clone(), channel, generation));
            loop {
                tokio::select! {
                    () = &mut running => break,
                    changed = progress.changed(), if !is_over => {
                        is_over = changed.is_err();
                        self.note(&progress.borrow_and_update().clone());
                    }
                }
            }
        }
    }

    /// What became complete waits for its turn.
    fn note(&mut self, progress: &Progress) {
        for (channel, row) in self.node.channels.iter().zip(&progress.channels) {
            let seen = self.seen.entry(channel.channel.clone()).or_default();
            let now = (row.state == COMPLETE).then_some(row.generation);
            for generation in row.completed.iter().copied().chain(now) {
                if generation == 0 || seen.contains(&generation) {
                    continue;
                }
                seen.push_back(generation);
                if seen.len() > SEEN_MAX {
                    seen.pop_front();
                }
                self.due.push_back((channel.clone(), generation));
            }
        }
        while self.due.len() > DUE_MAX {
            let Some((channel, generation)) = self.due.pop_front() else { return };
            tracing::warn!(
                "{}: --on-complete is too slow: it is not run for generation {generation}, since {DUE_MAX} later ones \
                 wait",
                channel.name
            );
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

async fn run(text: String, channel: NodeChannel, generation: u64) {
    let mut command = Command::new("/bin/sh");
    command.arg("-c").arg(text).stdin(Stdio::null()).stdout(Stdio::null()).kill_on_drop(true);
    command.env("NACKCAST_CHANNEL", &channel.name).env("NACKCAST_DIRECTORY", &channel.directory);
    command.env("NACKCAST_GENERATION", generation.to_string()).env_remove("NACKCAST_TICKET");
    match command.status().await {
        Ok(status) if status.success() => tracing::debug!("{}: --on-complete is done", channel.name),
        Ok(status) => tracing::warn!("{}: --on-complete ended with {status}", channel.name),
        Err(error) => tracing::warn!("{}: --on-complete cannot be run: {error}", channel.name),
    }
}

#[cfg(test)]
mod tests {
    use nackcast_common::report::ChannelProgress;

    use super::*;
    use crate::places::NodeRole;

    fn hook(state: &Path, command: &str) -> Hook {
        let channel = NodeChannel { channel: "00ff".into(), name: "news".into(), directory: "/srv".into() };
        Hook::new(command.to_owned(), state, &Node { role: NodeRole::Receive, channels: vec![channel] })
    }

    fn report(state: &str, generation: u64, completed: &[u64]) -> Progress {
        let (state, completed) = (state.to_owned(), completed.to_vec());
        Progress { channels: vec![ChannelProgress { state, generation, completed, ..ChannelProgress::default() }] }
    }

    #[tokio::test]
    async fn what_becomes_complete_while_a_command_runs_has_its_turn() {
        let home = tempfile::tempdir().unwrap();
        let (log, go) = (home.path().join("log"), home.path().join("go"));
        let command = format!(
            "echo $NACKCAST_GENERATION >> {log}; while ! [ -e {go} ]; do sleep 0.05; done",
            log = log.display(),
            go = go.display()
        );
        let (tell, progress) = watch::channel(report("complete", 1, &[]));
        let watching = tokio::spawn(hook(home.path(), &command).watch(progress));
        while !log.exists() {
            tokio::task::yield_now().await;
        }
        // The second one is complete between two reports, the third in one, and is healed afterwards.
        for report in [report("receiving", 3, &[1, 2]), report("complete", 3, &[1, 2, 3]), report("receiving", 3, &[])]
        {
            tell.send_replace(report);
            tokio::task::yield_now().await;
        }
        std::fs::write(&go, "").unwrap();
        tell.send_replace(report("complete", 3, &[1, 2, 3]));
        drop(tell);
        watching.await.unwrap();
        assert_eq!(std::fs::read_to_string(&log).unwrap(), "1\n2\n3\n");
        // Nor does a restart run it again.
        let (_, progress) = watch::channel(report("complete", 3, &[3]));
        hook(home.path(), &command).watch(progress).await;
        assert_eq!(std::fs::read_to_string(&log).unwrap(), "1\n2\n3\n");
    }

    #[test]
    fn what_waits_is_bounded_and_the_last_ones_stay() {
        let home = tempfile::tempdir().unwrap();
        let mut hook = hook(home.path(), "true");
        for generation in 1..=DUE_MAX as u64 + 10 {
            hook.note(&report("complete", generation, &[]));
        }
        assert_eq!(hook.due.len(), DUE_MAX);
        assert_eq!(hook.due.back().map(|(_, generation)| *generation), Some(DUE_MAX as u64 + 10));
    }
}
