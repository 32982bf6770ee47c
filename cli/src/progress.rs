//! Shows a node's progress: bars where stderr is a terminal, else at most one plain line per channel in 5 s, or JSON
//! lines on stdout for programs.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use nackcast_common::report::{ChannelProgress, Progress};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::args::{ReportArgs, Verbosity};
use crate::logging::Terminal;
use crate::output::{Reader, print_event};
use crate::report::{Event, progress_line};

const BAR_REFRESH: Duration = Duration::from_millis(250);
const LINE_INTERVAL: Duration = Duration::from_secs(5);
const JSON_INTERVAL: Duration = Duration::from_secs(1);

/// How progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Not at all.
    Silent,
    /// Bars on the terminal.
    Bars,
    /// Plain lines on stderr.
    Lines,
    /// JSON on stdout.
    Json,
}

impl Mode {
    /// What fits the options and stderr.
    pub(crate) fn choose(verbosity: Verbosity, report: ReportArgs) -> Self {
        if report.progress_json {
            Self::Json
        } else if verbosity.quiet {
            Self::Silent
        } else if std::io::stderr().is_terminal() {
            Self::Bars
        } else {
            Self::Lines
        }
    }
}

/// A running display.
#[derive(Debug)]
pub(crate) struct Display {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Display {
    /// Starts to show what arrives. Call inside a runtime. A program that reads JSON started the node for itself:
    /// when it is gone, `shutdown` is cancelled.
    pub(crate) fn start(
        mode: Mode,
        terminal: Terminal,
        progress: watch::Receiver<Progress>,
        shutdown: CancellationToken,
    ) -> Self {
        let stop = CancellationToken::new();
        let until = stop.clone();
        let task = tokio::spawn(async move {
            match mode {
                Mode::Silent => {}
                Mode::Bars => show(&until, BAR_REFRESH, progress, Bars { terminal, bars: Vec::new() }).await,
                Mode::Lines => show(&until, LINE_INTERVAL, progress, Lines { terminal, last: Vec::new() }).await,
                Mode::Json => show(&until, JSON_INTERVAL, progress, Json { shutdown }).await,
            }
        });
        Self { stop, task }
    }

    /// Shows the last state and ends.
    pub(crate) async fn finish(self) {
        self.stop.cancel();
        if let Err(error) = self.task.await {
            tracing::error!("the progress display failed: {error}");
        }
    }
}

/// One way to show progress.
trait Show {
    fn update(&mut self, progress: &Progress);
    fn end(&mut self) {}
}

/// Shows the newest state at every tick, and once more at the end.
async fn show(until: &CancellationToken, every: Duration, progress: watch::Receiver<Progress>, mut shown: impl Show) {
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while until.run_until_cancelled(ticks.tick()).await.is_some() {
        let now = progress.borrow().clone();
        shown.update(&now);
    }
    let last = progress.borrow().clone();
    shown.update(&last);
    shown.end();
}

struct Bars {
    terminal: Terminal,
    bars: Vec<ProgressBar>,
}

impl Show for Bars {
    fn update(&mut self, progress: &Progress) {
        while self.bars.len() < progress.channels.len() {
            self.bars.push(self.terminal.0.add(new_bar()));
        }
        for (bar, channel) in self.bars.iter().zip(&progress.channels) {
            show_on_bar(bar, channel);
        }
    }

    fn end(&mut self) {
        self.bars.iter().for_each(ProgressBar::abandon); // the last state stays on the screen
    }
}

/// A bar as all of ours look.
pub(crate) fn new_bar() -> ProgressBar {
    let template = "{prefix:>12.bold} {bar:24.cyan/blue} {wide_msg}";
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(0).with_style(style.progress_chars("=> "))
}

/// Moves a bar to where the channel is.
pub(crate) fn show_on_bar(bar: &ProgressBar, channel: &ChannelProgress) {
    bar.set_length(channel.bytes.max(1));
    bar.set_position(channel.bytes_done);
    bar.set_prefix(channel.name.clone());
    bar.set_message(progress_line(channel));
}

struct Lines {
    terminal: Terminal,
    last: Vec<ChannelProgress>,
}

impl Show for Lines {
    fn update(&mut self, progress: &Progress) {
        for (index, channel) in progress.channels.iter().enumerate() {
            if self.last.get(index).is_none_or(|last| is_news(last, channel)) {
                self.terminal.line(&format!("{}: {}", channel.name, progress_line(channel)));
            }
        }
        self.last.clone_from(&progress.channels);
    }
}

/// Of a channel at rest nothing is told again because a counter moved.
fn is_news(last: &ChannelProgress, row: &ChannelProgress) -> bool {
    let told = |row: &ChannelProgress| {
        let counts = [row.generation, row.objects_done, row.bytes_done, row.receivers, row.receivers_complete];
        (row.state.clone(), row.note.clone(), counts)
    };
    let is_at_rest = ["complete", "idle", "standby"].contains(&row.state.as_str());
    if is_at_rest { told(last) != told(row) } else { last != row }
}

struct Json {
    shutdown: CancellationToken,
}

impl Show for Json {
    fn update(&mut self, progress: &Progress) {
        if let Ok(Reader::Gone) = print_event(&Event::Progress(progress)) {
            self.shutdown.cancel();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Seen(std::sync::Arc<std::sync::Mutex<Vec<u64>>>);

    impl Show for Seen {
        fn update(&mut self, progress: &Progress) {
            self.0.lock().unwrap().push(progress.channels[0].bytes_done);
        }
    }

    #[test]
    fn a_channel_at_rest_is_told_once() {
        let row = |state: &str, wire_bytes, generation| ChannelProgress {
            state: state.to_owned(),
            wire_bytes,
            generation,
            ..ChannelProgress::default()
        };
        let last = row("complete", 7, 1);
        assert!(!is_news(&last, &row("complete", 8, 1)));
        assert!(is_news(&last, &row("complete", 8, 2)) && is_news(&last, &row("receiving", 7, 1)));
        assert!(is_news(&row("receiving", 7, 1), &row("receiving", 8, 1)));
    }

    #[tokio::test]
    async fn the_last_state_is_shown() {
        let at = |bytes_done| Progress { channels: vec![ChannelProgress { bytes_done, ..Default::default() }] };
        let (sender, receiver) = watch::channel(at(0));
        let (seen, stop) = (Seen::default(), CancellationToken::new());
        let list = std::sync::Arc::clone(&seen.0);
        let until = stop.clone();
        let task = tokio::spawn(async move { show(&until, LINE_INTERVAL, receiver, seen).await });
        tokio::task::yield_now().await;
        sender.send_replace(at(7));
        stop.cancel();
        task.await.unwrap();
        assert_eq!(list.lock().unwrap().last(), Some(&7));
    }
}
