//! Log lines on stderr, plain, and never across the progress display.

use std::io::{self, IsTerminal, Write};

use indicatif::MultiProgress;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::args::Verbosity;

/// The process's stderr, which log lines and progress bars share.
#[derive(Clone, Debug, Default)]
pub(crate) struct Terminal(pub(crate) MultiProgress);

impl Terminal {
    /// Writes above the bars.
    pub(crate) fn write(&self, bytes: &[u8]) {
        // A closed stderr is no reason to stop a transfer.
        self.0.suspend(|| drop(io::stderr().lock().write_all(bytes)));
    }

    /// Writes one line above the bars.
    pub(crate) fn line(&self, text: &str) {
        self.write(format!("{text}\n").as_bytes());
    }
}

/// Collects one event's bytes, so that it is written at once.
#[derive(Debug)]
pub(crate) struct Line {
    terminal: Terminal,
    bytes: Vec<u8>,
}

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.terminal.write(&self.bytes);
    }
}

impl<'a> MakeWriter<'a> for Terminal {
    type Writer = Line;

    fn make_writer(&'a self) -> Line {
        Line { terminal: self.clone(), bytes: Vec::new() }
    }
}

/// Starts logging. `RUST_LOG` counts more than the options.
pub(crate) fn init(verbosity: Verbosity, terminal: &Terminal) {
    let level = match verbosity {
        Verbosity { quiet: true, .. } => "error",
        Verbosity { verbose: 0, .. } => "warn,nackcast=info",
        Verbosity { verbose: 1, .. } => "info,nackcast=debug",
        Verbosity { .. } => "debug,nackcast=trace",
    };
    let filter = match std::env::var("RUST_LOG") {
        Ok(directives) if !directives.trim().is_empty() => EnvFilter::new(directives),
        _ => EnvFilter::new(level),
    };
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(terminal.clone())
        .with_ansi(io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none())
        .with_target(verbosity.verbose > 0)
        .init();
}
