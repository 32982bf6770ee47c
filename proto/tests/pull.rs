//! Pull messages come back as they went; who is at the other end is believed only with proof, on its connection.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

use std::sync::Arc;

use bytes::Bytes;
use nackcast_common::epochs::Epochs;
use nackcast_common::geometry::Geometry;
use nackcast_common::ids::{ChannelId, Digest, Epoch, Generation, ObjectId, SessionId, StartNumber};
use nackcast_common::keys::{EpochSecret, Side, SigningKey, VerifyingKey};
use nackcast_common::net::quic::Service as _;
use nackcast_proto::pull::hello::{Subject, check_introduction, join_hello};
use nackcast_proto::pull::{
    BLOCKS_MAX, Block, HELLO_LEN_MAX, JoinRefusal, Joined, Member, Membership, Offer, Peer, ProbeReply,
    REQUEST_LEN_MAX, Request, Service, Shelf,
};
use nackcast_proto::wire::{ManifestRef, Role, SenderCertificate, SenderState, Standing};
use proptest::prelude::*;

const CHANNEL: ChannelId = ChannelId([7; 16]);
const BINDING: [u8; 32] = [9; 32];

fn publisher() -> SigningKey {
    SigningKey::from_seed([1; 32])
}

fn receiver() -> Member {
    let publisher = publisher().verifying_key();
    Member { channel: CHANNEL, epoch: Epoch(3), secret: EpochSecret([5; 32]), publisher, sender: None }
}

fn sender() -> Member {
    let key = SigningKey::from_seed([2; 32]);
    let certificate = SenderCertificate::issue(&publisher(), CHANNEL, key.verifying_key());
    Member { sender: Some((certificate, key)), ..receiver() }
}

#[test]
fn a_member_is_known_by_its_secret_and_a_sender_by_its_certificate() {
    let hello = receiver().hello(Side::Client, &BINDING);
    assert!(hello.len() <= HELLO_LEN_MAX);
    assert_eq!(Subject::of(&hello), Ok(Subject { channel: CHANNEL, epoch: Some(Epoch(3)) }));
    assert_eq!(sender().check(Side::Client, &BINDING, &hello).unwrap().sender, None);
    let hello = sender().hello(Side::Server, &BINDING);
    assert!(hello.len() <= HELLO_LEN_MAX, "{} bytes", hello.len());
    let peer = receiver().check(Side::Server, &BINDING, &hello).unwrap();
    assert_eq!(peer.sender, Some(SigningKey::from_seed([2; 32]).verifying_key()));
}

#[test]
fn what_was_said_elsewhere_or_by_others_is_refused() {
    let hello = sender().hello(Side::Client, &BINDING);
    let refuses = |member: &Member, side, binding: &[u8; 32]| member.check(side, binding, &hello).is_err();
    assert!(!refuses(&receiver(), Side::Client, &BINDING));
    assert!(refuses(&receiver(), Side::Client, &[8; 32]), "on another connection");
    assert!(refuses(&receiver(), Side::Server, &BINDING), "sent back");
    assert!(refuses(&Member { secret: EpochSecret([6; 32]), ..receiver() }, Side::Client, &BINDING), "another secret");
    assert!(refuses(&Member { epoch: Epoch(4), ..receiver() }, Side::Client, &BINDING), "another epoch");
    assert!(refuses(&Member { channel: ChannelId([8; 16]), ..receiver() }, Side::Client, &BINDING), "another channel");
    let stranger = SigningKey::from_seed([3; 32]).verifying_key();
    assert!(refuses(&Member { publisher: stranger, ..receiver() }, Side::Client, &BINDING), "another publisher");
    // A certificate is no secret: whoever shows that of another has not its key.
    let (certificate, _) = sender().sender.unwrap();
    let thief = Member { sender: Some((certificate, SigningKey::from_seed([3; 32]))), ..receiver() };
    assert!(receiver().check(Side::Client, &BINDING, &thief.hello(Side::Client, &BINDING)).is_err());
    let key = SigningKey::from_seed([2; 32]).verifying_key();
    for at in 0..hello.len() {
        let mut damaged = hello.clone();
        damaged[at] ^= 0x20;
        // Without its claim to be a sender it is still of the channel; and what its certificate says of the channel is not
        // looked at, since that is signed.
        let peer = receiver().check(Side::Client, &BINDING, &damaged);
        assert!(peer.is_err() || peer.is_ok_and(|peer| peer.sender.is_none_or(|found| found == key)), "byte {at}");
    }
}

