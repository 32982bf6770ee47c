use bytes::Bytes;
use nackcast_common::epochs::Epochs;
use nackcast_common::ids::{ChannelId, ObjectId};
use nackcast_common::keys::EpochSecret;
use nackcast_common::net::quic::{Limits, Server};
use nackcast_common::units::RateLimit;
use nackcast_proto::pull::{Service, Shelf};

use super::*;

const CHANNEL: ChannelId = ChannelId([7; 16]);

/// Has nothing.
struct Empty;

impl Shelf for Empty {
    fn manifest(&self) -> Option<Offer> {
        None
    }

    fn block(&self, _: ObjectId, _: u32) -> Option<Bytes> {
        None
    }
}

fn membership(held: &[u32], in_force: u32) -> Arc<Membership> {
    let mut epochs = Epochs::none(CHANNEL);
    for epoch in held {
        epochs.hold(Epoch(*epoch), EpochSecret([5; 32]));
    }
    let publisher = SigningKey::from_seed([1; 32]).verifying_key();
    Arc::new(Membership::new(epochs, Epoch(in_force), publisher, None))
}

/// A node that holds these secrets, and where it is.
fn peer(held: &[u32], in_force: u32) -> (Server, Arc<str>) {
    let mut service = Service::default();
    service.add(membership(held, in_force), Arc::new(Empty));
    let (listen, limits) = ("127.0.0.1:0".parse().unwrap(), Limits::with_rate(RateLimit::Max));
    let server = Server::start(listen, &SigningKey::generate(), Arc::new(service), limits).unwrap();
    let at = server.local_addr().to_string().into();
    (server, at)
}

fn puller(held: &[u32], state: &std::path::Path) -> Puller {
    let membership = membership(held, *held.first().unwrap());
    Puller::new(PullSetup { identity: SigningKey::generate(), membership, state: state.to_owned() }).unwrap()
}

async fn asked(puller: &mut Puller, source: Arc<str>) -> Vec<Reply> {
    puller.begin(RequestId(1), source, Request::Manifest, 1000);
    let mut replies = Vec::new();
    while !matches!(replies.last(), Some(Reply::Over(..))) {
        replies.push(puller.recv().await.unwrap());
    }
    replies.retain(|reply| !matches!(reply, Reply::Reached(..)));
    replies
}

#[tokio::test]
async fn while_an_epoch_is_announced_those_are_reached_that_have_not_its_secret_yet() {
    let dir = tempfile::tempdir().unwrap();
    let (_behind, source) = peer(&[3], 3);
    let replies = asked(&mut puller(&[3, 4], dir.path()), source).await;
    assert!(matches!(replies[..], [Reply::Over(_, PullEnd::Over)]), "{replies:?}");
    let (_ahead, source) = peer(&[3, 4], 3);
    let replies = asked(&mut puller(&[3], dir.path()), source).await;
    assert!(matches!(replies[..], [Reply::Over(_, PullEnd::Over)]), "{replies:?}");
}

#[tokio::test]
async fn who_is_in_an_epoch_that_is_over_hears_that_it_is_turned_away() {
    let dir = tempfile::tempdir().unwrap();
    let (_ahead, source) = peer(&[3, 4], 4);
    let replies = asked(&mut puller(&[2, 3], dir.path()), source).await;
    assert!(matches!(replies[..], [Reply::TurnedAway(_), Reply::Over(_, PullEnd::Broken)]), "{replies:?}");
}
