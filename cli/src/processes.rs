//! Starts nodes as processes of this same program, follows the progress that they print, and collects how they ended.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use nackcast_common::clock::Clock;
use nackcast_common::report::{ChannelProgress, Progress};
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::ChildStdout;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::failure::{Failure, OrFail, one_line};
use crate::logging::Terminal;
use crate::progress::{Display, Mode};

/// When nothing moved for so long, nothing will.
const STALLED: Duration = Duration::from_secs(120);
const LOG_TAIL_LINES: usize = 3;

/// A process to start.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) name: String,
    pub(crate) command: std::process::Command,
    pub(crate) log: PathBuf,
}

/// How a process ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) name: String,
    pub(crate) success: bool,
    /// From the start of all to its end.
    pub(crate) time: Duration,
    /// Its `--json` summary.
    pub(crate) summary: Option<serde_json::Value>,
    pub(crate) last: ChannelProgress,
    pub(crate) log: PathBuf,
}

/// What a node prints on stdout.
#[derive(Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
enum Printed {
    Progress(Progress),
}

/// Runs all processes to their end, or to a signal, and shows their progress.
pub(crate) async fn run(
    plans: Vec<Plan>,
    mode: Mode,
    terminal: Terminal,
    clock: Clock,
    shutdown: CancellationToken,
) -> Result<Vec<Ended>, Failure> {
    let channels = plans.iter().map(|plan| ChannelProgress { name: plan.name.clone(), ..Default::default() });
    let (progress, shown) = watch::channel(Progress { channels: channels.collect() });
    let mut moved = shown.clone();
    let display = Display::start(mode, terminal, shown, shutdown.clone());
    let progress = Arc::new(progress);
    let (mut running, stop) = (JoinSet::new(), CancellationToken::new());
    for (index, plan) in plans.into_iter().enumerate() {
        let (name, log) = (plan.name.clone(), plan.log.clone());
        let node = follow(plan, index, Arc::clone(&progress), clock, stop.clone())?;
        running.spawn(async move { node.await.or_running(format_args!("{name}, see {}", log.display())) });
    }
    let mut ended = Vec::new();
    let result = loop {
        tokio::select! {
            joined = running.join_next() => match joined {
                None => break Ok(ended),
                Some(Err(error)) => break Err(error).or_running("a process cannot be followed"),
                Some(Ok(Err(failure))) => break Err(failure),
                // The others wait for it in vain, or have lost their sender.
                Some(Ok(Ok(node))) if !node.success && !running.is_empty() => {
                    let last = last_lines(&node.log, 1).pop();
                    let why = last.as_deref().map_or("it said nothing", |line| line.trim_start_matches("nackcast: "));
                    break Err(Failure::running(format_args!("{} failed: {why}", node.name)));
                }
                Some(Ok(Ok(node))) => ended.push(node),
            },
            moved = tokio::time::timeout(STALLED, moved.changed()) => if moved.is_err() {
                break Err(Failure::running(format_args!("nothing moved for {} s", STALLED.as_secs())));
            },
            () = shutdown.cancelled() => break Err(Failure::running("interrupted")),
        }
    };
    display.finish().await;
    // Of who is killed now nothing is left when this returns: what they write may be removed.
    stop.cancel();
    while running.join_next().await.is_some() {}
    let mut ended = result?;
    ended.sort_by(|a, b| a.name.len().cmp(&b.name.len()).then_with(|| a.name.cmp(&b.name)));
    Ok(ended)
}

/// Starts one process; the future follows it to its end, which is at once when `stop` is cancelled.
fn follow(
    plan: Plan,
    index: usize,
    progress: Arc<watch::Sender<Progress>>,
    clock: Clock,
    stop: CancellationToken,
) -> Result<impl Future<Output = std::io::Result<Ended>> + Send + 'static, Failure> {
    let Plan { name, command, log } = plan;
    let log_file = File::create(&log).or_running(log.display())?;
    let mut command = tokio::process::Command::from(command);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log_file).kill_on_drop(true);
    let started = clock.now();
    let mut child = command.spawn().or_running(format_args!("{name} cannot be started"))?;
    let stdout = child.stdout.take();
    Ok(async move {
        let summary = match stdout {
            Some(stdout) => {
                stop.run_until_cancelled(read(stdout, index, &name, &progress)).await.transpose()?.flatten()
            }
            None => None,
        };
        let status = match stop.run_until_cancelled(child.wait()).await {
            Some(status) => status?,
            None => {
                child.kill().await?;
                child.wait().await?
            }
        };
        let time = clock.now().since(started);
        let last = progress.borrow().channels[index].clone();
        Ok(Ended { name, success: status.success(), time, summary, last, log })
    })
}

