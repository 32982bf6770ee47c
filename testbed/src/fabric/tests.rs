//! The fabric under real kernels' sockets. Each test builds its own network.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::ops::Range;
use std::time::Duration;

use nackcast_common::clock::{Clock, Time};
use nackcast_common::keys::Flow;
use nackcast_proto::wire::{DatagramType, Header};
use socket2::{Domain, Protocol, Socket, Type};

use super::{Amount, Counters, Direction, FabricError, GilbertElliott, Link};
use crate::netns::with_namespaces;
use crate::network::{Host, Network};

const GROUP_V4: Ipv4Addr = Ipv4Addr::new(239, 77, 1, 2);
const GROUP_V6: Ipv6Addr = Ipv6Addr::new(0xff05, 0, 0, 0, 0, 0, 0x77, 1);
const PORT: u16 = 7701;
/// Longer than anything here takes, however busy the machine.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a datagram is waited for that should not come.
const SILENCE: Duration = Duration::from_millis(150);

/// A socket on `host` that hears both the group and what is sent to the host itself.
fn listen(host: &Host, group: IpAddr) -> UdpSocket {
    let made = host.run(|| {
        let any: IpAddr = if group.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let socket = Socket::new(Domain::for_address((any, 0).into()), Type::DGRAM, Some(Protocol::UDP)).unwrap();
        socket.bind(&SocketAddr::from((any, PORT)).into()).unwrap();
        match group {
            IpAddr::V4(group) => socket.join_multicast_v4(&group, &host.addr_v4()).unwrap(),
            IpAddr::V6(group) => {
                let index = nix::net::if_::if_nametoindex(host.interface()).unwrap();
                socket.join_multicast_v6(&group, index).unwrap();
            }
        }
        UdpSocket::from(socket)
    });
    made.unwrap()
}

/// A socket on `host` to send from.
fn speak(host: &Host, v6: bool) -> UdpSocket {
    host.run(|| UdpSocket::bind(if v6 { "[::]:0" } else { "0.0.0.0:0" }).unwrap()).unwrap()
}

fn receive(socket: &UdpSocket, patience: Duration) -> Option<Vec<u8>> {
    socket.set_read_timeout(Some(patience)).unwrap();
    let mut buffer = [0; 2000];
    socket.recv(&mut buffer).ok().map(|length| buffer[..length].to_vec())
}

/// Everything that arrives until there is silence.
fn receive_all(socket: &UdpSocket) -> Vec<Vec<u8>> {
    std::iter::from_fn(|| receive(socket, SILENCE)).collect()
}

/// So many, however long a busy machine takes for them, and whatever comes until there is silence.
fn receive_at_least(socket: &UdpSocket, count: usize) -> Vec<Vec<u8>> {
    let mut arrived: Vec<_> = std::iter::from_fn(|| receive(socket, PATIENCE)).take(count).collect();
    arrived.extend(receive_all(socket));
    arrived
}

fn payload(number: u32, length: usize) -> Vec<u8> {
    let mut bytes = vec![0x5a; length];
    bytes[..4].copy_from_slice(&number.to_be_bytes());
    bytes
}

fn number(datagram: &[u8]) -> u32 {
    u32::from_be_bytes(*datagram.first_chunk().unwrap())
}

/// Sends `count` numbered datagrams to the IPv4 group and answers what each listener got. They are emptied
/// now and then, since the kernel's limit on socket buffers may be small.
fn exchange(network: &Network, count: u32, length: usize, listeners: &[UdpSocket]) -> Vec<Vec<Vec<u8>>> {
    let mut heard = vec![Vec::new(); listeners.len()];
    for first in (0..count).step_by(100) {
        send_many(network.host("sender"), first..count.min(first + 100), length);
        // The answer comes after what was sent before the question.
        sent(network, "sender");
        for (listener, heard) in listeners.iter().zip(&mut heard) {
            heard.extend(std::iter::from_fn(|| receive(listener, Duration::from_micros(1))));
        }
    }
    for (listener, heard) in listeners.iter().zip(&mut heard) {
        heard.extend(receive_all(listener));
    }
    heard
}

