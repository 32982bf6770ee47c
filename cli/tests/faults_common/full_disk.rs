//! A target on a file system that is too small.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Stdio};

use nackcast_common::clock::{Clock, Time};
use nackcast_testbed::netns::with_namespaces;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use crate::stage::{PATIENCE, Stage, fill, pause, write};
use crate::tree;

/// A receiver in the mount namespace of the thread that starts it.
struct Receiver {
    child: Child,
    log: PathBuf,
}

impl Receiver {
    fn start(stage: &Stage) -> Self {
        let log = stage.path("logs/a.full");
        let mut command = stage.host("a").command(env!("CARGO_BIN_EXE_nackcast"));
        command.args(stage.receive_arguments("a", "news.ticket", &["--once"])).env("RUST_LOG", "warn,nackcast=debug");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(&log).unwrap());
        Self { child: command.spawn().unwrap(), log }
    }

    fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    fn wait_until(&mut self, what: &str, wanted: impl Fn(&mut Self) -> bool) {
        let clock = Clock::start();
        while !wanted(self) {
            assert!(clock.now().since(Time::ZERO) < PATIENCE, "not {what}: {}", self.said());
            pause(std::time::Duration::from_millis(20));
        }
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let _ended = self.child.kill().and_then(|()| self.child.wait());
    }
}

#[test]
fn a_full_file_system_is_named_loses_nothing_and_is_waited_for() {
    with_namespaces(|| {
        let stage = Stage::new(&["a"], 0.01);
        fill(&stage.source(), 100);
        for number in 0..8 {
            write(&stage.source().join(format!("medium/{number}")), number, 1 << 20);
        }
        // Of this thread only; it ends with the thread and what it starts.
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
        let target = stage.target("a");
        std::fs::create_dir(&target).unwrap();
        mount(Some("tmpfs"), &target, Some("tmpfs"), MsFlags::empty(), Some("size=12m")).unwrap();

        let mut receiver = Receiver::start(&stage);
        let mut sender = stage.send(&["--once", "--expect", "1"]);
        receiver.wait_until("full", |receiver| receiver.said().contains("no space left for "));
        let line = receiver.said().lines().find(|line| line.contains("no space left for ")).unwrap().to_owned();
        assert!(line.contains(target.to_str().unwrap()), "{line}");
        assert!(line.contains(" bytes more: free some space and it goes on"), "{line}");
        // Some time later it still runs, has kept what it has, and the sender does not send for nothing. It
        // looks for room by itself, and asks for nothing before there is some.
        let total = 24 << 20;
        pause(std::time::Duration::from_secs(3));
        assert!(receiver.child.try_wait().unwrap().is_none(), "{}", receiver.said());
        let sent_while_full = stage.sent();
        assert!(sent_while_full < 2 * total, "{sent_while_full} bytes were sent to a full disk");

        mount(None::<&str>, &target, None::<&str>, MsFlags::MS_REMOUNT, Some("size=64m")).unwrap();
        receiver.wait_until("ended", |receiver| receiver.child.try_wait().unwrap().is_some());
        assert!(receiver.child.wait().unwrap().success(), "{}", receiver.said());
        tree::assert_same(&stage.source_tree(), &tree::of(&target), "the receiver");
        assert!(sender.wait(PATIENCE).unwrap().success());
        let after = stage.sent() - sent_while_full;
        assert!(after < total * 3 / 4, "what was there was sent again: {after} bytes of {total}");
    });
}