#[test]
fn requests_come_back_and_what_asks_for_too_much_does_not() {
    let blocks = |first, end| Request::Blocks { object: ObjectId(u64::MAX), blocks: first..end };
    let largest = Standing { sequence: u64::MAX, time: u64::MAX, rank: u32::MAX, ..standing() };
    let probes = [None, Some(standing()), Some(largest)].map(|asker| Request::Probe { asker });
    let others = [Request::Manifest, Request::Join, blocks(0, 1), blocks(u32::MAX - BLOCKS_MAX, u32::MAX)];
    for request in probes.into_iter().chain(others) {
        assert!(request.encode().len() <= REQUEST_LEN_MAX);
        assert_eq!(Request::decode(&request.encode()), Ok(request));
    }
    for refused in [blocks(3, 3), blocks(0, BLOCKS_MAX + 1)] {
        assert!(Request::decode(&refused.encode()).is_err(), "{refused:?}");
    }
    assert!(Request::decode(&[]).is_err());
}

fn offer() -> Offer {
    let root = Bytes::from_static(b"a signed root");
    let reference = ManifestRef { hash: Digest::of(&root), length: 13, geometry: Geometry::default() };
    Offer { generation: Generation(4), reference, root }
}

#[test]
fn replies_come_back_and_a_root_is_the_one_that_is_named() {
    assert_eq!(Offer::decode(Offer::encode(Some(&offer())).into()), Ok(Some(offer())));
    assert_eq!(Offer::decode(Offer::encode(None).into()), Ok(None));
    let other = Offer { root: Bytes::from_static(b"A signed root"), ..offer() };
    assert!(Offer::decode(Offer::encode(Some(&other)).into()).is_err());
    let nothing = ProbeReply { standing: None };
    assert_eq!(ProbeReply::decode(&nothing.encode(), &peer(receiver())), Ok(nothing));
}

/// What the sender of these tests says of itself.
fn standing() -> Standing {
    Standing {
        channel: CHANNEL,
        session: SessionId(3),
        start_number: StartNumber(4),
        certificate: sender().sender.unwrap().0,
        role: Role::Backup,
        rank: 1,
        state: SenderState::Standby,
        can_read: true,
        can_send: false,
        sequence: 5,
        time: 6,
    }
}

/// What is known of who greeted so.
fn peer(member: Member) -> Peer {
    receiver().check(Side::Server, &BINDING, &member.hello(Side::Server, &BINDING)).unwrap()
}

#[test]
fn a_sender_speaks_on_its_connection_and_for_itself_only() {
    let reply = ProbeReply { standing: Some(standing()) };
    assert_eq!(ProbeReply::decode(&reply.encode(), &peer(sender())), Ok(reply));
    assert!(ProbeReply::decode(&reply.encode(), &peer(receiver())).is_err(), "a receiver is no sender");
    let key = SigningKey::from_seed([4; 32]);
    let certificate = SenderCertificate::issue(&publisher(), CHANNEL, key.verifying_key());
    let second = Member { sender: Some((certificate, key)), ..receiver() };
    assert!(ProbeReply::decode(&reply.encode(), &peer(second.clone())).is_err(), "nor is it another sender");
    let elsewhere = ProbeReply { standing: Some(Standing { channel: ChannelId([8; 16]), ..standing() }) };
    assert!(ProbeReply::decode(&elsewhere.encode(), &peer(sender())).is_err(), "nor one of another channel");
    // And so is a question.
    let asks = |member: &Member| ask(member, &Request::Probe { asker: Some(standing()) });
    assert_eq!((asks(&receiver()), asks(&second)), (None, None));
    let reply = asks(&sender()).unwrap().remove(0);
    let back = ProbeReply::decode(&reply, &peer(sender())).unwrap().standing;
    assert_eq!(back, Some(standing()), "the shelf was told who asks");
    let reply = ask(&receiver(), &Request::Probe { asker: None }).unwrap().remove(0);
    assert_eq!(ProbeReply::decode(&reply, &peer(sender())), Ok(ProbeReply { standing: None }));
}

