//! Mistakes of whoever starts a node: one line that says what, where and what to do; exit code 2.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Output, Stdio};

use nackcast_testbed::netns::with_namespaces;

use crate::stage::{Stage, end, fill, text, wait_until, wait_until_complete};

/// A stage, and what starts nodes on it that are not meant to start.
struct Place(Stage);

impl Place {
    fn new() -> Self {
        let stage = Stage::new(&["a"], 0.0);
        fill(&stage.source(), 5);
        Self(stage)
    }

    /// With state of its own, unless `more` names another.
    fn send(&self, more: &[&str]) -> Output {
        self.0.run(&[&["send", "--interface", "eth0", "--channel", "news.key=source", "--once"], more].concat())
    }

    fn receive(&self, more: &[&str]) -> Output {
        self.0.run_on("a", &[&["receive", "--interface", "eth0", "--once"], more].concat())
    }
}

/// Exit code 2, nothing on stdout, one line of error, the last, that has all of `parts`.
fn assert_refused(ran: &Output, parts: &[&str]) {
    let [stdout, stderr] = [&ran.stdout, &ran.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    assert_eq!((ran.status.code(), &*stdout), (Some(2), ""), "{stderr}");
    let errors: Vec<&str> = stderr.lines().filter(|line| line.starts_with("nackcast: ")).collect();
    assert!(errors.len() == 1 && stderr.ends_with(&format!("{}\n", errors[0])), "{stderr}");
    for part in parts {
        assert!(errors[0].contains(part), "no `{part}` in: {}", errors[0]);
    }
}

const INTO: [&str; 4] = ["--ticket", "@news.ticket", "--into", "a"];

#[test]
fn an_interface_or_an_address_that_is_not_there_is_named() {
    with_namespaces(|| {
        let place = Place::new();
        let receive =
            place.0.run_on("a", &["receive", "--interface", "eth7", "--ticket", "@news.ticket", "--into", "a"]);
        assert_refused(&receive, &["no interface has the name or address `eth7`", "there are: ", "eth0"]);
        let send = place.0.run(&["send", "--interface", "10.9.9.9", "--channel", "news.key=source", "--state", "s"]);
        assert_refused(&send, &["no interface has the name or address `10.9.9.9`", "eth0"]);
        let send = place.send(&["--state", "s2", "--listen", "10.9.9.9:7701"]);
        assert_refused(&send, &["10.9.9.9:7701", "no address of this machine"]);
        let new = place.0.run(&["channel", "new", "x", "--advertise", "10.77.0.1:7600"]);
        assert_refused(&new, &["--advertise 10.77.0.1:7600", "not a multicast address"]);
        // A key file that somebody wrote by hand.
        let key = std::fs::read_to_string(place.0.path("news.key")).unwrap();
        place.0.forge("unicast.key", &key.replace("239.192.7.7", "10.77.0.1"));
        let send = place.0.run(&["send", "--interface", "eth0", "--channel", "unicast.key=source", "--state", "s3"]);
        assert_refused(&send, &["10.77.0.1", "not a multicast address"]);
    });
}

#[test]
fn a_port_or_a_state_that_is_in_use_is_named() {
    with_namespaces(|| {
        let place = Place::new();
        let mut sender = place.0.send(&[]);
        wait_until(&mut sender, |said| said.contains("serving"));
        assert_refused(&place.send(&["--state", "s"]), &[":7701 is in use by another program", "choose another"]);
        let state = text(&place.0.state("sender"));
        assert_refused(&place.send(&["--state", &state, "--listen", "[::]:7801"]), &[&state, "in use", "--state"]);
        assert_eq!(end(&mut sender)["success"], true, "the one that runs is not disturbed");
    });
}

#[test]
fn state_of_another_channel_or_of_a_newer_version_is_refused_and_left_alone() {
    with_namespaces(|| {
        let place = Place::new();
        place.0.channel("other");
        let mut receiver = place.0.receive("a", &["--once"]);
        let mut sender = place.0.send(&["--once", "--expect", "1"]);
        wait_until_complete(&mut receiver, 1);
        let patience = crate::stage::PATIENCE;
        assert!(receiver.wait(patience).unwrap().success() && sender.wait(patience).unwrap().success());

        let [send, receive] = ["sender", "a"].map(|node| text(&place.0.state(node)));
        let other = ["--ticket", "@other.ticket", "--into", "elsewhere", "--state", &receive];
        assert_refused(&place.receive(&other), &[&receive, "belongs to channel", "another --state"]);
        let other = ["send", "--interface", "eth0", "--channel", "other.key=source", "--state", &send];
        assert_refused(&place.0.run(&other), &[&send, "belongs to channel news", "another one with --state"]);
        // Of the other role, and of the same channel into another directory.
        assert_refused(&place.receive(&[&INTO[..], &["--state", &send]].concat()), &[&send, "does `send`", "--state"]);
        let elsewhere = ["--ticket", "@news.ticket", "--into", "elsewhere", "--state", &receive];
        let words = ["`news` goes into", "another --state", &format!("a mistake, remove {receive}/")];
        assert_refused(&place.receive(&elsewhere), &words);

        // As a later version would leave it.
        for (state, nodes) in [(&send, 0), (&receive, 1)] {
            let store = store_below(std::path::Path::new(state));
            let later = sled::open(&store).unwrap();
            later.insert(b"schema version", &9_u32.to_be_bytes()).unwrap();
            later.flush().unwrap();
            drop(later);
            let ran = match nodes {
                0 => place.send(&["--state", state]),
                _ => place.receive(&[&INTO[..], &["--state", state]].concat()),
            };
            assert_refused(&ran, &[&text(&store), "version 9", "update nackcast", "--state"]);
        }
    });
}

/// The directory below `state` that sled made.
fn store_below(state: &std::path::Path) -> std::path::PathBuf {
    let mut files = walkdir::WalkDir::new(state).into_iter().map(Result::unwrap);
    files.find(|file| file.file_name() == "db").unwrap().path().parent().unwrap().to_owned()
}

#[test]
fn directories_that_cannot_be_used_are_named() {
    with_namespaces(|| {
        let place = Place::new();
        let none = ["send", "--interface", "eth0", "--channel", "news.key=none", "--state", "s"];
        assert_refused(&place.0.run(&none), &["directory none cannot be read", "No such file"]);
        // Nobody may make a directory there, not even root.
        let into = ["--ticket", "@news.ticket", "--into", "/proc/here", "--state", "s2"];
        assert_refused(&place.receive(&into), &["/proc/here"]);
        assert_refused(&place.receive(&[&INTO[..], &["--state", "/proc/here"]].concat()), &["/proc/here", "--state"]);
        let mut sender = place.0.send(&[]);
        wait_until(&mut sender, |said| said.contains("serving"));
        let into = ["--ticket", "@news.ticket", "--into", "source/in", "--state", "s3"];
        assert_refused(&place.receive(&into), &["source/in", "source directory", "choose a target outside"]);
        assert!(!place.0.source().join("in").exists());
        drop(sender);
    });
}

#[test]
fn a_directory_without_permission_is_named() {
    const NOBODY: Option<u32> = Some(65_534);
    // Outside of namespaces: root of a user namespace may read everything, as root may.
    let home = tempfile::tempdir().unwrap();
    let path = |name: &str| home.path().join(name);
    let program = path("nackcast");
    std::fs::copy(env!("CARGO_BIN_EXE_nackcast"), &program).unwrap();
    let is_root = rustix::process::geteuid().is_root();
    let run = |arguments: &[&str]| {
        let mut command = Command::new(&program);
        command.args(arguments).current_dir(home.path()).env("STATE_DIRECTORY", path("state")).env_remove("RUST_LOG");
        if is_root {
            command.uid(65_534).gid(65_534);
        }
        command.stdin(Stdio::null()).output().unwrap()
    };
    if is_root {
        std::os::unix::fs::chown(home.path(), NOBODY, NOBODY).unwrap();
    }
    let made = run(&["channel", "new", "news"]);
    assert!(made.status.success(), "{made:?}");
    for name in ["unreadable", "unwritable"] {
        std::fs::create_dir(path(name)).unwrap();
    }
    std::fs::set_permissions(path("unreadable"), Permissions::from_mode(0o000)).unwrap();
    std::fs::set_permissions(path("unwritable"), Permissions::from_mode(0o555)).unwrap();
    let send = run(&["send", "--interface", "lo", "--channel", "news.key=unreadable"]);
    assert_refused(&send, &["directory unreadable cannot be read", "Permission denied"]);
    let receive = |into, state| {
        run(&["receive", "--interface", "lo", "--ticket", "@news.ticket", "--into", into, "--state", state])
    };
    assert_refused(&receive("unwritable", "s"), &["unwritable", "Permission denied"]);
    assert_refused(&receive("unwritable/in", "s2"), &["unwritable/in", "Permission denied"]);
    assert_refused(&receive("in", "unwritable"), &["unwritable", "give another one with --state"]);
    assert_refused(&receive("in", "unwritable/s"), &["unwritable/s", "--state"]);
}

#[test]
fn tickets_and_configurations_with_mistakes_are_named() {
    with_namespaces(|| {
        let place = Place::new();
        let ticket = std::fs::read_to_string(place.0.path("news.ticket")).unwrap();
        for cut in [3, 30, ticket.len() - 3] {
            std::fs::write(place.0.path("cut.ticket"), &ticket[..cut]).unwrap();
            let ran = place.receive(&["--ticket", "@cut.ticket", "--into", "a", "--state", "s"]);
            assert_refused(&ran, &["--ticket @cut.ticket", "ticket"]);
        }
        std::fs::write(place.0.path("r.toml"), "into = [\"a\"]\nticket = [\"@news.ticket\"]\nprun = true\n").unwrap();
        assert_refused(&place.receive(&["--config", "r.toml"]), &["r.toml:3", "`prun`"]);
        std::fs::write(place.0.path("s.toml"), "channel = [\"news.key=source\"]\n[limits]\nrate = 3\n").unwrap();
        assert_refused(&place.0.run(&["send", "--config", "s.toml"]), &["s.toml:2", "`limits`"]);
    });
}

#[test]
fn files_that_are_not_ours_are_listed_and_left_alone() {
    with_namespaces(|| {
        let place = Place::new();
        let target = place.0.target("a");
        std::fs::create_dir(&target).unwrap();
        std::fs::write(target.join("large.bin"), "mine").unwrap();
        std::fs::write(target.join("unrelated"), "mine").unwrap();
        let mut sender = place.0.send(&[]);
        let ran = place.receive(&[&INTO[..], &["--state", "s"]].concat());
        assert_refused(&ran, &["nothing was touched", "--overwrite", "large.bin"]);
        assert_eq!(std::fs::read(target.join("large.bin")).unwrap(), b"mine");
        let ran = place.receive(&[&INTO[..], &["--state", "s", "--overwrite"]].concat());
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
        assert_eq!(std::fs::read(target.join("unrelated")).unwrap(), b"mine");
        std::fs::remove_file(target.join("unrelated")).unwrap();
        place.0.assert_same("a");
        assert!(sender.try_wait().unwrap().is_none());
    });
}