/// Sends numbered datagrams to the IPv4 group.
fn send_many(from: &Host, numbers: Range<u32>, length: usize) {
    let socket = speak(from, false);
    for number in numbers {
        socket.send_to(&payload(number, length), (GROUP_V4, PORT)).unwrap();
    }
}

fn given(network: &Network, host: &str) -> Counters {
    network.fabric().counters(host, Direction::ToHost).unwrap()
}

fn sent(network: &Network, host: &str) -> Counters {
    network.fabric().counters(host, Direction::FromHost).unwrap()
}

#[test]
fn multicast_reaches_every_other_host_over_both_families() {
    with_namespaces(|| {
        let network = Network::build(&["sender", "r1", "r2", "r3"], 1).unwrap();
        for group in [IpAddr::V4(GROUP_V4), IpAddr::V6(GROUP_V6)] {
            let listeners: Vec<_> = network.hosts()[1..].iter().map(|host| listen(host, group)).collect();
            let socket = speak(network.host("sender"), group.is_ipv6());
            socket.send_to(b"hello", (group, PORT)).unwrap();
            for listener in &listeners {
                assert_eq!(receive(listener, PATIENCE).as_deref(), Some(&b"hello"[..]), "{group}");
            }
        }
        assert_eq!(sent(&network, "sender").multicast_udp.frames, 2);
        assert_eq!(sent(&network, "sender").unicast_udp.frames, 0);
    });
}

#[test]
fn unicast_goes_to_one_port_once_its_address_is_learned() {
    with_namespaces(|| {
        let network = Network::build(&["a", "b", "c"], 1).unwrap();
        for (target, group) in [
            (IpAddr::V4(network.host("b").addr_v4()), IpAddr::V4(GROUP_V4)),
            (network.host("b").addr_v6().into(), GROUP_V6.into()),
        ] {
            let listener = listen(network.host("b"), group);
            let socket = speak(network.host("a"), target.is_ipv6());
            for _ in 0..10 {
                socket.send_to(b"to you", (target, PORT)).unwrap();
                assert_eq!(receive(&listener, PATIENCE).as_deref(), Some(&b"to you"[..]), "{target}");
            }
        }
        assert_eq!(sent(&network, "a").unicast_udp.frames, 20);
        assert_eq!(given(&network, "b").unicast_udp.frames, 20);
        // The question for the address went to all, and its answer taught the switch.
        assert_eq!(given(&network, "c").unicast_udp.frames, 0);
    });
}

#[test]
fn a_share_of_udp_is_lost_and_counted() {
    with_namespaces(|| {
        let network = Network::build(&["sender", "lossy", "bursty", "fine"], 3).unwrap();
        network.fabric().set_link("lossy", Direction::ToHost, Link::lossy(0.1)).unwrap();
        let burst = Link { burst: Some(GilbertElliott::bursts(0.1, 5.0)), ..Link::default() };
        network.fabric().set_link("bursty", Direction::ToHost, burst).unwrap();
        let listeners = ["lossy", "bursty", "fine"].map(|name| listen(network.host(name), GROUP_V4.into()));
        let heard = exchange(&network, 3000, 200, &listeners);
        let arrived: Vec<_> = heard.iter().map(Vec::len).collect();
        assert!((2_600..2_800).contains(&arrived[0]), "{arrived:?}");
        assert!((2_450..2_900).contains(&arrived[1]), "{arrived:?}");
        assert_eq!(arrived[2], 3000);
        assert_eq!(given(&network, "lossy").dropped_by_fault, 3000 - arrived[0] as u64);
        assert_eq!(given(&network, "lossy").multicast_udp.frames, arrived[0] as u64);
    });
}

