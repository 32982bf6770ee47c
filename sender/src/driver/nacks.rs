//! NACKs, and what other senders ask and answer, from the socket to the channels.
//!
//! - One socket serves all channels of the node; whose a NACK is shows when it opens with that channel's key.
//! - A channel that is busy loses NACKs (which are asked again) and never holds up the others.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use nackcast_common::net::UnicastSocket;
use nackcast_proto::wire::limits::DATAGRAM_LEN_MAX;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::node::{Heard, NackOpener, Refused};

/// NACKs that wait for a channel; the sender wants about 256 in a window.
pub(crate) const QUEUE_LEN: usize = 1024;
/// Between two looks at the counters.
const REPORT_EVERY: Duration = Duration::from_secs(10);
/// After an error of the socket, so that one that lasts does not spin.
const ERROR_PAUSE: Duration = Duration::from_millis(100);

/// Where NACKs of one channel go, and what opens them.
#[derive(Debug)]
pub(crate) struct Route {
    pub(crate) opener: NackOpener,
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
    dropped: Dropped,
    /// Tells others how many datagrams no key opened.
    unopened: watch::Sender<u64>,
}

impl Router {
    pub(crate) fn new(routes: Vec<Route>, unopened: watch::Sender<u64>) -> Self {
        Self { routes, dropped: Dropped::default(), unopened }
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
        // An attempt destroys the datagram, and all but one channel's fail.
        let original = if self.routes.len() > 1 { datagram.to_vec() } else { Vec::new() };
        for (at, route) in self.routes.iter_mut().enumerate() {
            if at > 0 {
                datagram.copy_from_slice(&original);
            }
            match route.opener.open(from, datagram) {
                Ok(heard) => {
                    if route.queue.try_send(heard).is_err() {
                        self.dropped.overrun += 1;
                    }
                    return;
                }
                Err(Refused::Unopened) => {}
                Err(Refused::Malformed) => {
                    self.dropped.malformed += 1;
                    return;
                }
                Err(Refused::Invalid) => {
                    self.dropped.invalid += 1;
                    return;
                }
            }
        }
        self.dropped.unopened += 1;
        self.unopened.send_replace(self.dropped.unopened);
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
    use nackcast_common::epochs::Epochs;
    use nackcast_common::ids::{ChannelId, Epoch, RunId};
    use nackcast_common::keys::EpochSecret;

    use super::*;
    use crate::node::sealed_nack as sealed;

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
                let epochs = Epochs::of_secret(channels[i], Epoch(0x101), secrets[i].clone());
                let opener = NackOpener::new(epochs);
                (Route { opener, queue }, queued)
            })
            .unzip();
        let (unopened, told) = watch::channel(0);
        let mut router = Router::new(routes, unopened);
        for (i, queued) in queues.iter_mut().enumerate() {
            for number in [5, 6] {
                router.take(from(), &mut sealed(&secrets[i], channels[i], 77, number));
                let Heard::Nack(heard) = queued.try_recv().unwrap() else { panic!("a NACK") };
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
        assert_eq!(*told.borrow(), 2);
        for number in 0..5 {
            router.take(from(), &mut sealed(&secrets[1], channels[1], 80, number));
        }
        assert_eq!(router.dropped.overrun, 3);
    }
}
