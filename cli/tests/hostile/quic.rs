//! Strangers on the QUIC port: datagrams of noise, recordings, hellos and requests that are almost right.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use nackcast_common::ids::ObjectId;
use nackcast_common::keys::{Side, SigningKey};
use nackcast_common::net::quic::{Client, Connection, MESSAGE_LEN_MAX};
use nackcast_proto::manifest::decode_root;
use nackcast_proto::pull::{Member, Offer, Request};
use nackcast_proto::ticket::Ticket;
use tokio::net::UdpSocket;
use tokio::time::{sleep, timeout};

use crate::Dice;
use crate::site::{NACK_PORT, PATIENCE, Site};

/// An answer that does not come by then is not waited for.
const BRIEF: Duration = Duration::from_millis(500);

fn member(site: &Site) -> Member {
    let ticket: Ticket = std::fs::read_to_string(site.path("site.ticket")).unwrap().parse().unwrap();
    let Ticket { channel, epoch, publisher, secret, .. } = ticket;
    Member { channel, epoch, secret: secret.unwrap(), publisher, sender: None }
}

/// Where a node serves QUIC.
fn quic(site: &Site, node: &str) -> SocketAddr {
    (site.network.host(node).addr_v4(), NACK_PORT + 1).into()
}

/// Whether who has the ticket gets the manifest from this node.
pub(crate) fn is_served(site: &Site, node: &str) -> bool {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let client = Client::new(&SigningKey::generate()).unwrap();
    runtime.block_on(async { timeout(BRIEF * 4, manifest(&client, &member(site), quic(site, node))).await == Ok(true) })
}

async fn manifest(client: &Client, member: &Member, at: SocketAddr) -> bool {
    let Ok(connection) = client.connect(at).await else { return false };
    let Ok(reply) = connection.greet(&member.hello(Side::Client, connection.binding())).await else { return false };
    let Ok(mut replies) = connection.ask(&Request::Manifest.encode()).await else { return false };
    let Ok(Some(offer)) = replies.next(1 << 20).await else { return false };
    member.check(Side::Server, connection.binding(), &reply).is_ok() && Offer::decode(offer).is_ok()
}

/// Goes on until `ends`; how much was said.
pub(crate) fn strangers(site: &Site, node: &str, ends: &AtomicBool) -> u64 {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let said = AtomicU64::new(0);
        let (member, server) = (member(site), quic(site, node));
        let one = async |seed: u64| {
            let mut dice = Dice::new(seed);
            let client = Client::new(&SigningKey::generate()).unwrap();
            let mut silent: VecDeque<Connection> = VecDeque::new();
            let mut old_hello = Vec::new();
            while !ends.load(Ordering::Relaxed) {
                let Ok(Ok(connection)) = timeout(BRIEF * 2, client.connect(server)).await else { continue };
                said.fetch_add(1, Ordering::Relaxed);
                let right = member.hello(Side::Client, connection.binding());
                let kind = dice.below(6);
                let hello = match kind {
                    0 => dice.noise(600),
                    1 => dice.mutate(&right),
                    2 => old_hello.clone(),
                    3 => dice.noise(MESSAGE_LEN_MAX * 4),
                    4 => {
                        silent.push_back(connection);
                        silent.truncate(20);
                        continue;
                    }
                    _ => right.clone(),
                };
                old_hello.clone_from(&right);
                let greeted = timeout(BRIEF, connection.greet(&hello)).await.is_ok_and(|greeted| greeted.is_ok());
                // What was changed may mean the same.
                assert!(kind == 1 || hello == right || !greeted, "a stranger was taken for a member");
                if greeted {
                    let parts = parts(&connection, &member).await;
                    ask_anything(&connection, &parts, &mut dice, &said).await;
                }
            }
        };
        let relayed = async {
            let near = UdpSocket::bind((site.network.host("observer").addr_v4(), 0)).await.unwrap();
            let at = near.local_addr().unwrap();
            let client = Client::new(&SigningKey::generate()).unwrap();
            let mut served = 0;
            let patience = tokio::time::Instant::now() + PATIENCE;
            let ask = async {
                // Strangers from this address may have all its places, until their connections end.
                let is_patient = || tokio::time::Instant::now() < patience;
                while !ends.load(Ordering::Relaxed) || (served == 0 && is_patient()) {
                    served += u64::from(timeout(BRIEF * 4, manifest(&client, &member, at)).await == Ok(true));
                }
            };
            tokio::select! { () = ask => {}, () = replay(&near, server, &said) => {} }
            assert!(served > 0, "recordings and changed datagrams disturb a connection");
        };
        tokio::join!(one(1), one(2), one(3), one(4), one(5), relayed, garbage(server, ends, &said));
        said.into_inner()
    })
}