#[test]
fn loss_at_the_source_is_the_same_for_all() {
    with_namespaces(|| {
        let network = Network::build(&["sender", "r1", "r2"], 4).unwrap();
        network.fabric().set_link("sender", Direction::FromHost, Link::lossy(0.5)).unwrap();
        let listeners = ["r1", "r2"].map(|name| listen(network.host(name), GROUP_V4.into()));
        let heard = exchange(&network, 500, 100, &listeners);
        let (first, second) = (&heard[0], &heard[1]);
        assert!((150..350).contains(&first.len()), "{}", first.len());
        assert_eq!(first, second);
        let counters = sent(&network, "sender");
        assert_eq!(counters.multicast_udp.frames - counters.dropped_by_fault, first.len() as u64);
    });
}

#[test]
fn a_partition_blocks_one_direction_of_one_pair_until_it_heals() {
    with_namespaces(|| {
        let network = Network::build(&["a", "b", "c"], 1).unwrap();
        let listeners = ["a", "b", "c"].map(|name| listen(network.host(name), GROUP_V4.into()));
        let say = |from: &str| {
            speak(network.host(from), false).send_to(from.as_bytes(), (GROUP_V4, PORT)).unwrap();
        };
        let heard = |host: usize| receive(&listeners[host], PATIENCE);
        network.fabric().partition("a", "b", true).unwrap();
        say("a");
        assert_eq!(heard(2).as_deref(), Some(&b"a"[..]));
        say("b");
        // A host hears its own group too, first itself and then the others.
        while heard(0).unwrap() != b"b" {}
        while heard(1).unwrap() != b"b" {}
        assert_eq!(given(&network, "b").dropped_by_fault, 1);
        network.fabric().partition("a", "b", false).unwrap();
        say("a");
        while heard(1).unwrap() != b"a" {}
        assert_eq!(given(&network, "b").dropped_by_fault, 1);
    });
}

#[test]
fn a_rate_holds_and_a_full_queue_drops_and_counts() {
    with_namespaces(|| {
        let network = Network::build(&["sender", "slow"], 1).unwrap();
        // 100 packets of 1,028 bytes fit; they take 0.82 s.
        let link = Link { rate_bps: Some(1_000_000), queue_bytes: 102_800, ..Link::default() };
        network.fabric().set_link("slow", Direction::ToHost, link).unwrap();
        let listener = listen(network.host("slow"), GROUP_V4.into());
        let clock = Clock::start();
        send_many(network.host("sender"), 0..300, 1000);
        let mut arrived = 0;
        while let Some(datagram) = receive(&listener, SILENCE) {
            assert_eq!(number(&datagram), arrived, "the queue lost its tail, not its head");
            arrived += 1;
        }
        let took = clock.now().since(Time::ZERO) - SILENCE;
        let counters = given(&network, "slow");
        assert!((100..110).contains(&arrived), "{arrived}");
        assert_eq!(counters.dropped_by_queue, u64::from(300 - arrived));
        assert!(took > Duration::from_millis(800), "{took:?}");
    });
}

#[test]
fn what_is_too_long_for_one_cable_passes_the_others() {
    with_namespaces(|| {
        let network = Network::build(&["sender", "narrow", "wide"], 1).unwrap();
        network.fabric().set_link("narrow", Direction::ToHost, Link { mtu: 1000, ..Link::default() }).unwrap();
        let listeners = ["narrow", "wide"].map(|name| listen(network.host(name), GROUP_V4.into()));
        // With the headers of IPv4 and UDP: 1,000 and 1,001 bytes.
        send_many(network.host("sender"), 0..1, 972);
        send_many(network.host("sender"), 1..2, 973);
        let heard = listeners.each_ref().map(|listener| receive_all(listener).len());
        assert_eq!(heard, [1, 2]);
        assert_eq!(given(&network, "narrow").dropped_by_fault, 1);
    });
}

