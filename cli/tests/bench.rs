//! `nackcast bench` with real processes: what it counts is right, whoever reads it. Nothing is judged by the clock.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nackcast_testbed::netns::with_namespaces;
use nackcast_testbed::network::{Bridged, Host};
use nackcast_testbed::process::{Process, Signal};
use serde_json::Value;
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(120);
/// What Ethernet, IP, UDP, our headers, the manifest and advertisements make of content, and no more.
const LEAST_OVERHEAD: f64 = 1.06;

/// Words of the operator's guide.
const BOTTLENECKS: [&str; 9] =
    ["rate", "overruns", "disk", "link", "machine-cpu", "sender-cpu", "receiver-cpu", "switch-cpu", "waiting"];

fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_nackcast"))
}

/// Benches at once would only be in each other's way.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn place() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// A bench on this machine; nothing of it is left.
fn bench(arguments: &[&str]) -> Value {
    let place = place();
    let mut command = Command::new(program());
    command.args(["bench", "--json", "--quiet", "--dir"]).arg(place.path()).args(arguments);
    let output = command.env_remove("RUST_LOG").env("STATE_DIRECTORY", place.path().join("state")).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let left: Vec<_> = std::fs::read_dir(place.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(left, Vec::<std::path::PathBuf>::new());
    serde_json::from_slice(&output.stdout).unwrap()
}

fn real(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

#[test]
fn every_receiver_has_all_and_every_figure_is_there() {
    let _alone = alone();
    // A rate that everybody here can take: nothing is to be lost.
    let result = bench(&["--receivers", "2", "--size", "8MiB", "--files", "5", "--rate", "40mbit"]);
    assert_eq!((&result["success"], &result["network"]), (&true.into(), &"bridge".into()), "{result}");
    assert_eq!((&result["bytes"], &result["files"]), (&(8 << 20).into(), &5.into()));
    let receivers = result["receivers"].as_array().unwrap();
    assert_eq!(receivers.len(), 2);
    for receiver in receivers {
        assert_eq!((&receiver["bytes"], &receiver["files"]), (&(8 << 20).into(), &5.into()), "{receiver}");
        assert!(receiver["data_bytes"].as_u64().unwrap() > 8 << 20, "{receiver}");
    }
    assert_eq!(result["sender"]["receivers_complete"], 2);
    let overhead = real(&result["overhead"]);
    assert!(overhead > LEAST_OVERHEAD && overhead < 1.5, "{result}");
    for figure in
        ["seconds", "goodput_bps", "cpu_seconds_per_gb", "sender_cpu_seconds_per_gb", "receiver_cpu_seconds_per_gb"]
    {
        assert!(real(&result[figure]) > 0.0, "{figure}: {result}");
    }
    assert!(real(&result["user_seconds_per_gb"]) <= real(&result["cpu_seconds_per_gb"]));
    // Plain datagrams with nobody doing any work are not slower than 40 Mbit/s.
    assert!(real(&result["raw"]["bps"]) > 40e6 && real(&result["of_raw"]) < 1.0, "{result}");
    let what = result["bottleneck"]["what"].as_str().unwrap();
    assert!(BOTTLENECKS.contains(&what), "{result}");
}

#[test]
fn loss_on_purpose_is_repaired_and_counted() {
    let _alone = alone();
    let result = bench(&["--receivers", "2", "--size", "8MiB", "--loss", "5%", "--rate", "40mbit", "--no-raw"]);
    assert_eq!((&result["success"], &result["network"]), (&true.into(), &"switch".into()), "{result}");
    assert!(result["sender"]["repair_bytes"].as_u64().unwrap() > 0, "{result}");
    assert!(real(&result["switch_cpu_seconds_per_gb"]) > 0.0, "{result}");
    assert_eq!((&result["raw"], &result["of_raw"]), (&Value::Null, &Value::Null));
}

/// `nackcast bench` on a host, with its content and its logs in a directory.
fn start(host: &Host, directory: &Path, arguments: &[&str]) -> Process {
    let at = directory.to_str().unwrap();
    let arguments = [&["bench", "--json", "--dir", at], arguments].concat();
    Process::spawn(host, host.name(), program(), arguments, &[("RUST_LOG", "info")], directory).unwrap()
}

#[test]
fn sides_between_hosts_report_each_for_itself() {
    let _alone = alone();
    with_namespaces(|| {
        let place = place();
        let network = Bridged::build(&["sender", "one", "two"]).unwrap();
        let [sender, one, two] = network.hosts() else { panic!("three hosts") };
        let mut new = Command::new(program());
        new.args(["channel", "new", "test", "--sender", &format!("{}:7701", sender.addr_v4())])
            .current_dir(place.path());
        assert!(new.output().unwrap().status.success());
        let at = |file: &str| place.path().join(file).to_str().unwrap().to_owned();
        let (key, ticket) = (at("test.key"), format!("@{}", at("test.ticket")));
        let receive = ["--receive", &ticket, "--interface", one.interface()];
        let mut receivers = [one, two].map(|host| start(host, place.path(), &receive));
        let send = ["--send", &key, "--receivers", "2", "--size", "4MiB", "--files", "3", "--rate", "max"];
        let mut sender = start(sender, place.path(), &[&send[..], &["--interface", one.interface()]].concat());
        let report = |process: &mut Process| -> Value {
            let status = process.wait(PATIENCE).unwrap();
            assert!(status.success(), "{}", process.stderr());
            serde_json::from_str(process.stdout().trim()).unwrap()
        };
        let sent = report(&mut sender);
        assert_eq!((&sent["role"], &sent["receivers_complete"]), (&"sender".into(), &2.into()), "{sent}");
        assert!(real(&sent["overhead"]) > LEAST_OVERHEAD, "{sent}");
        for receiver in &mut receivers {
            let got = report(receiver);
            assert_eq!((&got["role"], &got["success"]), (&"receiver".into(), &true.into()), "{got}");
            assert_eq!((&got["bytes"], &got["files"]), (&(4 << 20).into(), &3.into()), "{got}");
            // As fast as the sender can: then plain datagrams follow, which receivers count.
            assert!(real(&got["raw"]["bps"]) > 0.0, "{got}");
        }
    });
}

#[test]
fn a_signal_ends_it_and_leaves_nothing() {
    let _alone = alone();
    with_namespaces(|| {
        let place = place();
        let network = Bridged::build(&["here"]).unwrap();
        let arguments = ["--size", "64MiB", "--rate", "1mbit", "--no-raw"];
        let mut bench = start(&network.hosts()[0], place.path(), &arguments);
        bench.wait_for_stderr("starting the receivers", PATIENCE).unwrap();
        bench.signal(Signal::SIGTERM).unwrap();
        assert_eq!(bench.wait(PATIENCE).unwrap().code(), Some(1));
        assert!(bench.stderr().contains("interrupted"), "{}", bench.stderr());
        let left = std::fs::read_dir(place.path()).unwrap().filter(|entry| entry.as_ref().unwrap().path().is_dir());
        assert_eq!(left.count(), 0);
    });
}
