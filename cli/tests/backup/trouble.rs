//! Primaries that are there and do not serve, that come and go, or that are two.

use std::process::Command;

use nackcast_testbed::netns::with_namespaces;
use nackcast_testbed::process::Process;

use super::{MIB, Pair, RATE, states, with_others};
use crate::site::{PATIENCE, assert_ends, program, progress, receiver_name, until};
use crate::tree::{Tree, copy_tree, noise};

impl Pair {
    fn block_multicast_of_primary(&self, blocked: bool) {
        for receiver in 1..=2 {
            self.site.network.fabric().block_multicast("sender", &receiver_name(receiver), blocked).unwrap();
        }
    }

    /// A second primary with the same key file, where the backup would be.
    fn second_primary(&self) -> Process {
        let mut source = self.site.path("site.key").into_os_string();
        source.push("=");
        source.push(self.site.path("copy"));
        let mut arguments = vec!["send".into(), "--channel".into(), source];
        arguments.extend(["--state".into(), self.site.state("second").into_os_string()]);
        arguments.extend(["--interface", "eth0", "--no-watch", "--json", "--drain-limit", "3s"].map(Into::into));
        arguments.extend(RATE.map(Into::into));
        self.site.start("backup", arguments, &[])
    }
}

#[test]
fn a_primary_whose_disk_is_gone_is_replaced() {
    let _turn = with_others();
    with_namespaces(|| {
        let pair = Pair::new(2);
        let (mut primary, mut backup, mut receivers) = pair.started(2);
        pair.site.until_sent(pair.tree.bytes() / 4);
        std::fs::remove_dir_all(pair.site.source()).unwrap();
        primary.wait_for_stderr("to=blind", PATIENCE).unwrap();
        // One names the directory, the other says that the sender does not serve.
        pair.until_alerted_at("sender", "content-left-out");
        pair.until_alerted_at("sender", "role-changed");
        backup.wait_for_stderr("to=active", PATIENCE).unwrap();
        pair.until_alerted("role-changed");
        pair.assert_received(&mut receivers);
        copy_tree(&pair.site.path("copy"), &pair.site.source());
        pair.until_primary_serves(&primary, &backup);
    });
}

/// Unicast is fine: the primary serves, and cannot know. Somebody else must mend the network.
#[test]
fn multicast_that_does_not_reach_receivers_is_an_alert_and_no_take_over() {
    let _turn = with_others();
    with_namespaces(|| {
        let pair = Pair::new(2);
        let (_primary, mut backup) = pair.serving();
        pair.block_multicast_of_primary(true);
        let mut receivers: Vec<_> = (1..=2).map(|receiver| pair.site.receive(receiver, &["--pull", "never"])).collect();
        backup.wait_for_stderr("network alert: receivers reach only this sender", PATIENCE).unwrap();
        pair.until_alerted("backup-asked");
        assert!(!backup.stderr().contains("to=active"), "the primary serves\n{}", backup.tail());
        pair.block_multicast_of_primary(false);
        pair.assert_received(&mut receivers);
    });
}

#[test]
fn a_primary_in_a_crash_loop_leaves_the_channel_to_the_backup() {
    let _turn = with_others();
    with_namespaces(|| {
        let pair = Pair::new(2);
        let (mut primary, mut backup, mut receivers) = pair.started(2);
        pair.site.until_sent(pair.tree.bytes() / 8);
        primary.kill9().unwrap();
        backup.wait_for_stderr("to=active", PATIENCE).unwrap();
        until("the backup sends", || pair.backup_bytes() > MIB as u64);
        for _ in 0..2 {
            let mut primary = pair.primary();
            primary.wait_for_stderr("to=asking", PATIENCE).unwrap();
            primary.kill9().unwrap();
        }
        let mut primary = pair.primary();
        primary.wait_for_stderr("to=penalty", PATIENCE).unwrap();
        pair.until_alerted_at("sender", "role-changed");
        pair.until_alerted("role-changed");
        pair.assert_received(&mut receivers);
        assert!(!states(&primary).contains(&"active".to_owned()), "{:?}", states(&primary));
    });
}

#[test]
fn of_two_primaries_one_serves() {
    let _turn = with_others();
    with_namespaces(|| {
        let pair = Pair::new(2);
        let mut receivers: Vec<_> = (1..=2).map(|receiver| pair.site.receive(receiver, &[])).collect();
        let mut primary = pair.primary();
        primary.wait_for_stderr("to=active", PATIENCE).unwrap();
        pair.site.until_sent(pair.tree.bytes() / 4);
        let mut second = pair.second_primary();
        // It knows no peer: it may begin before it hears the other one.
        second.wait_for_stderr("to=standby", PATIENCE).unwrap();
        pair.assert_received(&mut receivers);
        let [last, of_second] = [&primary, &second].map(|process| states(process).pop());
        assert_eq!([last.as_deref(), of_second.as_deref()], [Some("active"), Some("standby")]);
        pair.until_alerted_at("second", "role-changed");
        let (first, second) =
            (&pair.ask("sender", "status")["channels"][0], &pair.ask("second", "status")["channels"][0]);
        assert_eq!([&first["sender_role"], &first["role_state"]], ["primary", "active"], "{first}");
        assert_eq!([&second["sender_role"], &second["role_state"]], ["primary", "standby"], "{second}");
    });
}