#[test]
fn our_datagrams_are_counted_by_type_where_they_pass() {
    with_namespaces(|| {
        let network = Network::build(&["sender", "r"], 1).unwrap();
        network.fabric().set_link("r", Direction::FromHost, Link { corrupt: 1.0, ..Link::default() }).unwrap();
        network.fabric().set_link("sender", Direction::ToHost, Link { duplicate: 1.0, ..Link::default() }).unwrap();
        let listener = listen(network.host("sender"), GROUP_V4.into());
        let header = Header {
            datagram_type: DatagramType::Nack,
            flow: Flow::ToSender,
            epoch_low: 1,
            session: 2,
            packet_number: 3,
        };
        let mut nack = [0; 50];
        header.write(nack.first_chunk_mut().unwrap());
        let socket = speak(network.host("r"), false);
        for datagram in [&nack[..], b"none of ours, but long enough to be one of ours"] {
            socket.send_to(datagram, (network.host("sender").addr_v4(), PORT)).unwrap();
        }
        assert_eq!(receive_at_least(&listener, 4).len(), 4);
        let of = |counters: Counters, kind| counters.datagrams.of(kind);
        let amount = |datagrams, bytes| Amount { datagrams, bytes };
        assert_eq!(of(sent(&network, "r"), DatagramType::Nack), amount(1, 50));
        assert_eq!(of(given(&network, "sender"), DatagramType::Nack), amount(2, 100));
        assert_eq!(of(given(&network, "sender"), DatagramType::Symbol), amount(0, 0));
    });
}

#[test]
fn delay_is_waited_and_order_kept() {
    with_namespaces(|| {
        let network = Network::build(&["sender", "far"], 1).unwrap();
        let delay = Duration::from_millis(80);
        let link = Link { delay, jitter: Duration::from_millis(10), ..Link::default() };
        network.fabric().set_link("far", Direction::ToHost, link).unwrap();
        let listener = listen(network.host("far"), GROUP_V4.into());
        let clock = Clock::start();
        send_many(network.host("sender"), 0..50, 100);
        let first = receive(&listener, PATIENCE).unwrap();
        let took = clock.now().since(Time::ZERO);
        assert!(took >= delay, "{took:?}");
        assert!(took < delay + Duration::from_secs(2), "{took:?}");
        let rest = receive_all(&listener);
        let numbers: Vec<_> = std::iter::once(&first).chain(&rest).map(|datagram| number(datagram)).collect();
        assert_eq!(numbers, (0..50).collect::<Vec<_>>());
    });
}

#[test]
fn damaged_datagrams_reach_the_program() {
    with_namespaces(|| {
        let network = Network::build(&["sender", "r"], 5).unwrap();
        network.fabric().set_link("r", Direction::ToHost, Link { corrupt: 1.0, ..Link::default() }).unwrap();
        for group in [IpAddr::V4(GROUP_V4), IpAddr::V6(GROUP_V6)] {
            let listener = listen(network.host("r"), group);
            let original = payload(1, 1000);
            speak(network.host("sender"), group.is_ipv6()).send_to(&original, (group, PORT)).unwrap();
            let arrived = receive(&listener, PATIENCE).unwrap();
            let flipped: u32 = arrived.iter().zip(&original).map(|(a, b)| (a ^ b).count_ones()).sum();
            assert_eq!((arrived.len(), flipped), (1000, 1), "{group}");
        }
    });
}