/// Has every second block of one object, each of ten bytes, and lets one identity in.
struct Half;

impl Shelf for Half {
    fn manifest(&self) -> Option<Offer> {
        Some(offer())
    }

    fn block(&self, object: ObjectId, block: u32) -> Option<Bytes> {
        (object == ObjectId(1) && block.is_multiple_of(2)).then(|| Bytes::from(vec![block.to_le_bytes()[0]; 10]))
    }

    fn probe(&self, asker: Option<Standing>) -> Option<Standing> {
        asker
    }

    fn join(&self, identity: &VerifyingKey) -> Joined {
        if *identity == LISTED { Joined::Secrets(vec![given()]) } else { Joined::Refused(JoinRefusal::NotListed) }
    }
}

const LISTED: VerifyingKey = VerifyingKey([4; 32]);
const STRANGER: VerifyingKey = VerifyingKey([5; 32]);

fn given() -> (Epoch, EpochSecret) {
    (Epoch(3), EpochSecret([5; 32]))
}

/// What a member with these secrets and rights is.
fn membership(member: Member) -> Arc<Membership> {
    Arc::new(Membership::of(member))
}

fn service() -> (Service, Arc<Membership>) {
    let (mut service, membership) = (Service::default(), membership(sender()));
    service.add(Arc::clone(&membership), Arc::new(Half));
    (service, membership)
}

fn ask(member: &Member, request: &Request) -> Option<Vec<Bytes>> {
    let (reply, session) = service().0.greet(&STRANGER, &BINDING, &member.hello(Side::Client, &BINDING)).ok()?;
    assert!(member.check(Side::Server, &BINDING, &reply).unwrap().sender.is_some());
    session.answer(&request.encode()).map(Iterator::collect)
}

/// Joins with this identity.
fn join(identity: &VerifyingKey) -> Joined {
    let (reply, session) = service().0.greet(identity, &BINDING, &join_hello(CHANNEL)).unwrap();
    let sender = check_introduction(CHANNEL, &receiver().publisher, &BINDING, &reply).unwrap();
    assert_eq!(sender, SigningKey::from_seed([2; 32]).verifying_key());
    for refused in
        [Request::Manifest, Request::Probe { asker: None }, Request::Blocks { object: ObjectId(1), blocks: 0..1 }]
    {
        assert!(session.answer(&refused.encode()).is_none(), "{refused:?} of who only may join");
    }
    let mut replies = session.answer(&Request::Join.encode()).unwrap();
    Joined::decode(&replies.next().unwrap()).unwrap()
}

#[test]
fn secrets_are_given_to_the_identity_that_tls_found_and_by_a_certified_sender_only() {
    assert_eq!(join(&LISTED), Joined::Secrets(vec![given()]));
    assert_eq!(join(&STRANGER), Joined::Refused(JoinRefusal::NotListed));
    assert!(ask(&receiver(), &Request::Join).is_none(), "whoever holds a secret asks as everybody");
    let mut peers = Service::default();
    peers.add(membership(receiver()), Arc::new(Half));
    assert!(peers.greet(&LISTED, &BINDING, &join_hello(CHANNEL)).is_err(), "a receiver lets nobody in");
    assert!(peers.greet(&LISTED, &BINDING, &join_hello(ChannelId([8; 16]))).is_err());
    let publisher = receiver().publisher;
    let (reply, _) = service().0.greet(&LISTED, &BINDING, &join_hello(CHANNEL)).unwrap();
    assert!(check_introduction(CHANNEL, &publisher, &[8; 32], &reply).is_err(), "on another connection");
    assert!(check_introduction(CHANNEL, &SigningKey::from_seed([3; 32]).verifying_key(), &BINDING, &reply).is_err());
    let without = receiver().hello(Side::Server, &BINDING);
    assert!(check_introduction(CHANNEL, &publisher, &BINDING, &without).is_err(), "no sender");
    let thief = Member { sender: Some((sender().sender.unwrap().0, SigningKey::from_seed([3; 32]))), ..receiver() };
    assert!(check_introduction(CHANNEL, &publisher, &BINDING, &thief.hello(Side::Server, &BINDING)).is_err());
}