/// What a receiver asks first, and learns: objects that the sender serves.
async fn parts(connection: &Connection, member: &Member) -> Vec<ObjectId> {
    let ask = async {
        let mut replies = connection.ask(&Request::Manifest.encode()).await.ok()?;
        let offer = Offer::decode(replies.next(1 << 20).await.ok()??).ok()??;
        let root = decode_root(&offer.root, &member.publisher, member.channel).ok()?;
        let geometry = root.head.geometry;
        Some(root.parts().map(|(digest, length)| geometry.object_id(&digest, length.into())).collect())
    };
    timeout(BRIEF, ask).await.ok().flatten().unwrap_or_default()
}

/// Requests as receivers make them, replayed on any connection: as they were, changed, not waited for; and noise.
async fn ask_anything(connection: &Connection, parts: &[ObjectId], dice: &mut Dice, said: &AtomicU64) {
    for _ in 0..20 {
        let right = match dice.below(5) {
            0 => Request::Manifest,
            1 => Request::Probe { asker: None },
            2 => Request::Join,
            3 if !parts.is_empty() => Request::Blocks { object: parts[dice.below(parts.len())], blocks: 0..1 },
            _ => Request::Blocks { object: ObjectId(dice.below(1 << 30) as u64), blocks: 0..1000 },
        };
        let request = match dice.below(3) {
            0 => dice.noise(MESSAGE_LEN_MAX + 100),
            1 => dice.mutate(&right.encode()),
            _ => right.encode(),
        };
        said.fetch_add(1, Ordering::Relaxed);
        if let Ok(Ok(mut replies)) = timeout(BRIEF, connection.ask(&request)).await
            && dice.below(2) == 0
        {
            drop(timeout(BRIEF / 10, replies.next(1 << 20)).await);
        }
    }
}

/// Datagrams that look like QUIC at most by their first bytes.
async fn garbage(server: SocketAddr, ends: &AtomicBool, said: &AtomicU64) {
    let (socket, mut dice) = (UdpSocket::bind("0.0.0.0:0").await.unwrap(), Dice::new(7));
    while !ends.load(Ordering::Relaxed) {
        let mut datagram = dice.noise(1400);
        if dice.below(2) == 0 {
            // A first packet of version 1, of the least length that is looked at.
            datagram.resize(1200, 0x55);
            datagram[..6].copy_from_slice(&[0xc3, 0, 0, 0, 1, 8]);
        }
        // What the socket does not take is not sent.
        drop(socket.send_to(&datagram, server).await);
        said.fetch_add(1, Ordering::Relaxed);
        sleep(Duration::from_millis(1)).await;
    }
}

/// Hands datagrams on, each one followed by recordings of it and of others, as they were and changed.
async fn replay(near: &UdpSocket, server: SocketAddr, said: &AtomicU64) {
    let far = UdpSocket::bind("0.0.0.0:0").await.unwrap();
    far.connect(server).await.unwrap();
    let (mut dice, mut recorded) = (Dice::new(8), Vec::<Vec<u8>>::new());
    let (mut up, mut down, mut client) = ([0; 2048], [0; 2048], None);
    loop {
        tokio::select! {
            Ok((length, from)) = near.recv_from(&mut up) => {
                client = Some(from);
                let datagram = up[..length].to_vec();
                let other = recorded.get(dice.below(recorded.len() + 1)).cloned();
                let more = [Some(datagram.clone()), other, Some(dice.mutate(&datagram)), Some(datagram.clone())];
                for bytes in more.into_iter().flatten() {
                    drop(far.send(&bytes).await);
                    said.fetch_add(1, Ordering::Relaxed);
                }
                if recorded.len() < 1000 {
                    recorded.push(datagram);
                }
            }
            Ok(length) = far.recv(&mut down) => {
                if let Some(client) = client {
                    drop(near.send_to(&down[..length], client).await);
                }
            }
        }
    }
}