#[test]
fn frames_are_doubled_and_reordered() {
    with_namespaces(|| {
        let network = Network::build(&["sender", "twice", "mixed"], 5).unwrap();
        network.fabric().set_link("twice", Direction::ToHost, Link { duplicate: 0.2, ..Link::default() }).unwrap();
        network.fabric().set_link("mixed", Direction::ToHost, Link { reorder: 0.2, ..Link::default() }).unwrap();
        let listeners = ["twice", "mixed"].map(|name| listen(network.host(name), GROUP_V4.into()));
        let heard = exchange(&network, 1000, 100, &listeners);
        let twice = &heard[0];
        assert!((1_150..1_250).contains(&twice.len()), "{}", twice.len());
        let mut mixed: Vec<_> = heard[1].iter().map(|datagram| number(datagram)).collect();
        assert!(!mixed.is_sorted());
        mixed.sort_unstable();
        assert_eq!(mixed, (0..1000).collect::<Vec<_>>());
    });
}

#[test]
fn a_batch_sent_with_segmentation_offload_crosses_as_single_frames() {
    with_namespaces(|| {
        let network = Network::build(&["sender", "r"], 1).unwrap();
        for group in [IpAddr::V4(GROUP_V4), IpAddr::V6(GROUP_V6)] {
            let listener = listen(network.host("r"), group);
            let before = sent(&network, "sender");
            let socket = speak(network.host("sender"), group.is_ipv6());
            nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::UdpGsoSegment, &1400).unwrap();
            let batch: Vec<u8> = (0..40).flat_map(|number| payload(number, 1400)).collect();
            assert_eq!(socket.send_to(&batch, (group, PORT)).unwrap(), batch.len());
            let arrived = receive_at_least(&listener, 40);
            assert_eq!(
                arrived.iter().map(|datagram| number(datagram)).collect::<Vec<_>>(),
                (0..40).collect::<Vec<_>>()
            );
            let traffic = sent(&network, "sender").multicast_udp - before.multicast_udp;
            let headers = if group.is_ipv6() { 62 } else { 42 };
            assert_eq!((traffic.frames, traffic.bytes), (40, 40 * (1400 + headers)), "{group}");
        }
    });
}

#[test]
fn a_wrong_name_or_share_is_refused() {
    with_namespaces(|| {
        let network = Network::build(&["a"], 1).unwrap();
        let fabric = network.fabric();
        assert!(
            matches!(fabric.partition("a", "nobody", true), Err(FabricError::NoSuchHost(name)) if name == "nobody")
        );
        let result = fabric.set_link("a", Direction::ToHost, Link::lossy(2.0));
        assert_eq!(result.unwrap_err().to_string(), "loss of 2 is no probability: give 0 to 1");
    });
}

/// Not a test of rightness but a measurement; run it alone, with `--ignored --nocapture`.
#[test]
#[ignore = "a measurement, not a test"]
fn speed_with_eight_receivers() {
    with_namespaces(|| {
        let names = ["sender", "r1", "r2", "r3", "r4", "r5", "r6", "r7", "r8"];
        for loss in [0.0, 0.02] {
            let network = Network::build(&names, 1).unwrap();
            let _listeners: Vec<_> = network.hosts()[1..].iter().map(|host| listen(host, GROUP_V4.into())).collect();
            for name in &names[1..] {
                network.fabric().set_link(name, Direction::ToHost, Link::lossy(loss)).unwrap();
            }
            let socket = speak(network.host("sender"), false);
            let (count, datagram) = (214_000_u32, payload(0, 1400));
            let clock = Clock::start();
            for number in 0..count {
                socket.send_to(&datagram, (GROUP_V4, PORT)).unwrap();
                // Do not run further ahead than the ring is long.
                if number % 1000 == 999 {
                    sent(&network, "sender");
                }
            }
            let source = sent(&network, "sender");
            let took = clock.now().since(Time::ZERO).as_secs_f64();
            let out: u64 = names[1..].iter().map(|name| given(&network, name).all.frames).sum();
            let waits: u64 = names[1..].iter().map(|name| given(&network, name).waits).sum();
            println!(
                "loss {loss}: {} frames in, {out} out, {took:.1} s, {:.0} frames/s out; {} lost by the machine, {waits} waits",
                source.all.frames,
                out as f64 / took,
                source.dropped_by_machine,
            );
        }
    });
}
