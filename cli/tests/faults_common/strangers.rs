//! Who does not belong to a channel: receivers with another ticket, senders with another key, floods of garbage.

use std::net::{Ipv4Addr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nackcast_common::clock::{Clock, Time};
use nackcast_common::keys::Flow;
use nackcast_proto::wire::header::{self, DatagramType, Header};
use nackcast_testbed::netns::with_namespaces;

use crate::stage::{
    GROUP, NACK_PORT, PATIENCE, Stage, counted, end, fill, noise, pause, summary, wait_until, wait_until_complete,
    write,
};

const DATA_GROUP: &str = "239.192.7.7:7601";
const TREE: u64 = 17 << 20;

/// The value of a key in a key file.
fn value<'a>(key_file: &'a str, key: &str) -> &'a str {
    key_file.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(" = ")).unwrap()
}

#[test]
fn strangers_on_the_group_are_told_or_named_and_disturb_nobody() {
    with_namespaces(|| {
        let stage = Stage::new(&["a", "wrong", "foreign", "impostor"], 0.01);
        fill(&stage.source(), 100);
        ["other", "third"].iter().for_each(|name| stage.channel(name));
        // The impostor knows the channel's secrets, as a receiver does, and signs with a key of its own.
        let [news, other] = ["news.key", "other.key"].map(|name| std::fs::read_to_string(stage.path(name)).unwrap());
        let forged = news.replace(value(&news, "publisher-seed"), value(&other, "publisher-seed"));
        assert_ne!(forged, news);
        stage.forge("impostor.key", &forged);
        for directory in ["foreign-source", "impostor-source"] {
            write(&stage.path(directory).join("large.bin"), 666, 4 << 20);
            write(&stage.path(directory).join("wrong.bin"), 667, 1 << 20);
        }

        let mut receiver = stage.receive("a", &[]);
        let mut wrong = stage.receive_with("wrong", "third.ticket", &[]);
        let mut foreign = stage.send_from("foreign", "other.key", "foreign-source", &[]);
        let mut impostor = stage.send_from("impostor", "impostor.key", "impostor-source", &[]);
        for stranger in [&mut foreign, &mut impostor] {
            wait_until(stranger, |said| said.contains("serving"));
        }
        let mut sender = stage.send(&["--once", "--expect", "1"]);
        wait_until_complete(&mut receiver, 1);
        assert_eq!(sender.wait(PATIENCE).unwrap().code(), Some(0), "{}", sender.stderr());
        let said = summary(&sender);
        let news = &said["channels"][0];
        let generation = news["generation"].clone();
        assert_eq!((&news["receivers"], &news["receivers_complete"]), (&1.into(), &1.into()), "{said}");
        assert!(stage.sent() < TREE * 5 / 4, "{} bytes were sent", stage.sent());
        stage.assert_same("a");

        wait_until(&mut wrong, |said| said.contains("none opens with this ticket"));
        let line = wrong.stderr().lines().find(|line| line.contains("none opens")).unwrap().to_owned();
        assert!(line.contains("third: ") && line.contains(GROUP) && line.contains("channel ticket FILE"), "{line}");
        let impostor_address = stage.host("impostor").addr_v4().to_string();
        let foreign_address = stage.host("foreign").addr_v4().to_string();
        wait_until(&mut receiver, |said| {
            let named = |address: &str, what: &str| said.lines().any(|l| l.contains(address) && l.contains(what));
            named(&impostor_address, "ignored an advertisement from") && named(&foreign_address, "another channel")
        });

        assert_eq!(end(&mut wrong)["channels"][0]["complete"], false);
        assert_eq!(std::fs::read_dir(stage.target("wrong")).unwrap().count(), 0, "nothing was installed");
        let said = end(&mut receiver);
        assert_eq!((&said["channels"][0]["complete"], &said["channels"][0]["generation"]), (&true.into(), &generation));
        stage.assert_same("a");
        for stranger in [&mut foreign, &mut impostor] {
            assert_eq!(end(stranger)["channels"][0]["receivers_complete"], 0);
        }
    });
}

/// Sends garbage to both groups and to the NACK port, [`Flood::RATE`] datagrams a second to each.
struct Flood {
    sources: Vec<UdpSocket>,
    socket: UdpSocket,
    random: Vec<u8>,
    at: usize,
    captured: Vec<Vec<u8>>,
    sent: u64,
}

impl Flood {
    const RATE: u64 = 10_000;
    const CAPTURED_MAX: usize = 512;

    /// On the host that is at `address`.
    fn new(address: Ipv4Addr) -> Self {
        let join = |group: &str| {
            let socket = UdpSocket::bind(group).unwrap();
            socket.join_multicast_v4(&Ipv4Addr::new(239, 192, 7, 7), &address).unwrap();
            socket.set_nonblocking(true).unwrap();
            socket
        };
        let socket = UdpSocket::bind((address, 0)).unwrap();
        // It shall not listen to itself.
        socket.set_multicast_loop_v4(false).unwrap();
        let sources = vec![join(GROUP), join(DATA_GROUP)];
        Self { sources, socket, random: noise(99, 1 << 20), at: 0, captured: Vec::new(), sent: 0 }
    }

    fn next(&mut self, below: usize) -> usize {
        self.at = (self.at + 4) % (self.random.len() - 4);
        u32::from_le_bytes(*self.random[self.at..].first_chunk().unwrap()) as usize % below
    }

