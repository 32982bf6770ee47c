//! Answers do not wait for data, however fast that goes.

use std::net::UdpSocket;
use std::time::Duration;

use nackcast_common::ids::RunId;
use nackcast_common::keys::Flow;
use nackcast_proto::ticket::Ticket;
use nackcast_proto::wire::header::{DatagramType, Header};
use nackcast_proto::wire::{ECHO_SESSION, Nack};
use nackcast_testbed::netns::with_namespaces;

use crate::site::{NACK_PORT, Site, alone, assert_ends, progress, until};
use crate::tree::{Tree, noise};

/// Some seconds' worth.
const SIZE: usize = 500_000_000;
/// Answers that must come while all that is sent: if they waited for data, one would.
const ANSWERS_MIN: u64 = 10;
const RUN: RunId = RunId(99);
/// Nodes answer no more than 100 such questions a second.
const PAUSE: Duration = Duration::from_millis(20);

/// Asks whether it is heard, over and over, each time when the answer to the last question is here; how many came.
fn echoes(site: &Site, mut goes_on: impl FnMut() -> bool) -> u64 {
    let ticket: Ticket = std::fs::read_to_string(site.path("site.ticket")).unwrap().parse().unwrap();
    let key = ticket.secret.as_ref().unwrap().flow_key(ticket.channel, RUN.0, Flow::ToSender);
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    let mut answers = 0;
    for packet_number in 0.. {
        if !goes_on() {
            break;
        }
        let nack = Nack { channel: ticket.channel, session: ECHO_SESSION, nonce: 1, ..Nack::default() };
        let header = Header {
            datagram_type: DatagramType::Nack,
            flow: Flow::ToSender,
            epoch_low: ticket.epoch.low(),
            session: RUN.0,
            packet_number,
        };
        let mut datagram = Vec::new();
        header.seal(&key, &nack.encode(), &mut datagram);
        socket.send_to(&datagram, (site.sender_addr(), NACK_PORT)).unwrap();
        answers += u64::from(socket.recv_from(&mut [0; 2048]).is_ok());
        std::thread::park_timeout(PAUSE);
    }
    answers
}

#[test]
fn answers_come_while_a_sender_sends_as_fast_as_it_can() {
    let _alone = alone();
    with_namespaces(|| {
        let site = Site::new(1, 0.0);
        std::fs::write(site.source().join("large"), noise(1, SIZE)).unwrap();
        let tree = Tree::read(&site.source());
        let mut sender = site.send(&["--rate", "max"]);
        let mut receiver = site.receive(1, &[]);
        until("content is sent", || progress(&receiver)["bytes_done"].as_u64() > Some(0));
        let answers = site.on_observer(|| echoes(&site, || receiver.try_wait().unwrap().is_none()));
        eprintln!("{answers} questions were answered meanwhile");
        assert!(answers >= ANSWERS_MIN, "{answers} answers");
        assert_ends(&mut receiver, 0);
        tree.assert_at(&site.target(1));
        sender.kill9().unwrap();
    });
}