/// Takes progress as it comes; gives the summary, which comes last.
async fn read(
    stdout: ChildStdout,
    index: usize,
    name: &str,
    progress: &watch::Sender<Progress>,
) -> std::io::Result<Option<serde_json::Value>> {
    let mut lines = BufReader::new(stdout).lines();
    let mut summary = None;
    while let Some(line) = lines.next_line().await? {
        if let Ok(Printed::Progress(now)) = serde_json::from_str(&line) {
            if let Some(channel) = now.channels.into_iter().next() {
                let channel = ChannelProgress { name: name.to_owned(), ..channel };
                progress.send_if_modified(|all| {
                    let changed = all.channels[index] != channel;
                    all.channels[index] = channel;
                    changed
                });
            }
        } else {
            summary = serde_json::from_str(&line).ok();
        }
    }
    Ok(summary)
}

/// The last lines of every log, to be read when something went wrong.
pub(crate) fn log_tails(root: &Path) -> String {
    let mut text = String::new();
    let entries = std::fs::read_dir(root).into_iter().flatten().filter_map(Result::ok);
    let mut logs: Vec<PathBuf> =
        entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|end| end == "log")).collect();
    logs.sort();
    for log in logs {
        let name = log.file_stem().unwrap_or_default().to_string_lossy();
        for line in last_lines(&log, LOG_TAIL_LINES) {
            text.push_str(&format!("{name}: {line}\n"));
        }
    }
    text.trim_end().to_owned()
}

fn last_lines(log: &Path, count: usize) -> Vec<String> {
    let bytes = std::fs::read(log).unwrap_or_default();
    let mut lines: Vec<String> = String::from_utf8_lossy(&bytes).lines().map(one_line).collect();
    lines.split_off(lines.len().saturating_sub(count))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Event;

    #[test]
    fn what_a_node_prints_is_what_is_read() {
        let progress = Progress { channels: vec![ChannelProgress { bytes: 7, ..Default::default() }] };
        let line = serde_json::to_string(&Event::Progress(&progress)).unwrap();
        let Printed::Progress(read) = serde_json::from_str(&line).unwrap();
        assert_eq!(read, progress);
        assert!(serde_json::from_str::<Printed>(r#"{"success":true,"channels":[]}"#).is_err());
    }

    #[tokio::test]
    async fn a_node_that_fails_is_named_with_its_last_words() {
        let place = tempfile::tempdir().unwrap();
        let shell = |name: &str, script: &str| {
            let mut command = std::process::Command::new("sh");
            command.args(["-c", script]);
            Plan { name: name.to_owned(), command, log: place.path().join(format!("{name}.log")) }
        };
        let plans = vec![shell("a", "echo one >&2; echo two >&2; exit 3"), shell("b", "exec sleep 60")];
        let failure =
            run(plans, Mode::Silent, Terminal::default(), Clock::start(), CancellationToken::new()).await.unwrap_err();
        assert_eq!(failure.line().as_deref(), Some("a failed: two"));
    }

    #[tokio::test]
    async fn the_summary_is_taken_even_when_the_last_one_fails() {
        let place = tempfile::tempdir().unwrap();
        let plan = |name: &str, script: &str| {
            let mut command = std::process::Command::new("sh");
            command.args(["-c", script]).current_dir(place.path());
            Plan { name: name.to_owned(), command, log: place.path().join(format!("{name}.log")) }
        };
        let first = plan("a", r#"echo '{"success":true}'; echo done >&2"#);
        let last = plan("b", "until grep -q done a.log; do sleep 0.05; done; sleep 1; exit 1");
        let ended = run(vec![first, last], Mode::Silent, Terminal::default(), Clock::start(), CancellationToken::new())
            .await
            .unwrap();
        assert_eq!(ended[0].summary, Some(serde_json::json!({"success": true})));
        assert_eq!((ended[0].success, ended[1].success), (true, false));
    }
}