#[test]
fn a_receiver_of_an_epoch_that_is_over_gets_nothing_on_old_connections_either() {
    let (service, membership) = service();
    let of = |member: &Member| service.greet(&LISTED, &BINDING, &member.hello(Side::Client, &BINDING));
    let (_, old) = of(&receiver()).unwrap();
    assert!(old.answer(&Request::Manifest.encode()).is_some());
    let next = Member { epoch: Epoch(4), secret: EpochSecret([6; 32]), ..receiver() };
    assert!(of(&next).is_err(), "its secret is not known yet");
    let mut epochs = Epochs::of_secret(CHANNEL, Epoch(3), EpochSecret([5; 32]));
    epochs.hold(Epoch(4), EpochSecret([6; 32]));
    membership.follow(epochs.clone(), Epoch(3));
    assert!(old.is_member());
    assert!(of(&next).is_ok() && of(&receiver()).is_ok(), "while the next epoch is only announced");
    membership.follow(epochs, Epoch(4));
    assert!(old.answer(&Request::Manifest.encode()).is_none());
    assert!(!old.is_member(), "it has to say anew who it is");
    assert!(of(&receiver()).is_err());
    assert!(of(&next).unwrap().1.answer(&Request::Manifest.encode()).is_some());
    assert!(of(&sender()).is_ok(), "a sender that has not followed yet is one all the same");
    assert_eq!(membership.newest().unwrap().epoch, Epoch(4));
    let others: Vec<_> = membership.others().iter().map(|member| member.epoch).collect();
    assert_eq!(others, [Epoch(3)], "whoever has not the newest secret yet is called by another one");
}

#[test]
fn answers_to_who_joins_come_back() {
    let two = vec![given(), (Epoch(u32::MAX), EpochSecret([9; 32]))];
    let refusals = [JoinRefusal::NotListed, JoinRefusal::ByTicket, JoinRefusal::OldList, JoinRefusal::NotHere];
    for joined in refusals.into_iter().map(Joined::Refused).chain([Joined::Secrets(two)]) {
        assert_eq!(Joined::decode(&joined.encode()), Ok(joined));
    }
    assert!(Joined::decode(&[]).is_err(), "neither yes nor no");
    let too_many = Joined::Secrets(vec![given(), given(), given(), given()]);
    assert!(Joined::decode(&too_many.encode()).is_err());
}

#[test]
fn a_shelf_gives_what_is_on_it() {
    let blocks = Request::Blocks { object: ObjectId(1), blocks: 1..6 };
    let replies = ask(&receiver(), &blocks).unwrap();
    let numbers: Vec<_> = replies.into_iter().map(|reply| Block::decode(reply).unwrap().block).collect();
    assert_eq!(numbers, [2, 4]);
    let other = Request::Blocks { object: ObjectId(2), blocks: 1..6 };
    assert_eq!(ask(&receiver(), &other), Some(Vec::new()));
    let manifest = ask(&receiver(), &Request::Manifest).unwrap().remove(0);
    assert_eq!(Offer::decode(manifest), Ok(Some(offer())));
    let stranger = Member { secret: EpochSecret([6; 32]), ..receiver() };
    assert_eq!(ask(&stranger, &blocks), None);
}

proptest! {
    #[test]
    fn any_bytes_are_a_message_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let whole = Bytes::from(bytes.clone());
        let _ = (Subject::of(&bytes).is_ok(), receiver().check(Side::Client, &BINDING, &bytes).is_ok());
        let _ = (Request::decode(&bytes).is_ok(), Joined::decode(&bytes).is_ok());
        let _ = (ProbeReply::decode(&bytes, &peer(sender())).is_ok(), Block::decode(whole.clone()).is_ok());
        drop(Offer::decode(whole));
    }

    #[test]
    fn any_block_comes_back(block: u32, data in proptest::collection::vec(any::<u8>(), 0..600)) {
        let block = Block { block, data: data.into() };
        prop_assert_eq!(Block::decode(block.clone().encode().into()), Ok(block));
    }
}
