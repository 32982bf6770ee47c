//! One channel's sockets, threads and clock around its node.
//!
//! The loop takes one input (a batch of datagrams, a report, a timer), hands it to the [`ReceiverNode`], and
//! carries out what comes out. Disk work is done by two threads; the loop itself never waits for a disk.

mod threads;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use nackcast_common::clock::{Clock, Time};
use nackcast_common::net::NetError;
use nackcast_common::net::interface::Interface;
use nackcast_common::net::multicast::GroupSocket;
use nackcast_common::net::unicast::UnicastSocket;
use nackcast_proto::wire::limits::DATAGRAM_LEN_MAX;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use self::threads::Threads;
use crate::app::RunError;
use crate::blocks::Blocks;
use crate::dataset::Dataset;
use crate::node::{End, ReceiverNode, ScanRequest};
use crate::report::{ChannelProgress, ReceivedChannel};

/// Batches of datagrams read before reports and timers are looked at.
const BATCHES_PER_TURN: usize = 8;

/// What one channel is given.
pub(crate) struct Setup {
    pub(crate) node: ReceiverNode,
    pub(crate) blocks: Blocks,
    pub(crate) dataset: Dataset,
    pub(crate) network: Network,
    pub(crate) clock: Clock,
    pub(crate) shutdown: CancellationToken,
    pub(crate) progress: watch::Sender<ChannelProgress>,
    pub(crate) scans: mpsc::Receiver<ScanRequest>,
}

/// Where a channel is heard.
pub(crate) struct Network {
    pub(crate) advertise: SocketAddr,
    pub(crate) interface: Interface,
    pub(crate) sources: Vec<IpAddr>,
}

/// Runs one channel until it is done or told to end.
pub(crate) async fn run(setup: Setup) -> Result<ReceivedChannel, RunError> {
    let Setup { mut node, blocks, dataset, network, clock, shutdown, progress, mut scans } = setup;
    let mut sockets = Sockets::bind(&network, node.data_group()).map_err(RunError::Network)?;
    if let Some(warning) = sockets.data.warning() {
        tracing::info!("{}: {warning}", node.name());
    }
    let (threads, mut reports) = Threads::start(blocks, dataset)?;
    let mut tick = tokio::time::interval(Duration::from_millis(500));
    let mut incoming = vec![0; DATAGRAM_LEN_MAX];
    let result = loop {
        threads.carry_out(&mut node);
        sockets.send(&mut node);
        match node.ended() {
            Some(End::Complete) => break Ok(()),
            Some(End::NotOurs(paths)) => break Err(RunError::NotOurs { paths: paths.clone() }),
            None => {}
        }
        sockets.follow(&network, node.data_group()).map_err(RunError::Network)?;
        let deadline = node.poll_deadline().map_or(Time::NEVER, |deadline| deadline.at);
        tokio::select! {
            biased;
            () = shutdown.cancelled() => break Ok(()),
            // Data before advertisements: see the node's contract.
            ready = sockets.data.readable() => {
                let mut result = ready.map(|()| 0);
                // What is in, but not for ever: reports and timers wait.
                for _ in 0..BATCHES_PER_TURN {
                    if result.is_err() {
                        break;
                    }
                    result = sockets.data.try_recv(|from, datagram| {
                        node.handle_data_datagram(clock.now(), from, datagram);
                        // Orders must not wait for the end of a large batch: slots run short.
                        threads.carry_out(&mut node);
                    });
                }
                complain(&mut node, clock, result);
            }
            Some(report) = reports.blocks.recv() => node.handle_block_report(clock.now(), report),
            Some(report) = reports.dataset.recv() => node.handle_dataset_report(clock.now(), report),
            ready = sockets.advertisements.readable() => {
                let result = ready.and_then(|()| sockets.advertisements.try_recv(|from, datagram| {
                    node.handle_advertisement_datagram(clock.now(), from, datagram);
                }));
                complain(&mut node, clock, result);
            }
            result = sockets.nacks.recv_from(&mut incoming) => {
                if let Ok((length, from)) = result && let Some(datagram) = incoming.get_mut(..length) {
                    node.handle_answer_datagram(clock.now(), from, datagram);
                }
            }
            Some(request) = scans.recv() => node.scan(request),
            () = tokio::time::sleep_until(clock.instant(deadline).into()) => node.handle_timeout(clock.now()),
            _ = tick.tick() => { progress.send_replace(node.progress()); }
        }
    };
    // Orders given before now are carried out: what was received shall survive.
    node.checkpoint_all();
    threads.carry_out(&mut node);
    progress.send_replace(node.progress());
    threads.join().await?;
    result.map(|()| node.summary())
}

/// A socket that cannot be read is a trouble for people; the next datagram may come all the same.
fn complain(node: &mut ReceiverNode, clock: Clock, result: std::io::Result<usize>) {
    if let Err(error) = result
        && error.kind() != std::io::ErrorKind::WouldBlock
    {
        node.trouble(clock.now(), &format!("cannot read from the network: {error}"));
    }
}

struct Sockets {
    advertisements: GroupSocket,
    data: GroupSocket,
    nacks: UnicastSocket,
}

impl Sockets {
    fn bind(network: &Network, data_group: SocketAddr) -> Result<Self, NetError> {
        let Network { advertise, interface, sources } = network;
        let any: IpAddr = if advertise.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        Ok(Self {
            advertisements: GroupSocket::bind(*advertise, interface, sources)?,
            data: GroupSocket::bind(data_group, interface, sources)?,
            nacks: UnicastSocket::bind(SocketAddr::new(any, 0))?,
        })
    }

    /// Hears data where the sender sends it.
    fn follow(&mut self, network: &Network, data_group: SocketAddr) -> Result<(), NetError> {
        if data_group != self.data.group() {
            self.data = GroupSocket::bind(data_group, &network.interface, &network.sources)?;
        }
        Ok(())
    }

    fn send(&self, node: &mut ReceiverNode) {
        while let Some((to, datagram)) = node.poll_transmit() {
            // A NACK that the socket does not take is like one that was lost: it is asked again.
            if let Err(error) = self.nacks.try_send_to(datagram, to) {
                tracing::debug!(%error, %to, "NACK not sent");
            }
        }
    }
}
