//! A receiver that hears nobody, on a machine that has only the loopback interface: it says what to check, keeps
//! others out of its directory, and ends as it was told to.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Stdio};

use nackcast_testbed::netns::{NetworkNamespace, with_namespaces};
use rustix::process::{Pid, Signal, kill_process};

/// A receiver on its machine.
struct Lonely {
    process: Child,
    stderr: BufReader<ChildStderr>,
}

impl Lonely {
    fn start(machine: &NetworkNamespace, place: &Path, more: &[&str]) -> Self {
        let mut command = program(place);
        command.args(["receive", "--ticket", "@news.ticket", "--into", "outer", "--json"]).args(more);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = machine.command(&mut command).spawn().unwrap();
        let stderr = BufReader::new(process.stderr.take().unwrap());
        Self { process, stderr }
    }

    /// The next line on stderr that contains this. A receiver that ends without it has failed the test.
    fn says(&mut self, wanted: &str) -> String {
        let mut said = String::new();
        loop {
            let mut line = String::new();
            assert!(self.stderr.read_line(&mut line).unwrap() > 0, "it never said `{wanted}`:\n{said}");
            if line.contains(wanted) {
                return line;
            }
            said.push_str(&line);
        }
    }

    /// Ends it as an administrator would; its exit code and summary.
    fn end(mut self) -> (i32, serde_json::Value) {
        kill_process(Pid::from_child(&self.process), Signal::TERM).unwrap();
        let summary = serde_json::from_reader(self.process.stdout.take().unwrap()).unwrap();
        (self.process.wait().unwrap().code().unwrap(), summary)
    }
}

/// A test that failed leaves nobody behind.
impl Drop for Lonely {
    fn drop(&mut self) {
        let _ended = self.process.kill().and_then(|()| self.process.wait());
    }
}

fn program(place: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nackcast"));
    command.current_dir(place).stdin(Stdio::null());
    command.env_remove("RUST_LOG").env_remove("NACKCAST_TICKET").env("STATE_DIRECTORY", place.join("state"));
    command
}

fn channel(place: &Path, name: &str) {
    assert!(program(place).args(["channel", "new", name]).output().unwrap().status.success());
}

#[test]
fn who_hears_nobody_is_told_what_to_check() {
    with_namespaces(|| {
        let (machine, place) = (NetworkNamespace::new().unwrap(), tempfile::tempdir().unwrap());
        channel(place.path(), "news");
        let mut receiver = Lonely::start(&machine, place.path(), &[]);
        let warning = receiver.says("reaches this machine only");
        assert!(warning.contains("WARN") && warning.contains("--interface"), "{warning}");
        let hint = receiver.says("no sender was heard");
        for part in ["WARN", "news", ":7600", "interface lo", "firewall", "IGMP", "`nackcast send` runs"] {
            assert!(hint.contains(part), "no `{part}` in: {hint}");
        }
        let (code, summary) = receiver.end();
        assert_eq!(code, 0, "it ended when it was told to");
        assert_eq!((&summary["success"], &summary["channels"][0]["complete"]), (&false.into(), &false.into()));
    });
}

#[test]
fn who_was_to_get_everything_and_is_ended_before_has_failed() {
    with_namespaces(|| {
        let (machine, place) = (NetworkNamespace::new().unwrap(), tempfile::tempdir().unwrap());
        channel(place.path(), "news");
        let mut receiver = Lonely::start(&machine, place.path(), &["--once"]);
        receiver.says("receiving on interface lo");
        let (code, summary) = receiver.end();
        assert_eq!((code, &summary["success"]), (1, &false.into()));
    });
}

#[test]
fn a_target_inside_or_around_that_of_a_running_receiver_is_refused() {
    with_namespaces(|| {
        let (machine, place) = (NetworkNamespace::new().unwrap(), tempfile::tempdir().unwrap());
        channel(place.path(), "news");
        channel(place.path(), "sport");
        std::fs::create_dir_all(place.path().join("outer/inner")).unwrap();
        let mut receiver = Lonely::start(&machine, place.path(), &[]);
        receiver.says("receiving on interface lo");
        let elsewhere = tempfile::tempdir().unwrap();
        for (into, part) in [("outer/inner", "outer/inner lies in"), (".", "overlaps"), ("outer", "in use")] {
            let mut command = program(place.path());
            command
                .args(["receive", "--ticket", "@sport.ticket", "--into", into, "--state"])
                .arg(elsewhere.path().join("s"));
            let refused = machine.command(&mut command).output().unwrap();
            let stderr = String::from_utf8_lossy(&refused.stderr);
            assert_eq!(refused.status.code(), Some(2), "{stderr}");
            assert!(stderr.contains(part) && stderr.contains("choose a"), "{stderr}");
        }
        assert!(!elsewhere.path().join("s").exists(), "state was made");
        receiver.end();
    });
}
