//! Real programs on the hosts of a network: started, watched, signalled and always cleaned up.
//!
//! - Output goes to files, one pair per start, that stay after the process; failures quote their ends.
//! - Dropping a [`Process`] kills it and what it started, and reaps it. Should this process die without a
//!   chance to do so, the kernel kills its children.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{Sender, SyncSender, channel, sync_channel};
use std::time::Duration;

use nackcast_common::clock::{Clock, Time};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
pub use nix::sys::signal::Signal;
use nix::sys::signal::killpg;
use nix::sys::time::TimeSpec;
use nix::unistd::Pid;

use crate::network::Host;
use crate::sys;

/// How often a log is looked at for a pattern.
const LOOK: Duration = Duration::from_millis(10);
/// How much of each log a failure quotes.
const TAIL_BYTES: usize = 4096;

/// What went wrong with a process.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// The program did not start.
    #[error("cannot start `{program}` as {name}: {source}")]
    Start {
        /// The process's name.
        name: String,
        /// What was to run.
        program: String,
        /// What the kernel answered.
        source: io::Error,
    },
    /// A log file could not be made.
    #[error("cannot make {path}: {source}")]
    Log {
        /// The file.
        path: PathBuf,
        /// What the kernel answered.
        source: io::Error,
    },
    /// A system call about the process failed.
    #[error("cannot {what} {name}: {source}")]
    Control {
        /// What was tried.
        what: &'static str,
        /// The process's name.
        name: String,
        /// What the kernel answered.
        source: io::Error,
    },
    /// It did not end in time.
    #[error("{name} still runs after {waited:?}\n{tail}")]
    StillRuns {
        /// The process's name.
        name: String,
        /// How long was waited.
        waited: Duration,
        /// The ends of its logs.
        tail: String,
    },
    /// It did not say what was expected.
    #[error("{name} did not say `{pattern}` on stderr within {waited:?}{ended}\n{tail}")]
    NotSaid {
        /// The process's name.
        name: String,
        /// What was expected.
        pattern: String,
        /// How long was waited.
        waited: Duration,
        /// How it ended, where it did.
        ended: String,
        /// The ends of its logs.
        tail: String,
    },
}