#[test]
fn of_two_backups_the_first_one_serves_and_the_second_when_that_is_gone() {
    let _turn = with_others();
    with_namespaces(|| {
        let pair = Pair::new(2);
        copy_tree(&pair.site.source(), &pair.site.path("second-copy"));
        pair.delegate("second.key");
        let mut second = pair.standby("second", ["second.key", "second-copy"], &["--rank", "1"]);
        second.wait_for_stderr("receiving on interface", PATIENCE).unwrap();
        let (mut primary, mut backup, mut receivers) = pair.started(2);
        second.wait_for_stderr("to=standby", PATIENCE).unwrap();
        pair.site.until_sent(pair.tree.bytes() / 4);
        primary.kill9().unwrap();
        backup.wait_for_stderr("to=active", PATIENCE).unwrap();
        let before = pair.bytes_of("second");
        until("the first backup sends", || pair.backup_bytes() > 2 * MIB as u64);
        assert!(!states(&second).contains(&"active".to_owned()), "{}", second.tail());
        // It advertises once a second, and sends no content.
        assert!(pair.bytes_of("second") - before < MIB as u64 / 10);
        backup.kill9().unwrap();
        second.wait_for_stderr("to=active", PATIENCE).unwrap();
        pair.until_alerted_at("second", "role-changed");
        pair.assert_received(&mut receivers);
    });
}

/// The wall clock of one program, moved by a library that is loaded before the others, while a file is there.
const CLOCK: &str = r#"
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
int clock_gettime(clockid_t id, struct timespec *t) {
    long done = syscall(SYS_clock_gettime, id, t);
    const char *flag = getenv("CLOCK_OFF_WHILE");
    if (id != CLOCK_REALTIME && id != CLOCK_REALTIME_COARSE) return done;
    if (done == 0 && flag && !access(flag, F_OK)) t->tv_sec %= 86400;
    return done;
}
int gettimeofday(struct timeval *t, void *zone) {
    struct timespec now;
    (void)zone;
    if (clock_gettime(CLOCK_REALTIME, &now)) return -1;
    t->tv_sec = now.tv_sec;
    t->tv_usec = now.tv_nsec / 1000;
    return 0;
}
time_t time(time_t *t) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (t) *t = now.tv_sec;
    return now.tv_sec;
}
"#;

/// Reads below a directory that do not return while a file is there.
const HANGS: &str = r#"
#define _GNU_SOURCE
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>
static void wait_for_disk(int file) {
    const char *flag = getenv("HANGS_WHILE"), *below = getenv("HANGS_BELOW");
    char link[64], path[PATH_MAX + 1];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, PATH_MAX);
    if (!flag || !below || length < 0) return;
    path[length] = 0;
    while (!strncmp(path, below, strlen(below)) && !access(flag, F_OK)) usleep(20000);
}
ssize_t pread64(int file, void *to, size_t length, off64_t at) {
    wait_for_disk(file);
    return syscall(SYS_pread64, file, to, length, at);
}
ssize_t pread(int file, void *to, size_t length, off_t at) { return pread64(file, to, length, at); }
ssize_t read(int file, void *to, size_t length) {
    wait_for_disk(file);
    return syscall(SYS_read, file, to, length);
}
"#;

impl Pair {
    /// A library to be loaded before the others.
    fn library(&self, name: &str, source: &str) -> String {
        let (written, library) = (self.site.path(&format!("{name}.c")), self.site.path(&format!("{name}.so")));
        std::fs::write(&written, source).unwrap();
        let mut compile = Command::new("cc");
        let compiled = compile.args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&written).output().unwrap();
        assert!(compiled.status.success(), "{compiled:?}");
        library.to_str().unwrap().to_owned()
    }
}

/// Such a disk gives no error: its calls do not come back.
#[test]
fn a_primary_whose_disk_hangs_is_replaced_until_it_answers() {
    let _turn = with_others();
    with_namespaces(|| {
        let pair = Pair::new(2);
        let (library, flag) = (pair.library("hangs", HANGS), pair.site.path("the disk hangs"));
        let mut backup = pair.backup();
        backup.wait_for_stderr("receiving on interface", PATIENCE).unwrap();
        let mut receivers: Vec<_> = (1..=2).map(|receiver| pair.site.receive(receiver, &[])).collect();
        let below = pair.site.source();
        let [hangs_while, hangs_below] = [&flag, &below].map(|path| path.to_str().unwrap());
        let mut primary =
            pair.primary_with(&[("LD_PRELOAD", &library), ("HANGS_WHILE", hangs_while), ("HANGS_BELOW", hangs_below)]);
        backup.wait_for_stderr("to=standby", PATIENCE).unwrap();
        pair.site.until_sent(pair.tree.bytes() / 4);
        std::fs::write(&flag, "").unwrap();
        primary.wait_for_stderr("to=blind", PATIENCE).unwrap();
        pair.until_alerted_at("sender", "disk-failing");
        backup.wait_for_stderr("to=active", PATIENCE).unwrap();
        pair.assert_received(&mut receivers);
        std::fs::remove_file(&flag).unwrap();
        pair.until_primary_serves(&primary, &backup);
    });
}

