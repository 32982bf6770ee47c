//! The command line as scripts see it: exit codes, what stands on stdout, one line of error on stderr.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

/// A directory to work in, which also holds all state.
struct Place(TempDir);

/// What a command gave.
#[derive(Debug)]
struct Ran {
    code: i32,
    stdout: String,
    stderr: String,
}

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nackcast"));
        command.args(arguments).current_dir(self.path()).stdin(Stdio::null());
        command.env_remove("RUST_LOG").env_remove("NACKCAST_TICKET").env("STATE_DIRECTORY", self.path().join("state"));
        command
    }

    fn run(&self, arguments: &[&str]) -> Ran {
        ran(self.command(arguments).output().unwrap())
    }

    fn channel(&self, name: &str) -> String {
        let made = self.run(&["channel", "new", name]);
        assert_eq!(made.code, 0, "{made:?}");
        made.stdout.trim().to_owned()
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path().join(name), text).unwrap();
    }
}

fn ran(output: Output) -> Ran {
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ran { code: output.status.code().unwrap(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

impl Ran {
    /// Bad usage: exit code 2, nothing on stdout, and one line on stderr that contains all of `parts`.
    fn is_usage_error(&self, parts: &[&str]) {
        assert_eq!((self.code, self.stdout.as_str()), (2, ""), "{self:?}");
        let errors: Vec<&str> = self.stderr.lines().filter(|line| line.starts_with("nackcast: ")).collect();
        assert_eq!(errors.len(), 1, "{self:?}");
        assert!(self.stderr.ends_with(&format!("{}\n", errors[0])), "the error is the last line: {self:?}");
        for part in parts {
            assert!(errors[0].contains(part), "no `{part}` in: {}", errors[0]);
        }
    }
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().mode() & 0o7777
}

#[test]
fn a_new_channel_has_a_private_key_and_ticket_and_prints_the_ticket() {
    let place = Place::new();
    let ticket = place.channel("news");
    assert!(ticket.starts_with("nackcast1"), "{ticket}");
    assert_eq!(mode(&place.path().join("news.key")), 0o600);
    assert_eq!(mode(&place.path().join("news.ticket")), 0o600);
    assert_eq!(std::fs::read_to_string(place.path().join("news.ticket")).unwrap(), format!("{ticket}\n"));
    let again = place.run(&["channel", "ticket", "news.key"]);
    assert_eq!((again.code, again.stdout.trim()), (0, ticket.as_str()));
}

#[test]
fn a_channel_is_never_overwritten() {
    let place = Place::new();
    place.channel("news");
    let before = std::fs::read(place.path().join("news.key")).unwrap();
    place.run(&["channel", "new", "news"]).is_usage_error(&["news.key", "never overwritten", "choose another"]);
    assert_eq!(std::fs::read(place.path().join("news.key")).unwrap(), before);
    // A ticket in the way: no key is left without one.
    place.write("other.ticket", "mine");
    place.run(&["channel", "new", "other"]).is_usage_error(&["other.ticket"]);
    assert!(!place.path().join("other.key").exists());
    place.run(&["channel", "new", "x", "--out", "no/such/x.key"]).is_usage_error(&["no/such/x.key"]);
}

#[test]
fn an_address_that_cannot_carry_a_channel_is_refused() {
    let place = Place::new();
    let new = |address| place.run(&["channel", "new", "news", "--advertise", address]);
    new("10.0.0.1:7600").is_usage_error(&["--advertise 10.0.0.1:7600", "not a multicast address"]);
    new("239.1.2.3:0").is_usage_error(&["port 0"]);
    new("239.1.2.3:65535").is_usage_error(&["port 65535"]);
    new("239.1.2.3:7700").is_usage_error(&["7701"]);
    new("239.1.2.3").is_usage_error(&["`239.1.2.3` is not GROUP:PORT", "as in 239.192.1.1:7600", "channel new --help"]);
    place.run(&["channel", "new", "a/b"]).is_usage_error(&["slash"]);
    place.run(&["channel", "new", "news", "--sender", "cdn1"]).is_usage_error(&["`cdn1` is not HOST:PORT"]);
    assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 0, "nothing was written");
    assert_eq!(new("[ff05::77]:7600").code, 0);
}

#[test]
fn a_delegated_key_gives_the_same_ticket_and_may_not_delegate() {
    let place = Place::new();
    let ticket = place.channel("news");
    let made = place.run(&["channel", "delegate", "news.key", "--out", "backup.key"]);
    assert_eq!(made.code, 0, "{made:?}");
    assert_eq!(mode(&place.path().join("backup.key")), 0o600);
    assert!(!std::fs::read_to_string(place.path().join("backup.key")).unwrap().contains("publisher-seed"));
    assert_eq!(place.run(&["channel", "ticket", "backup.key"]).stdout.trim(), ticket);
    place.run(&["channel", "delegate", "backup.key", "--out", "c.key"]).is_usage_error(&["backup.key", "publisher"]);
    place.run(&["channel", "delegate", "news.key", "--out", "backup.key"]).is_usage_error(&["never overwritten"]);
}

#[test]
fn a_list_of_receivers_is_kept_in_the_key_file_and_the_ticket_holds_no_secret() {
    let place = Place::new();
    let made = place.run(&["channel", "new", "news", "--admission", "allow-list", "--sender", "cdn1:7701"]);
    assert_eq!(made.code, 0, "{made:?}");
    let identity = place.run(&["identity", "--state", "here"]).stdout.trim().to_owned();
    assert_eq!(place.run(&["identity", "--state", "here"]).stdout.trim(), identity, "it is made once");
    assert_eq!(mode(&place.path().join("here/identity.key")), 0o600);
    place.run(&["identity"]).is_usage_error(&["--ticket or --state"]);
    let by_ticket = place.run(&["identity", "--ticket", "@news.ticket", "--json"]);
    assert!(by_ticket.code == 0 && by_ticket.stdout.contains("/state/receive-"), "{by_ticket:?}");
    assert!(by_ticket.stdout.contains(place.run(&["identity"]).stdout.trim()), "the only one");

    let run = |arguments: &[&str]| place.run(&[&["channel"], arguments].concat());
    let epoch_of = |ran: Ran| {
        assert_eq!(ran.code, 0, "{ran:?}");
        serde_json::from_str::<serde_json::Value>(&ran.stdout).unwrap()
    };
    run(&["allow", "news.key", "12ab"]).is_usage_error(&["`12ab` is no node's key", "nackcast identity"]);
    let allowed = epoch_of(run(&["allow", "news.key", &identity, "--name", "cache1", "--json"]));
    assert_eq!((&allowed["receivers"], &allowed["epoch"], allowed["ticket"].is_null()), (&1.into(), &1.into(), true));
    assert_eq!(mode(&place.path().join("news.key")), 0o600);
    let text = std::fs::read_to_string(place.path().join("news.key")).unwrap();
    assert!(text.contains(&identity) && text.contains("cache1"), "{text}");
    assert_eq!(run(&["delegate", "news.key", "--out", "backup.key"]).code, 0);
    for file in ["news.key", "backup.key"] {
        let revoked = epoch_of(run(&["revoke", file, &identity, "--json"]));
        assert_eq!((&revoked["receivers"], &revoked["epoch"]), (&0.into(), &2.into()));
        run(&["revoke", file, &identity]).is_usage_error(&["not on the list", "nothing was changed"]);
    }
    assert_eq!(epoch_of(run(&["rotate", "news.key", "--json"]))["epoch"], 3);
    assert!(std::fs::read_dir(place.path()).unwrap().all(|e| !e.unwrap().path().ends_with("news.key.new")));

    let ticket = run(&["new", "lone", "--admission", "allow-list"]).stdout;
    place.run(&["receive", "--ticket", ticket.trim(), "--into", "in"]).is_usage_error(&["holds no secret", "--source"]);
}

#[test]
fn a_channel_without_a_list_is_rotated_and_prints_the_new_ticket() {
    let place = Place::new();
    let ticket = place.channel("news");
    let rotated = place.run(&["channel", "rotate", "news.key"]);
    assert_eq!(rotated.code, 0, "{rotated:?}");
    assert!(rotated.stdout.starts_with("nackcast1") && rotated.stdout.trim() != ticket, "{rotated:?}");
    assert_eq!(place.run(&["channel", "ticket", "news.key"]).stdout, rotated.stdout);
    let key = "00".repeat(32);
    place.run(&["channel", "allow", "news.key", &key]).is_usage_error(&["no list", "--admission allow-list"]);
}

#[test]
fn a_key_file_that_others_can_read_is_complained_about() {
    let place = Place::new();
    place.channel("news");
    std::fs::set_permissions(place.path().join("news.key"), PermissionsExt::from_mode(0o644)).unwrap();
    let ran = place.run(&["channel", "ticket", "news.key"]);
    assert_eq!(ran.code, 0);
    assert!(ran.stderr.contains("chmod 600 news.key"), "{ran:?}");
    place.run(&["channel", "ticket", "none.key"]).is_usage_error(&["key file none.key cannot be read", "No such file"]);
    place.write("bad.key", "hello");
    place.run(&["channel", "ticket", "bad.key"]).is_usage_error(&["bad.key", "no key file"]);
}

#[test]
fn a_ticket_for_a_key_a_key_for_a_ticket_and_a_name_for_either_are_told_apart() {
    let place = Place::new();
    let ticket = place.channel("news");
    let receive = |ticket| place.run(&["receive", "--ticket", ticket, "--into", "in"]);
    receive("news.ticket").is_usage_error(&["--ticket news.ticket", "write --ticket @news.ticket"]);
    receive("none.ticket").is_usage_error(&["write --ticket @none.ticket"]);
    std::fs::copy(place.path().join("news.ticket"), place.path().join("plain")).unwrap();
    receive("plain").is_usage_error(&["write --ticket @plain"]);
    receive("@news.key").is_usage_error(&["--ticket @news.key", "a key file", "`nackcast channel ticket news.key`"]);
    let send = place.run(&["send", "--channel", "news.ticket=."]);
    send.is_usage_error(&["news.ticket is a ticket", "key file"]);
    assert!(!send.stderr.contains(&ticket[20..]) && !send.stderr.contains("restore it"), "{send:?}");
    place.run(&["channel", "ticket", "news.ticket"]).is_usage_error(&["news.ticket is a ticket", "key file"]);
    assert!(!place.path().join("state").exists(), "nothing was started");
}

#[test]
fn a_ticket_that_was_cut_short_is_refused_and_not_shown() {
    let place = Place::new();
    let ticket = place.channel("news");
    let short = &ticket[..ticket.len() - 9];
    let refused = place.run(&["receive", "--ticket", short, "--into", "in"]);
    refused.is_usage_error(&["--ticket number 1", "cut short or mistyped"]);
    assert!(!refused.stderr.contains(&short[20..]), "a ticket is a secret");
    place.write("short.ticket", short);
    place
        .run(&["receive", "--ticket", "@short.ticket", "--into", "in"])
        .is_usage_error(&["@short.ticket", "cut short"]);
    place.run(&["receive", "--ticket", "hello", "--into", "in"]).is_usage_error(&["this is no ticket"]);
    place.run(&["receive", "--ticket", "@none", "--into", "in"]).is_usage_error(&["ticket file none"]);
    place.run(&["receive", "--ticket", "-", "--into", "in"]).is_usage_error(&["--ticket -", "this is no ticket"]);
    let mut command = place.command(&["receive", "--into", "in"]);
    ran(command.env("NACKCAST_TICKET", short).output().unwrap()).is_usage_error(&["cut short"]);
    assert!(!place.path().join("in").exists(), "nothing was started");
}

#[test]
fn tickets_and_directories_belong_together() {
    let place = Place::new();
    place.channel("a");
    place.channel("b");
    let receive = |arguments: &[&str]| place.run(&[&["receive"], arguments].concat());
    receive(&[]).is_usage_error(&["no ticket", "NACKCAST_TICKET"]);
    receive(&["--ticket", "@a.ticket"]).is_usage_error(&["1 --ticket but 0 --into"]);
    receive(&["--ticket", "@a.ticket", "--into", "x", "--into", "y"]).is_usage_error(&["1 --ticket but 2 --into"]);
    receive(&["--ticket", "@a.ticket", "--into", "x", "--ticket", "@b.ticket", "--into", "x/y"])
        .is_usage_error(&["x/y", "overlaps"]);
    receive(&["--ticket", "@a.ticket", "--into", "x", "--ticket", "@a.ticket", "--into", "y"])
        .is_usage_error(&["channel a is given twice"]);
    receive(&["--ticket", "@a.ticket", "--into", "state/x", "--state", "state/x/s"])
        .is_usage_error(&["state directory"]);
    place.write("file", "");
    receive(&["--ticket", "@a.ticket", "--into", "file"]).is_usage_error(&["file", "no directory"]);
}

#[test]
fn what_cannot_run_leaves_no_state() {
    let place = Place::new();
    place.channel("a");
    place.channel("b");
    std::fs::create_dir_all(place.path().join("x/y")).unwrap();
    let receive = |more: &[&str]| place.run(&[&["receive", "--ticket", "@a.ticket"], more].concat());
    receive(&["--into", "x", "--interface", "eth99"]).is_usage_error(&["eth99"]);
    receive(&["--into", "no/such/x", "--interface", "lo"]).is_usage_error(&["no/such/x"]);
    // As a receiver that runs locks its target.
    let held = std::fs::File::open(place.path().join("x")).unwrap();
    held.lock().unwrap();
    receive(&["--into", "x/y", "--interface", "lo"]).is_usage_error(&["x/y lies in", "choose a directory outside"]);
    receive(&["--into", "x", "--interface", "lo"]).is_usage_error(&["x is in use", "another directory"]);
    let send = |more: &[&str]| place.run(&[&["send", "--channel", "a.key=x"], more].concat());
    send(&["--interface", "eth99"]).is_usage_error(&["eth99"]);
    send(&["--interface", "lo", "--exclude", "a[b"]).is_usage_error(&["a[b"]);
    let taken = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let listen = taken.local_addr().unwrap().to_string();
    send(&["--interface", "lo", "--listen", &listen]).is_usage_error(&[&listen, "in use"]);
    assert!(!place.path().join("state").exists(), "state was made");
    assert!(!place.path().join("no").exists(), "a target was made");
}

#[test]
fn a_sender_is_checked_before_it_starts() {
    let place = Place::new();
    place.channel("news");
    std::fs::create_dir(place.path().join("dir")).unwrap();
    let send = |arguments: &[&str]| place.run(&[&["send"], arguments].concat());
    let with = |arguments: &[&str]| send(&[&["--channel", "news.key=dir"], arguments].concat());
    send(&[]).is_usage_error(&["nothing to send", "--channel FILE=DIR"]);
    send(&["--channel", "news.key"]).is_usage_error(&["`news.key` is not FILE=DIR"]);
    send(&["--channel", "news.key=none"]).is_usage_error(&["directory none cannot be read", "No such file"]);
    send(&["--channel", "news.key=news.ticket"]).is_usage_error(&["news.ticket cannot be read", "Not a directory"]);
    with(&["--channel", "news.key=dir"]).is_usage_error(&["channel news is given twice"]);
    with(&["--role", "backup", "--once"]).is_usage_error(&["--once", "a backup waits until it is needed"]);
    with(&["--overwrite"]).is_usage_error(&["--overwrite", "a primary only reads"]);
    with(&["--peer", "nowhere"]).is_usage_error(&["nowhere"]);
    with(&["--expect", "3"]).is_usage_error(&["--expect", "--once"]);
    with(&["--rate", "20 apples"]).is_usage_error(&["`20 apples` is not a rate"]);
    with(&["--rate", "auto", "--rate-floor", "max"]).is_usage_error(&["`max` is no fixed rate"]);
    with(&["--dscp", "64"]).is_usage_error(&["0 to 63"]);
    with(&["--ttl", "256"]).is_usage_error(&["256"]);
    with(&["--listen", "7701"]).is_usage_error(&["`7701` is not ADDR:PORT", "as in [::]:7701"]);
    with(&["--listen", "[::]:7600"]).is_usage_error(&["--listen [::]:7600", "7601"]);
    with(&["--symbol-size", "1401"]).is_usage_error(&["1401"]);
    with(&["--state", "dir/state"]).is_usage_error(&["lies in", "--state"]);
    with(&["--chanel", "x"]).is_usage_error(&["--chanel", "--channel", "nackcast send --help"]);
    assert!(!place.path().join("state").exists(), "nothing was started");
}

#[test]
fn an_unknown_key_of_a_configuration_file_is_named_with_its_line() {
    let place = Place::new();
    place.channel("news");
    place.write("send.toml", "channel = [\"news.key=.\"]\n\nrat = \"20mbit\"\n");
    place.run(&["send", "--config", "send.toml"]).is_usage_error(&["send.toml:3:", "`rat`"]);
    place.write("send.toml", "ttl = 3\nrate = \"20 apples\"\n");
    place.run(&["send", "--config", "send.toml"]).is_usage_error(&["send.toml:2: key `rate`: `20 apples`"]);
    place.write("send.toml", "listen = \"7701\"\n");
    place.run(&["send", "--config", "send.toml"]).is_usage_error(&["send.toml:1: key `listen`", "as in [::]:7701"]);
    place.write("receive.toml", "into = \"x\"\n");
    place.run(&["receive", "--config", "receive.toml"]).is_usage_error(&["receive.toml:1: key `into`"]);
    place.run(&["receive", "--config", "none.toml"]).is_usage_error(&["none.toml", "No such file"]);
}

#[test]
fn a_bench_that_cannot_be_run_as_asked_makes_nothing() {
    let place = Place::new();
    place.channel("news");
    let bench = |arguments: &[&str]| place.run(&[&["bench", "--dir", "."], arguments].concat());
    bench(&["--send", "news.key", "--receive", "@news.ticket"]).is_usage_error(&["--send", "--receive"]);
    bench(&["--send", "news.key", "--loss", "2%"]).is_usage_error(&["--loss"]);
    bench(&["--receive", "@news.ticket", "--size", "1MiB"]).is_usage_error(&["--size"]);
    bench(&["--source", "a:7701"]).is_usage_error(&["--receive"]);
    bench(&["--interface", "lo"]).is_usage_error(&["--interface", "--send"]);
    bench(&["--size", "5", "--files", "6"]).is_usage_error(&["--size, --files"]);
    bench(&["--send", "none.key"]).is_usage_error(&["none.key"]);
    bench(&["--send", "news.key", "--interface", "lo", "--size", "5000000GiB"]).is_usage_error(&["are free", "--size"]);
    place.run(&["bench", "--dir", "nowhere"]).is_usage_error(&["--dir nowhere"]);
    let left = std::fs::read_dir(place.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert!(!left.into_iter().any(|name| name.starts_with("nackcast-bench")), "nothing is left");
}

#[test]
fn every_command_has_help_with_examples() {
    let place = Place::new();
    let commands = "|demo|channel|channel new|channel ticket|channel delegate|channel allow|channel revoke|channel rotate|identity|send|receive|scan|verify|sim|bench|completions|man|version";
    for command in commands.split('|') {
        let arguments: Vec<&str> = command.split_whitespace().chain(["--help"]).collect();
        let help = place.run(&arguments);
        assert_eq!((help.code, help.stderr.as_str()), (0, ""), "{command}: {help:?}");
        assert!(help.stdout.contains("Examples:\n  "), "{command}: {}", help.stdout);
        let asked: Vec<&str> = ["help"].into_iter().chain(command.split_whitespace()).collect();
        let asked = place.run(&asked);
        assert_eq!((asked.code, asked.stdout), (0, help.stdout), "help {command}");
    }
    let send = place.run(&["send", "--help"]).stdout;
    assert!(!send.contains("QUIC"), "only what works: {send}");
    assert_eq!(place.run(&[]).code, 2);
    assert_eq!(place.run(&["frobnicate"]).code, 2);
}

#[test]
fn results_are_json_when_asked() {
    let place = Place::new();
    let json = |arguments: &[&str]| -> serde_json::Value {
        let ran = place.run(arguments);
        assert_eq!(ran.code, 0, "{ran:?}");
        serde_json::from_str(&ran.stdout).unwrap()
    };
    let made = json(&["channel", "new", "news", "--advertise", "239.1.2.3:7600", "--json"]);
    assert_eq!((&made["name"], &made["advertise"]), (&"news".into(), &"239.1.2.3:7600".into()));
    assert_eq!(made["ticket_file"], "news.ticket");
    assert_eq!(json(&["channel", "ticket", "news.key", "--json"])["ticket"], made["ticket"]);
    assert_eq!(json(&["channel", "delegate", "news.key", "--out", "b.key", "--json"])["channel"], made["channel"]);
    assert_eq!(json(&["version", "--json"])["version"], env!("CARGO_PKG_VERSION"));
}

#[test]
fn a_sender_needs_the_port_after_its_own() {
    let place = Place::new();
    place.channel("news");
    std::fs::create_dir(place.path().join("dir")).unwrap();
    let bind = |port| std::net::UdpSocket::bind(("127.0.0.1", port));
    let (taken, before) = loop {
        let taken = bind(0).unwrap();
        let before = taken.local_addr().unwrap().port() - 1;
        if bind(before).is_ok() {
            break (taken, before);
        }
    };
    let listen = format!("127.0.0.1:{before}");
    place
        .run(&["send", "--channel", "news.key=dir", "--listen", &listen, "--interface", "lo", "--state", "state"])
        .is_usage_error(&[&taken.local_addr().unwrap().to_string(), "--listen needs two free ports"]);
}

#[test]
fn shells_and_packagers_get_their_files() {
    let place = Place::new();
    for shell in ["bash", "zsh", "fish"] {
        let script = place.run(&["completions", shell]);
        assert!(script.code == 0 && script.stdout.contains("receive"), "{shell}");
    }
    assert!(place.run(&["man"]).stdout.contains(".TH nackcast 1"));
    assert_eq!(place.run(&["man", "--out", "."]).code, 0);
    assert!(place.path().join("nackcast-channel-new.1").exists());
    assert_eq!(place.run(&["man", "--out", "new/man1"]).code, 0);
    assert!(place.path().join("new/man1/nackcast-send.1").exists(), "the directory is made");
    place.write("file", "");
    place.run(&["man", "--out", "file/man1"]).is_usage_error(&["file/man1"]);
}

#[test]
fn asking_where_no_node_runs_says_what_to_do() {
    let place = Place::new();
    place.run(&["scan", "--node", "ftp://x:1"]).is_usage_error(&["unix:PATH"]);
    let gone = place.run(&["scan", "--node", "unix:none.sock"]);
    assert_eq!(gone.code, 1, "{gone:?}");
    assert!(gone.stderr.starts_with("nackcast: no node answers at none.sock"), "{gone:?}");
    place.run(&["verify", "none"]).is_usage_error(&["none is no directory"]);
    place.run(&["verify", "."]).is_usage_error(&["no receiver's state", "--state"]);
}

#[test]
fn a_simulated_failure_says_how_to_see_it_again() {
    let place = Place::new();
    place.write("short.toml", "liveness_ms = 1\nheal_at_ms = 1\n");
    let failed = place.run(&["sim", "--scenario", "short.toml", "--receivers", "2", "--loss", "7%", "--no-shrink"]);
    assert_eq!(failed.code, 1, "{failed:?}");
    let again = "replay it with `nackcast sim --scenario short.toml --receivers 2 --loss 7%`";
    assert!(failed.stdout.contains(again), "{failed:?}");
    place.run(&["sim", "--seed", "1", "--receivers", "0"]).is_usage_error(&["--receivers", "1..=10000"]);
    place.run(&["sim", "--cast", "1", "--receivers", "3"]).is_usage_error(&["--cast", "--receivers"]);
    place.run(&["sim", "--cast", "1", "--seed", "3"]).is_usage_error(&["--cast", "--seed"]);
    let trace = |args: &[&str]| {
        let ran = place.run(args);
        assert_eq!(ran.code, 0, "{ran:?}");
        serde_json::from_str::<serde_json::Value>(&ran.stdout).unwrap()["results"][0]["trace"].clone()
    };
    let one = trace(&["sim", "--cast", "3", "--json"]);
    assert!(one.is_string());
    assert_eq!(one, trace(&["sim", "--cast", "3", "--json"]));
    assert_ne!(one, trace(&["sim", "--cast", "4", "--json"]));
    assert_eq!(place.run(&["sim", "--casts", "3..5", "--json"]).code, 0);
}

#[test]
fn a_scenario_for_real_processes_must_be_one_that_they_can_run() {
    let place = Place::new();
    place.run(&["sim", "--real"]).is_usage_error(&["--scenario"]);
    place.write("publish.toml", "[[happenings]]\nat_ms = 1\nwhat = \"publish\"\n");
    place.run(&["sim", "--scenario", "publish.toml", "--real"]).is_usage_error(&["`publish`", "leave --real out"]);
}