/// A running (or ended) program on a host.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    /// Becomes readable when the process ends.
    ended: OwnedFd,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl Process {
    /// Starts `program` on `host`; its output goes to `LOG_DIR/NAME.N.stdout` and `.stderr`, where N is the
    /// first number not taken: a program that is started again does not overwrite what it said before.
    pub fn spawn<A: AsRef<OsStr>>(
        host: &Host,
        name: &str,
        program: impl AsRef<OsStr>,
        args: impl IntoIterator<Item = A>,
        env: &[(&str, &str)],
        log_dir: &Path,
    ) -> Result<Self, ProcessError> {
        let (out_file, stdout, err_file, stderr) = open_logs(name, log_dir)?;
        let mut command = host.command(&program);
        command.args(args).envs(env.iter().copied());
        command.stdin(Stdio::null()).stdout(out_file).stderr(err_file).process_group(0);
        let failed = |source| {
            let program = program.as_ref().to_string_lossy().into_owned();
            ProcessError::Start { name: name.to_owned(), program, source }
        };
        let mut child = spawn_for_life(command).map_err(failed)?;
        let ended =
            rustix::process::pidfd_open(rustix::process::Pid::from_child(&child), rustix::process::PidfdFlags::empty());
        match ended {
            Ok(ended) => Ok(Self { name: name.to_owned(), child, ended, stdout, stderr }),
            Err(errno) => {
                // Without the descriptor nobody would look after it.
                let _killed = child.kill().and_then(|()| child.wait());
                Err(failed(errno.into()))
            }
        }
    }

    /// The name given to [`Self::spawn`].
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits until the process ends.
    pub fn wait(&mut self, timeout: Duration) -> Result<ExitStatus, ProcessError> {
        let clock = Clock::start();
        loop {
            if let Some(status) = self.try_wait()? {
                return Ok(status);
            }
            let left = timeout.saturating_sub(clock.now().since(Time::ZERO));
            if left.is_zero() {
                return Err(ProcessError::StillRuns { name: self.name.clone(), waited: timeout, tail: self.tail() });
            }
            self.wait_for_end(left)?;
        }
    }

    /// How the process ended, if it has.
    pub fn try_wait(&mut self) -> Result<Option<ExitStatus>, ProcessError> {
        let answer = self.child.try_wait();
        answer.map_err(|source| ProcessError::Control { what: "ask after", name: self.name.clone(), source })
    }

    fn wait_for_end(&self, at_most: Duration) -> Result<(), ProcessError> {
        let mut interest = [PollFd::new(self.ended.as_fd(), PollFlags::POLLIN)];
        match ppoll(&mut interest, Some(TimeSpec::from_duration(at_most)), None) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(errno) => Err(self.failed("wait for")(errno)),
        }
    }

    fn failed(&self, what: &'static str) -> impl FnOnce(Errno) -> ProcessError {
        let name = self.name.clone();
        move |errno| ProcessError::Control { what, name, source: errno.into() }
    }

    fn group(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    /// Sends a signal; a process that has ended already is no error.
    pub fn signal(&mut self, signal: Signal) -> Result<(), ProcessError> {
        // Not by id once it was reaped: the id may belong to another process by now.
        if self.try_wait()?.is_some() {
            return Ok(());
        }
        nix::sys::signal::kill(self.group(), signal).map_err(self.failed("send a signal to"))
    }

    /// Kills the process as a power cut would, and waits until it is gone.
    pub fn kill9(&mut self) -> Result<ExitStatus, ProcessError> {
        self.signal(Signal::SIGKILL)?;
        self.wait(Duration::from_secs(10))
    }

    /// What it has written to stdout.
    #[must_use]
    pub fn stdout(&self) -> String {
        read(&self.stdout)
    }

    /// What it has written to stderr.
    #[must_use]
    pub fn stderr(&self) -> String {
        read(&self.stderr)
    }

    /// Waits until stderr contains `pattern`; gives up early when the process ends without having said it.
    pub fn wait_for_stderr(&mut self, pattern: &str, timeout: Duration) -> Result<(), ProcessError> {
        let clock = Clock::start();
        loop {
            let status = self.try_wait()?;
            if self.stderr().contains(pattern) {
                return Ok(());
            }
            let waited = clock.now().since(Time::ZERO);
            if status.is_some() || waited >= timeout {
                return Err(ProcessError::NotSaid {
                    name: self.name.clone(),
                    pattern: pattern.to_owned(),
                    waited,
                    ended: status.map(|status| format!(", and ended ({status})")).unwrap_or_default(),
                    tail: self.tail(),
                });
            }
            self.wait_for_end(LOOK)?;
        }
    }

    /// The ends of both logs, for a failure message.
    #[must_use]
    pub fn tail(&self) -> String {
        format!("--- stdout\n{}\n--- stderr\n{}", end_of(&self.stdout()), end_of(&self.stderr()))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Errors here mean that it is gone already, which is what is wanted. While it was not reaped its id,
        // and so its group, cannot belong to anyone else.
        if let Ok(None) = self.child.try_wait() {
            let _gone = killpg(self.group(), Signal::SIGKILL);
            let _gone = self.child.wait();
        }
    }
}

/// Whether a status says that a signal ended the process, and which.
#[must_use]
pub fn ended_by(status: ExitStatus) -> Option<Signal> {
    status.signal().and_then(|number| Signal::try_from(number).ok())
}

fn open_logs(name: &str, log_dir: &Path) -> Result<(File, PathBuf, File, PathBuf), ProcessError> {
    let make = |path: PathBuf| {
        let made = OpenOptions::new().append(true).create_new(true).open(&path);
        made.map(|file| (file, path.clone())).map_err(|source| (source, path))
    };
    let mut number = 1_u32;
    loop {
        match make(log_dir.join(format!("{name}.{number}.stdout"))) {
            Ok((out_file, stdout)) => {
                let made = make(log_dir.join(format!("{name}.{number}.stderr")));
                let (err_file, stderr) = made.map_err(|(source, path)| ProcessError::Log { path, source })?;
                return Ok((out_file, stdout, err_file, stderr));
            }
            Err((error, _)) if error.kind() == io::ErrorKind::AlreadyExists => number += 1,
            Err((source, path)) => return Err(ProcessError::Log { path, source }),
        }
    }
}

fn read(path: &Path) -> String {
    match std::fs::read(path) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) => format!("(cannot read {}: {error})", path.display()),
    }
}

fn end_of(text: &str) -> &str {
    let mut start = text.len().saturating_sub(TAIL_BYTES);
    while !text.is_char_boundary(start) {
        start += 1;
    }
    text[start..].trim_end()
}

type Started = SyncSender<io::Result<Child>>;

