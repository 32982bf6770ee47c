//! What the network carries with nobody doing any work: plain datagrams to a group, in batches, for a second.
//!
//! Receivers only count. The last datagrams say how many were sent; they are shorter than the others.

use std::net::SocketAddr;
use std::time::Duration;

use nackcast_common::clock::{Clock, Time};
use nackcast_common::net::{GroupSocket, Interface, MulticastSender, SendOptions};
use serde::{Deserialize, Serialize};

use super::means::{ratio, share};
use crate::failure::{Failure, OrFail};

/// As much as a symbol.
const PAYLOAD: usize = 1400;
const BATCH: usize = 46;
/// How long is sent.
const FOR: Duration = Duration::from_secs(1);
/// How often the end is told.
const ENDS: u32 = 5;
const END: &[u8; 16] = b"nackcast raw end";
/// A receiver waits so long for the first datagram, and then for the next.
const SILENCE: Duration = Duration::from_secs(2);

/// Plain datagrams, as a receiver counted them. Names of fields are a contract with scripts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Raw {
    /// Of their contents, from the first to the last.
    pub(super) bps: u64,
    /// Sent, and not received.
    pub(super) lost: f64,
}

/// Sends for a second, or only says that there is nothing. `pause` is for receivers to come to listen.
pub(super) async fn send(
    group: SocketAddr,
    interface: &Interface,
    ttl: u8,
    pause: Duration,
    plain: bool,
) -> Result<(), Failure> {
    let options = SendOptions { ttl, ..SendOptions::default() };
    let sender = MulticastSender::bind(group.ip(), interface, options).or_running("plain datagrams")?;
    tokio::time::sleep(pause).await;
    let (clock, batch) = (Clock::start(), vec![7; PAYLOAD * BATCH]);
    let mut sent = 0;
    while plain && clock.now().since(Time::ZERO) < FOR {
        match sender.try_send_batch(group, &batch, PAYLOAD) {
            Ok(bytes) => sent += bytes / PAYLOAD,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                sender.writable().await.or_running("plain datagrams")?
            }
            Err(error) => return Err(error).or_running("plain datagrams cannot be sent"),
        }
    }
    let end = [&END[..], &(sent as u64).to_be_bytes()].concat();
    for _ in 0..ENDS {
        tokio::time::sleep(Duration::from_millis(50)).await;
        // That one may be lost is why there are several.
        if let Err(error) = sender.try_send_batch(group, &end, end.len()) {
            tracing::debug!(%error, "the end of plain datagrams");
        }
    }
    Ok(())
}

/// Where plain datagrams go: the port after those of advertisements and data.
pub(super) fn group(advertise: SocketAddr) -> SocketAddr {
    SocketAddr::new(advertise.ip(), advertise.port().saturating_add(2))
}

/// Listens from now on.
pub(super) fn listen(group: SocketAddr, interface: &Interface) -> Result<GroupSocket, Failure> {
    GroupSocket::bind(group, interface, &[]).or_running("plain datagrams")
}

/// Counts until the end is told, or nothing comes any more; none: nothing came but the end.
pub(super) async fn count(mut socket: GroupSocket, patience: Duration) -> Option<Raw> {
    let clock = Clock::start();
    let (mut datagrams, mut sent, mut first, mut last) = (0_u64, None, Time::ZERO, Time::ZERO);
    while sent.is_none() {
        let wait = if datagrams == 0 { patience } else { SILENCE };
        let got = socket.recv(|_, datagram| match datagram.strip_prefix(END) {
            Some(rest) => sent = rest.first_chunk().map(|bytes| u64::from_be_bytes(*bytes)),
            None => datagrams += 1,
        });
        let Ok(Ok(_)) = tokio::time::timeout(wait, got).await else { break };
        if sent.is_none() {
            last = clock.now();
            first = if first == Time::ZERO { last } else { first };
        }
    }
    (datagrams > 1).then(|| {
        // The first ones came before the clock was read.
        let bits = ratio(datagrams * PAYLOAD as u64 * 8, 1);
        let bps = share(bits, last.since(first).as_secs_f64());
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "no network is that fast")]
        let bps = bps as u64;
        Raw { bps, lost: sent.map_or(0.0, |sent| 1.0 - ratio(datagrams.min(sent), sent)) }
    })
}

#[cfg(test)]
mod tests {
    use nackcast_common::net::interface;

    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_is_sent_is_counted() {
        let group: SocketAddr = "239.255.77.3:7699".parse().unwrap();
        let lo = interface::resolve(Some("lo"), group.ip()).unwrap();
        let nothing = tokio::spawn(count(listen(group, &lo).unwrap(), Duration::from_secs(20)));
        send(group, &lo, 1, Duration::ZERO, false).await.unwrap();
        assert_eq!(nothing.await.unwrap(), None);
        let something = tokio::spawn(count(listen(group, &lo).unwrap(), Duration::from_secs(20)));
        send(group, &lo, 1, Duration::ZERO, true).await.unwrap();
        let raw = something.await.unwrap().unwrap();
        assert!(raw.bps > 0 && (0.0..1.0).contains(&raw.lost), "{raw:?}");
    }
}
