//! NACKs from the socket to the channels.
//!
//! - One socket serves all channels of the node; whose a NACK is shows when it opens with that channel's key.
//! - A flood does no harm: what is not ours costs one look or one try to open; a channel that is busy loses NACKs
//!   (which are asked again) and never holds up the others. Keys are kept of runs whose NACK opened, and of no
//!   others, so that garbage cannot push them out.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use nackcast_common::ids::{ChannelId, Epoch, RunId};
use nackcast_common::keys::{EpochSecret, Flow};
use nackcast_common::net::UnicastSocket;
use nackcast_common::seal::{FlowKey, TAG_LEN};
use nackcast_proto::wire::Nack;
use nackcast_proto::wire::header::{self, DatagramType, Header};
use nackcast_proto::wire::limits::DATAGRAM_LEN_MAX;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::batch::epoch_low;

/// Runs of receivers whose key is kept.
const KEYS_MAX: usize = 4096;
/// NACKs that wait for a channel; the sender wants about 256 in a window.
pub(crate) const QUEUE_LEN: usize = 1024;
/// Between two looks at the counters.
const REPORT_EVERY: Duration = Duration::from_secs(10);
/// After an error of the socket, so that one that lasts does not spin.
const ERROR_PAUSE: Duration = Duration::from_millis(100);

/// A NACK that opened and parsed.
#[derive(Debug)]
pub(crate) struct Heard {
    pub(crate) from: SocketAddr,
    pub(crate) run: RunId,
    pub(crate) packet: u64,
    pub(crate) nack: Nack,
}

/// Where NACKs of one channel go, and what opens them.
#[derive(Debug)]
pub(crate) struct Route {
    pub(crate) channel: ChannelId,
    pub(crate) epoch: Epoch,
    pub(crate) secret: EpochSecret,
    pub(crate) queue: mpsc::Sender<Heard>,
}

/// Datagrams that came to nothing, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Dropped {
    /// Not a NACK by its header.
    malformed: u64,
    /// No channel's key opened it.
    unopened: u64,
    /// It opened, and does not parse or names another channel.
    invalid: u64,
    /// The channel was busy.
    overrun: u64,
}

/// Opens NACKs and hands them to their channels.
#[derive(Debug)]
pub(crate) struct Router {
    routes: Vec<Route>,
    keys: BTreeMap<(u64, usize), Known>,
    clock: u64,
    dropped: Dropped,
}

#[derive(Debug)]
struct Known {
    key: FlowKey,
    used: u64,
}

impl Router {
    pub(crate) const fn new(routes: Vec<Route>) -> Self {
        Self {
            routes,
            keys: BTreeMap::new(),
            clock: 0,
            dropped: Dropped { malformed: 0, unopened: 0, invalid: 0, overrun: 0 },
        }
    }

    /// Reads the socket for as long as it is polled.
    pub(crate) async fn run(mut self, socket: Arc<UnicastSocket>) {
        // One byte more than allowed, to see that a datagram is too long.
        let mut buffer = [0; DATAGRAM_LEN_MAX + 1];
        let mut report_at = Instant::now();
        let mut reported = self.dropped;
        loop {
            match socket.recv_from(&mut buffer).await {
                Ok((len, from)) => self.take(from, &mut buffer[..len]),
                Err(error) => {
                    // For example that a receiver we answered is gone.
                    tracing::debug!(%error, "reading NACKs");
                    tokio::time::sleep(ERROR_PAUSE).await;
                }
            }
            if self.dropped != reported && report_at.elapsed() >= REPORT_EVERY {
                tracing::debug!(dropped = ?self.dropped, "datagrams on the NACK port that came to nothing");
                (reported, report_at) = (self.dropped, Instant::now());
            }
        }
    }

    /// One datagram.
    pub(crate) fn take(&mut self, from: SocketAddr, datagram: &mut [u8]) {
        let head = Header::read(datagram)
            .ok()
            .filter(|head| head.datagram_type == DatagramType::Nack && datagram.len() <= DATAGRAM_LEN_MAX);
        let Some(head) = head else {
            self.dropped.malformed += 1;
            return;
        };
        let Some((route, body)) = self.open(&head, datagram) else {
            self.dropped.unopened += 1;
            return;
        };
        let route = &self.routes[route];
        match Nack::decode(body) {
            Ok(nack) if nack.channel == route.channel => {
                let heard = Heard { from, run: RunId(head.session), packet: head.packet_number, nack };
                if route.queue.try_send(heard).is_err() {
                    self.dropped.overrun += 1;
                }
            }
            Ok(_) | Err(_) => self.dropped.invalid += 1,
        }
    }