/// Starts `command` from a thread that lives as long as this process: the kernel kills a child when the
/// *thread* that started it ends, and the caller's may end long before.
fn spawn_for_life(mut command: Command) -> io::Result<Child> {
    static STARTER: OnceLock<Sender<(Command, Started)>> = OnceLock::new();
    let starter = STARTER.get_or_init(|| {
        let (commands, inbox) = channel::<(Command, Started)>();
        std::thread::spawn(move || {
            for (mut command, started) in inbox {
                // The asker waits for the answer.
                let _heard = started.send(command.spawn());
            }
        });
        commands
    });
    sys::die_with_parent(&mut command);
    let (started, child) = sync_channel(1);
    let gone = || io::Error::other("the thread that starts processes has ended");
    starter.send((command, started)).map_err(|_unsent| gone())?;
    child.recv().map_err(|_unanswered| gone())?
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netns::with_namespaces;
    use crate::network::Network;

    const PATIENCE: Duration = Duration::from_secs(20);

    fn shell(network: &Network, script: &str, logs: &Path) -> Process {
        Process::spawn(network.host("a"), "shell", "/bin/sh", ["-c", script], &[("WORD", "hello")], logs).unwrap()
    }

    #[test]
    fn a_program_on_a_host_sees_only_the_hosts_interfaces() {
        with_namespaces(|| {
            let network = Network::build(&["a", "b"], 1).unwrap();
            let logs = tempfile::tempdir().unwrap();
            let mut process = shell(&network, "cat /proc/self/net/dev; echo $WORD >&2; exit 3", logs.path());
            assert_eq!(process.wait(PATIENCE).unwrap().code(), Some(3));
            let stdout = process.stdout();
            let mut names: Vec<_> =
                stdout.lines().skip(2).filter_map(|line| Some(line.split_once(':')?.0.trim())).collect();
            names.sort_unstable();
            assert_eq!(names, ["eth0", "lo"]);
            assert_eq!(process.stderr(), "hello\n");
        });
    }

    #[test]
    fn a_process_is_watched_signalled_and_started_again_without_losing_its_log() {
        with_namespaces(|| {
            let network = Network::build(&["a"], 1).unwrap();
            let logs = tempfile::tempdir().unwrap();
            let script = "trap 'echo bye >&2; exit 0' TERM; echo ready >&2; while :; do sleep 0.05; done";
            let mut first = shell(&network, script, logs.path());
            first.wait_for_stderr("ready", PATIENCE).unwrap();
            assert!(matches!(first.wait(Duration::from_millis(20)), Err(ProcessError::StillRuns { .. })));
            first.signal(Signal::SIGTERM).unwrap();
            assert!(first.wait(PATIENCE).unwrap().success());
            let mut second = shell(&network, script, logs.path());
            second.wait_for_stderr("ready", PATIENCE).unwrap();
            assert_eq!(ended_by(second.kill9().unwrap()), Some(Signal::SIGKILL));
            assert_eq!((first.stderr().as_str(), second.stderr().as_str()), ("ready\nbye\n", "ready\n"));
        });
    }

    #[test]
    fn a_failure_quotes_the_log_and_says_how_the_process_ended() {
        with_namespaces(|| {
            let network = Network::build(&["a"], 1).unwrap();
            let logs = tempfile::tempdir().unwrap();
            let mut process = shell(&network, "echo no such file >&2; exit 2", logs.path());
            let message = process.wait_for_stderr("ready", PATIENCE).unwrap_err().to_string();
            assert!(message.contains("ended (exit status: 2)") && message.contains("no such file"), "{message}");
        });
    }

    #[test]
    fn dropping_kills_the_process_and_its_children() {
        with_namespaces(|| {
            let network = Network::build(&["a"], 1).unwrap();
            let logs = tempfile::tempdir().unwrap();
            let mut process = shell(&network, "sleep 1000 & echo $! >&2; wait", logs.path());
            process.wait_for_stderr("\n", PATIENCE).unwrap();
            let child = Pid::from_raw(process.stderr().trim().parse().unwrap());
            drop(process);
            // Its parent is gone; whoever reaps it may take a moment.
            let clock = Clock::start();
            let alive = || {
                let stat = std::fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
                !stat.is_empty() && !stat.contains(") Z ")
            };
            while alive() {
                assert!(clock.now().since(Time::ZERO) < PATIENCE, "the child {child} outlived its parent");
                std::thread::yield_now();
            }
        });
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        with_namespaces(|| {
            let network = Network::build(&["a"], 1).unwrap();
            let logs = tempfile::tempdir().unwrap();
            let args: [&str; 0] = [];
            let result = Process::spawn(network.host("a"), "ghost", "/no/such/program", args, &[], logs.path());
            assert!(result.unwrap_err().to_string().starts_with("cannot start `/no/such/program` as ghost: "));
        });
    }
}