#[test]
fn a_primary_whose_clock_begins_in_1970_goes_on_where_it_was() {
    let _turn = with_others();
    with_namespaces(|| {
        let pair = Pair::new(2);
        let (library, flag) = (pair.library("clock", CLOCK), pair.site.path("the clock is off"));
        std::fs::write(&flag, "").unwrap();
        let (mut primary, mut backup, receivers) = pair.started(0);
        assert!(receivers.is_empty());
        let mut first = pair.site.receive_on(1, &[]);
        until("the first receiver is complete", || progress(&first)["state"] == "complete");
        let before = progress(&first)["generation"].as_u64().unwrap();
        primary.kill9().unwrap();
        std::fs::write(pair.site.source().join("new"), noise(900, MIB)).unwrap();
        let tree = Tree::read(&pair.site.source());
        let mut primary = pair.primary_with(&[("LD_PRELOAD", &library), ("CLOCK_OFF_WHILE", flag.to_str().unwrap())]);
        primary.wait_for_stderr("to=active", PATIENCE).unwrap();
        until("the new generation is complete", || {
            let progress = progress(&first);
            progress["state"] == "complete" && progress["generation"].as_u64() > Some(before)
        });
        tree.assert_at(&pair.site.target(1));
        pair.until_alerted_at(&receiver_name(1), "clock-off");
        // One that was not there before takes it as well.
        let mut second = pair.site.receive(2, &[]);
        assert_ends(&mut second, 0);
        tree.assert_at(&pair.site.target(2));
        assert!(!states(&backup).contains(&"active".to_owned()), "{}", backup.tail());
        // The backup's clock, which is right, does not end the alert about the primary's; NTP does.
        let alerts = pair.ask(&receiver_name(1), "alerts");
        let off: Vec<_> =
            alerts["alerts"].as_array().unwrap().iter().filter(|alert| alert["kind"] == "clock-off").collect();
        assert_eq!((off.len(), &off[0]["count"]), (1, &1.into()), "{alerts}");
        std::fs::remove_file(&flag).unwrap();
        until("the clocks agree", || !pair.ask(&receiver_name(1), "alerts").to_string().contains("clock-off"));
        first.kill9().unwrap();
        backup.kill9().unwrap();
    });
}

/// The primary published while the backup did not hear it, and died: what the backup has is served, what it lacks is
/// waited for.
#[test]
fn a_generation_that_the_backup_has_not_seen_is_served_as_far_as_it_has_it() {
    let _turn = with_others();
    with_namespaces(|| {
        let pair = Pair::new(2);
        let (mut primary, mut backup, _) = pair.started(0);
        let first = pair.site.receive_on(1, &["--pull", "never"]);
        until("the first receiver is complete", || progress(&first)["state"] == "complete");
        let before = progress(&first)["generation"].as_u64().unwrap();
        pair.cut("backup", "sender", true);
        std::fs::write(pair.site.source().join("new"), noise(900, MIB)).unwrap();
        let tree = Tree::read(&pair.site.source());
        let mut scan = Command::new(program());
        assert!(scan.args(["scan", "--node"]).arg(pair.site.state("sender")).output().unwrap().status.success());
        let has_new = |receiver: &Process| {
            let progress = progress(receiver);
            progress["state"] == "complete" && progress["generation"].as_u64() > Some(before)
        };
        until("the first receiver has the new generation", || has_new(&first));
        // A second one gets the manifest and a part of the content before the primary dies.
        let mut second = pair.site.receive(2, &["--pull", "never"]);
        until("the second receiver knows the new generation", || {
            progress(&second)["generation"].as_u64() > Some(before)
        });
        primary.kill9().unwrap();
        backup.wait_for_stderr("to=active", PATIENCE).unwrap();
        pair.until_alerted("role-changed");
        let (old, of) = (pair.tree.bytes(), tree.bytes());
        until("what the backup has is here", || progress(&second)["bytes_done"].as_u64() >= Some(old));
        assert!(progress(&second)["bytes_done"].as_u64() < Some(of), "nobody has the rest");
        assert_eq!(second.try_wait().unwrap(), None);
        assert!(has_new(&first), "it keeps what it has");
        // With the primary comes the rest.
        pair.cut("backup", "sender", false);
        let mut primary = pair.primary();
        primary.wait_for_stderr("to=active", PATIENCE).unwrap();
        assert_ends(&mut second, 0);
        tree.assert_at(&pair.site.target(2));
        until("the backup stands by", || states(&backup).last().map(String::as_str) == Some("standby"));
    });
}
