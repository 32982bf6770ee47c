//! What a node tells systemd, on a socket that stands in for it.

use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use nackcast_testbed::netns::with_namespaces;

use crate::stage::{Stage, end, with_others};

#[test]
fn a_node_says_that_it_runs_what_it_does_and_that_it_ends() {
    let _turn = with_others();
    with_namespaces(|| {
        let stage = Stage::new();
        let path = stage.path("notify");
        let systemd = UnixDatagram::bind(&path).unwrap();
        systemd.set_read_timeout(Some(Duration::from_secs(240))).unwrap();
        let mut heard = Vec::new();
        let mut until_told = |what: &str| {
            while !heard.iter().any(|line: &String| line.starts_with(what)) {
                let mut datagram = [0; 4096];
                let length =
                    systemd.recv(&mut datagram).unwrap_or_else(|error| panic!("no {what}: {error}, {heard:?}"));
                heard.extend(String::from_utf8_lossy(&datagram[..length]).lines().map(str::to_owned));
            }
            heard.clone()
        };
        // Every quarter of a second: half of what the watchdog gives.
        let watchdog = [("NOTIFY_SOCKET", path.to_str().unwrap()), ("WATCHDOG_USEC", "500000")];
        let mut sender = stage.send_with(&[], &watchdog);
        assert_eq!(until_told("READY=1"), ["READY=1"], "nothing before it runs");
        until_told("STATUS=news: idle, generation ");
        until_told("WATCHDOG=1");
        end(&mut sender);
        assert_eq!(until_told("STOPPING=1").last().map(String::as_str), Some("STOPPING=1"));
    });
}
