//! An epoch is announced, and begins with a new session.

use nackcast_proto::wire::NextEpoch;

use super::*;

/// The last advertisement that was sent, opened in this epoch.
fn advertised(bench: &Bench, epoch: Epoch) -> Option<Advertisement> {
    let (_, datagram) = bench.sent.iter().rfind(|(to, _)| *to == Destination::Advertised)?;
    let mut datagram = datagram.clone();
    let head = Header::read(&datagram).unwrap();
    let key = SenderMaster([3; 32]).epoch(CHANNEL, epoch).flow_key(CHANNEL, head.session, Flow::Advertisement);
    let body = key.open_in_place(head.packet_number, header::LEN, &mut datagram).ok()?;
    Some(Advertisement::decode(body, &bench.publisher.verifying_key(), CHANNEL).unwrap())
}

#[test]
fn receivers_hear_of_an_epoch_before_it_begins() {
    let mut bench = Bench::new(None);
    bench.node.announce_epoch(bench.now, Epoch(1), Duration::from_secs(30));
    bench.run(Duration::from_secs(3));
    assert_eq!(advertised(&bench, Epoch(1)).unwrap().next_epoch, None, "it is that already");
    bench.node.announce_epoch(bench.now, Epoch(2), Duration::from_secs(30));
    bench.run(Duration::from_secs(10));
    let NextEpoch { epoch, within } = advertised(&bench, Epoch(1)).unwrap().next_epoch.unwrap();
    assert!(epoch == Epoch(2) && within <= Duration::from_secs(22) && within >= Duration::from_secs(18), "{within:?}");
    bench.run(Duration::from_secs(60));
    let next = advertised(&bench, Epoch(1)).unwrap().next_epoch;
    assert_eq!(next, Some(NextEpoch { epoch: Epoch(2), within: Duration::ZERO }), "it takes longer than it was said");
}

#[test]
fn a_key_file_may_be_ahead_until_something_is_served_and_then_epochs_only_grow() {
    let mut backup = Bench::new(None);
    assert!(backup.node.enter_epoch(Epoch(0)), "that of the manifest that it is to serve");
    let mut bench = Bench::new(None);
    bench.publish();
    bench.run(Duration::from_secs(1));
    assert!(!bench.node.enter_epoch(Epoch(0)));
}

#[test]
fn an_epoch_begins_with_a_new_session_and_who_proves_less_is_not_heard() {
    let mut bench = Bench::new(None);
    bench.publish();
    bench.run(Duration::from_secs(10));
    bench.node.announce_epoch(bench.now, Epoch(2), Duration::ZERO);
    assert!(!bench.node.enter_epoch(Epoch(1)), "this session has it");
    assert!(bench.node.enter_epoch(Epoch(2)) && bench.node.enter_epoch(Epoch(2)));
    assert!(matches!(bench.node.poll_work(), Some(Work::Roll)));
    assert!(bench.node.poll_work().is_none(), "one session is enough");
    assert_eq!(bench.node.epoch(), Epoch(1), "not before the next session");
    bench.node.roll(bench.now, SessionId(12), StartNumber(2));
    assert_eq!(bench.node.epoch(), Epoch(2));
    bench.sent.clear();
    bench.run(Duration::from_secs(3));
    assert_eq!(advertised(&bench, Epoch(1)), None, "the former epoch opens nothing");
    let told = advertised(&bench, Epoch(2)).unwrap();
    assert_eq!((told.session, told.epoch, told.next_epoch), (SessionId(12), Epoch(2), None));
    assert_eq!(bench.packet_numbers(12, Flow::Advertisement)[0], 0);
    let heads = bench.sent.iter().map(|(_, datagram)| Header::read(datagram).unwrap());
    assert!(heads.into_iter().all(|head| head.epoch_low == 2));
    let mut asks = |epoch, run| {
        let nack = nackcast_proto::wire::Nack {
            channel: CHANNEL,
            session: SessionId(12),
            time: bench.now.0,
            missing_ids: vec![bench.object],
            ..nackcast_proto::wire::Nack::default()
        };
        let from: SocketAddr = "192.0.2.9:4000".parse().unwrap();
        bench.node.handle_nack(bench.now, &HeardNack { from, run: RunId(run), packet: 1, epoch, nack });
        bench.sent.clear();
        bench.run(Duration::from_secs(5));
        bench.sent.iter().filter(|(to, _)| *to == Destination::Receiver(from)).count()
    };
    assert_eq!(asks(Epoch(1), 5), 0);
    assert_eq!(asks(Epoch(2), 6), 1);
}