    /// Takes in what is real, now and then something newer.
    fn capture(&mut self) {
        let mut buffer = [0; 2048];
        for source in 0..self.sources.len() {
            for _ in 0..8 {
                let Ok((length, _)) = self.sources[source].recv_from(&mut buffer) else { break };
                let datagram = buffer[..length].to_vec();
                if self.captured.len() < Self::CAPTURED_MAX {
                    self.captured.push(datagram);
                } else {
                    let at = self.next(Self::CAPTURED_MAX);
                    self.captured[at] = datagram;
                }
            }
        }
    }

    fn noise(&mut self, most: usize) -> Vec<u8> {
        let (start, length) = (self.next(self.random.len() - most), self.next(most));
        self.random[start..start + length].to_vec()
    }

    /// Pure noise, noise under a good header, or a real datagram: cut, lengthened, changed, or replayed as it was.
    fn datagram(&mut self) -> Vec<u8> {
        let kind = self.next(8);
        if kind == 0 || self.captured.is_empty() {
            return self.noise(1600);
        }
        if kind == 1 {
            return self.with_header();
        }
        let at = self.next(self.captured.len());
        let mut datagram = self.captured[at].clone();
        let place = self.next(datagram.len());
        match kind {
            2 => datagram.truncate(place),
            3 => datagram.extend(self.noise(100)),
            // In the header.
            4 => datagram[place % header::LEN] ^= 1 << (place % 8),
            5 => {}
            _ => datagram[place] ^= 1 << (place % 8),
        }
        datagram
    }

    fn with_header(&mut self) -> Vec<u8> {
        let types = [
            (DatagramType::Nack, Flow::ToSender),
            (DatagramType::Symbol, Flow::Data),
            (DatagramType::Advertisement, Flow::Advertisement),
            (DatagramType::Digest, Flow::Advertisement),
        ];
        let (datagram_type, flow) = types[self.next(types.len())];
        let [session, packet_number] = [self.next(usize::MAX) as u64, self.next(1 << 20) as u64];
        let header = Header { datagram_type, flow, epoch_low: 1, session, packet_number };
        let mut datagram = vec![0; header::LEN];
        header.write(datagram.first_chunk_mut().unwrap());
        datagram.extend(self.noise(1400));
        datagram
    }

    /// Until it is told to stop.
    fn run(&mut self, stop: &AtomicBool) {
        let clock = Clock::start();
        while !stop.load(Ordering::Relaxed) {
            let passed = clock.now().since(Time::ZERO);
            let due = u64::try_from(passed.as_micros()).unwrap() * Self::RATE / 1_000_000;
            self.capture();
            while self.sent < due {
                for to in [GROUP, DATA_GROUP, NACK_PORT] {
                    let datagram = self.datagram();
                    // A refusal by a host that is gone is no matter.
                    let _sent = self.socket.send_to(&datagram, to);
                }
                self.sent += 1;
            }
            pause(Duration::from_millis(1));
        }
    }
}

#[test]
fn a_flood_of_garbage_is_counted_and_dropped_and_the_transfer_completes() {
    with_namespaces(|| {
        let stage = Stage::new(&["a", "b", "noise"], 0.0);
        fill(&stage.source(), 100);
        let mut receivers = ["a", "b"].map(|name| stage.receive(name, &["--once"]));
        let (stop, address) = (AtomicBool::new(false), stage.host("noise").addr_v4());
        let (mut sender, flooded) = std::thread::scope(|scope| {
            let flood = scope.spawn(|| {
                stage.host("noise").run(|| {
                    let mut flood = Flood::new(address);
                    flood.run(&stop);
                    (flood.sent, flood.captured.len())
                })
            });
            // However this ends, the flood does.
            let stopped = Stop(&stop);
            // Slow enough for the flood to be there during all of it.
            let mut sender = stage.send(&["--once", "--expect", "2", "--rate", "60mbit"]);
            for receiver in &mut receivers {
                assert!(receiver.wait(PATIENCE).unwrap().success(), "{}", receiver.stderr());
            }
            assert!(sender.wait(PATIENCE).unwrap().success(), "{}", sender.stderr());
            drop(stopped);
            let (sent, captured) = flood.join().unwrap().unwrap();
            assert!(sent > 10_000 && captured > 100, "{sent} sent, {captured} captured");
            (sender, sent)
        });
        for receiver in &mut receivers {
            stage.assert_same(receiver.name());
            let log = receiver.stderr();
            let [malformed, unopened] = ["malformed", "unopened"].map(|name| counted(&log, name));
            assert!(malformed > 1000 && unopened > 1000, "{malformed} malformed, {unopened} unopened\n{log}");
            // One in eight is a replay, which opens; of the rest the kernel may drop some before us. And the flood
            // goes on while the sender lingers, when the receivers have long ended.
            assert!(
                malformed + unopened > flooded / 3,
                "{malformed} malformed, {unopened} unopened of {flooded} twice"
            );
            assert_eq!(summary(receiver)["channels"][0]["problems"].as_array().unwrap().len(), 0, "{log}");
        }
        let log = sender.stderr();
        let [malformed, unopened] = ["malformed", "unopened"].map(|name| counted(&log, name));
        assert!(malformed > 1000 && unopened > 100, "{malformed} malformed, {unopened} unopened\n{log}");
        assert_eq!(summary(&sender)["channels"][0]["receivers"], 2);
        let sent = stage.sent();
        assert!(sent < TREE * 3 / 2, "{sent} bytes were sent");
        assert!(sender.try_wait().unwrap().is_some());
    });
}

/// Sets a flag when it goes, by whatever way.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