    /// Which channel's key opens it, and the body.
    fn open<'a>(&mut self, head: &Header, datagram: &'a mut [u8]) -> Option<(usize, &'a mut [u8])> {
        self.clock += 1;
        // An attempt destroys the datagram, and all but one channel's fail.
        let several = self.routes.len() > 1;
        let original = if several { datagram.to_vec() } else { Vec::new() };
        let mut opened = None;
        for at in 0..self.routes.len() {
            if several {
                datagram.copy_from_slice(&original);
            }
            if self.try_open(at, head, datagram) {
                opened = Some(at);
                break;
            }
        }
        let end = datagram.len() - TAG_LEN;
        Some((opened?, &mut datagram[header::LEN..end]))
    }

    /// Tries one channel's key.
    fn try_open(&mut self, at: usize, head: &Header, datagram: &mut [u8]) -> bool {
        if let Some(known) = self.keys.get_mut(&(head.session, at)) {
            let opens = known.key.open_in_place(head.packet_number, header::LEN, datagram).is_ok();
            if opens {
                known.used = self.clock;
            }
            return opens;
        }
        let route = &self.routes[at];
        if epoch_low(route.epoch) != head.epoch_low {
            return false;
        }
        let key = route.secret.flow_key(route.channel, head.session, Flow::ToSender);
        let opens = key.open_in_place(head.packet_number, header::LEN, datagram).is_ok();
        if opens {
            self.remember(head.session, at, key);
        }
        opens
    }

    fn remember(&mut self, run: u64, route: usize, key: FlowKey) {
        if self.keys.len() >= KEYS_MAX {
            let oldest = self.keys.iter().min_by_key(|(_, known)| known.used).map(|(id, _)| *id);
            if let Some(oldest) = oldest {
                self.keys.remove(&oldest);
            }
        }
        self.keys.insert((run, route), Known { key, used: self.clock });
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        // A run may be shorter than the time between two reports.
        if self.dropped != Dropped::default() {
            tracing::debug!(dropped = ?self.dropped, "datagrams on the NACK port that came to nothing, in all");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealed(secret: &EpochSecret, channel: ChannelId, run: u64, number: u64) -> Vec<u8> {
        let head = Header {
            datagram_type: DatagramType::Nack,
            flow: Flow::ToSender,
            epoch_low: 1,
            session: run,
            packet_number: number,
        };
        let body = Nack { channel, time: number, ..Nack::default() }.encode();
        let mut datagram = vec![0; header::LEN];
        head.write(datagram.first_chunk_mut().unwrap());
        datagram.extend(body);
        datagram.extend([0; 16]);
        secret.flow_key(channel, run, Flow::ToSender).seal_in_place(number, header::LEN, &mut datagram);
        datagram
    }

    fn from() -> SocketAddr {
        "192.0.2.1:4000".parse().unwrap()
    }

    #[test]
    fn a_nack_finds_its_channel_and_garbage_is_counted() {
        let secrets = [EpochSecret::generate(), EpochSecret::generate()];
        let channels = [ChannelId([1; 16]), ChannelId([2; 16])];
        let (routes, mut queues): (Vec<_>, Vec<_>) = (0..2)
            .map(|i| {
                let (queue, queued) = mpsc::channel(2);
                (Route { channel: channels[i], epoch: Epoch(0x101), secret: secrets[i].clone(), queue }, queued)
            })
            .unzip();
        let mut router = Router::new(routes);
        for (i, queued) in queues.iter_mut().enumerate() {
            for number in [5, 6] {
                router.take(from(), &mut sealed(&secrets[i], channels[i], 77, number));
                let heard = queued.try_recv().unwrap();
                assert_eq!((heard.run, heard.packet, heard.nack.time), (RunId(77), number, number));
            }
        }
        assert_eq!(router.dropped, Dropped::default());
        router.take(from(), &mut [0x55; 300]);
        router.take(from(), &mut [0; 2000]);
        router.take(from(), &mut []);
        let mut bent = sealed(&secrets[0], channels[0], 78, 1);
        bent[30] ^= 1;
        router.take(from(), &mut bent);
        router.take(from(), &mut sealed(&secrets[0], channels[1], 79, 1));
        assert_eq!(router.dropped, Dropped { malformed: 3, unopened: 2, ..Dropped::default() });
        for number in 0..5 {
            router.take(from(), &mut sealed(&secrets[1], channels[1], 80, number));
        }
        assert_eq!(router.dropped.overrun, 3);
        assert!(router.keys.len() <= 3, "no key is kept for garbage");
    }

    #[test]
    fn keys_are_kept_of_so_many_runs_and_the_oldest_goes() {
        let (secret, channel) = (EpochSecret::generate(), ChannelId([1; 16]));
        let (queue, mut queued) = mpsc::channel(2);
        let mut router = Router::new(vec![Route { channel, epoch: Epoch(1), secret: secret.clone(), queue }]);
        for run in 0..KEYS_MAX as u64 + 10 {
            router.take(from(), &mut sealed(&secret, channel, run, 0));
            assert!(queued.try_recv().is_ok());
        }
        assert_eq!(router.keys.len(), KEYS_MAX);
        assert!(!router.keys.contains_key(&(0, 0)) && router.keys.contains_key(&(4000, 0)));
        router.take(from(), &mut sealed(&secret, channel, 0, 1));
        assert!(queued.try_recv().is_ok());
    }
}
