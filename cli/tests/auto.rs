//! `--rate auto` with real processes behind a narrow cable: how much of it is used, alone and beside TCP. Measurements;
//! they need an idle machine: `cargo test -p nackcast --test auto -- --ignored --nocapture --test-threads 1`.

#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    clippy::cast_precision_loss,
    clippy::disallowed_methods,
    reason = "a measurement says what it measured, by the clock, and fails when it cannot go on"
)]

#[path = "common/site.rs"]
#[expect(dead_code, reason = "other tests need the rest")]
mod site;
#[path = "common/tree.rs"]
#[expect(dead_code, reason = "other tests need the rest")]
mod tree;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nackcast_testbed::fabric::{Direction, Link};
use nackcast_testbed::netns::with_namespaces;

use nix::sys::socket::{setsockopt, sockopt};

use crate::site::{Site, progress, until};
use crate::tree::noise;

/// The narrow place: so many bits a second, and so many bytes wait before it (30 packets).
const RATE: u64 = 100_000_000;
const QUEUE: usize = 45_000;
const DELAY: Duration = Duration::from_millis(20);
const JITTER: Duration = Duration::from_millis(5);
const SAMPLE: Duration = Duration::from_millis(500);
const LASTS: Duration = Duration::from_secs(20);
const CONTENT: usize = 300 << 20;

/// A sender behind the narrow cable, and receivers behind a long one that loses by chance.
fn site(loss: f64) -> Site {
    let site = Site::new(2, 0.0);
    std::fs::write(site.source().join("large"), noise(1, CONTENT)).unwrap();
    let narrow = Link { rate_bps: Some(RATE), queue_bytes: QUEUE, ..Link::default() };
    site.network.fabric().set_link("sender", Direction::FromHost, narrow).unwrap();
    let long = Link { loss, delay: DELAY, jitter: JITTER, ..Link::default() };
    for receiver in 1..=2 {
        site.set_link(receiver, long);
    }
    site.network.fabric().set_link("observer", Direction::ToHost, Link { loss: 0.0, ..long }).unwrap();
    site
}

/// Samples what leaves the narrow place, of all and of content, and what its queue refuses. Ends with the content.
fn watch(site: &Site, other: &AtomicU64) -> Vec<(f64, f64, f64, f64)> {
    let mut sender = site.send(&["--rate", "auto"]);
    let receivers: Vec<_> = (1..=2).map(|receiver| site.receive_on(receiver, &[])).collect();
    until("content is sent", || site.sent().multicast_udp.bytes > 1_000_000);
    let (begun, mut rows) = (Instant::now(), Vec::new());
    let mut before = (site.sent(), other.load(Ordering::Relaxed), Duration::ZERO);
    while begun.elapsed() < LASTS && receivers.iter().any(|receiver| progress(receiver)["state"] != "complete") {
        std::thread::sleep(SAMPLE);
        let after = (site.sent(), other.load(Ordering::Relaxed), begun.elapsed());
        let seconds = (after.2 - before.2).as_secs_f64();
        let rate = |bytes: u64| bytes as f64 * 8.0 / 1e6 / seconds;
        let lost = after.0.dropped_by_queue - before.0.dropped_by_queue;
        let sent = after.0.multicast_udp.frames - before.0.multicast_udp.frames;
        let row = (
            after.2.as_secs_f64(),
            rate(after.0.multicast_udp.bytes - before.0.multicast_udp.bytes),
            rate(after.1 - before.1),
            100.0 * lost as f64 / sent.max(1) as f64,
        );
        let (limit, loss) = (&progress(&sender)["rate_limit_bps"], &progress(&receivers[0])["loss_ppm"]);
        eprintln!(
            "{:5.1} s: sent {:5.1} Mbit/s, TCP {:5.1}, queue loss {:.2} %, limit {limit}, loss {loss}",
            row.0, row.1, row.2, row.3
        );
        rows.push(row);
        before = after;
    }
    sender.kill9().unwrap();
    rows
}

/// Ends the other flow, also when something fails.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn mean(rows: &[(f64, f64, f64, f64)], from: f64, of: impl Fn(&(f64, f64, f64, f64)) -> f64) -> f64 {
    let rows: Vec<f64> = rows.iter().filter(|row| row.0 > from).map(of).collect();
    rows.iter().sum::<f64>() / rows.len() as f64
}

#[test]
#[ignore = "a measurement: it needs an idle machine"]
fn alone_with_random_loss() {
    with_namespaces(|| {
        let rows = watch(&site(0.01), &AtomicU64::new(0));
        let share = 100e6 / RATE as f64;
        eprintln!(
            "from 2 s on: {:.1} % of the cable, {:.2} % lost in its queue",
            mean(&rows, 2.0, |row| row.1) * share * 1.0,
            mean(&rows, 2.0, |row| row.3)
        );
    });
}

#[test]
#[ignore = "a measurement: it needs an idle machine"]
fn beside_tcp() {
    with_namespaces(|| {
        let site = site(0.0);
        let (received, ends) = (AtomicU64::new(0), AtomicBool::new(false));
        let observer = site.network.host("observer");
        let to = SocketAddr::new(observer.addr_v4().into(), 5001);
        let listener = observer.run(|| TcpListener::bind(to).unwrap()).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let (mut stream, _) = listener.accept().unwrap();
                let mut buffer = vec![0; 1 << 16];
                while let Ok(read @ 1..) = stream.read(&mut buffer) {
                    received.fetch_add(read as u64, Ordering::Relaxed);
                }
            });
            let mut stream = site.network.host("sender").run(|| TcpStream::connect(to).unwrap()).unwrap();
            setsockopt(&stream, sockopt::TcpCongestion, &"cubic".into()).unwrap();
            scope.spawn({
                let ends = &ends;
                move || while !ends.load(Ordering::Relaxed) && stream.write_all(&[7; 1 << 14]).is_ok() {}
            });
            let flow = Ends(&ends);
            let rows = watch(&site, &received);
            drop(flow);
            let (ours, theirs) = (mean(&rows, 5.0, |row| row.1), mean(&rows, 5.0, |row| row.2));
            eprintln!("from 5 s on: ours {ours:.1} Mbit/s, TCP {theirs:.1}: {:.2} of it", ours / theirs);
        });
    });
}
