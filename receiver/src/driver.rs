//! One channel's sockets, threads and clock around its node.
//!
//! The loop takes one input (a batch of datagrams, a report, a timer), hands it to the [`ReceiverNode`], and
//! carries out what comes out. Disk work is done by two threads; the loop itself never waits for a disk.
//!
//! A sender that is faster than this machine makes data readable at all times. What else waits is taken at the top of
//! each turn, so that memory comes back from the disk threads, and senders are heard and answered.

pub(crate) mod pull;
mod threads;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use nackcast_common::clock::{Clock, Time};
use nackcast_common::control::Ask;
use nackcast_common::net::NetError;
use nackcast_common::net::interface::Interface;
use nackcast_common::net::multicast::GroupSocket;
use nackcast_common::net::unicast::UnicastSocket;
use nackcast_proto::wire::limits::DATAGRAM_LEN_MAX;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

pub(crate) use self::pull::PullSetup;
use self::pull::Puller;
use self::threads::Threads;
use crate::app::RunError;
use crate::blocks::Blocks;
use crate::dataset::Dataset;
use crate::disk::install::Removal;
use crate::node::{End, ReceiverNode};
use crate::report::{ChannelProgress, ReceivedChannel};
use crate::shelf::ReceiverShelf;

/// Batches of datagrams read before reports and timers are looked at.
const BATCHES_PER_TURN: usize = 8;
/// So many datagrams at one look are much.
const BUSY: usize = 32;
/// Between two looks while much comes; after so many that found nothing it is no longer much. A socket that holds less
/// is watched all the time.
const NAP: Duration = Duration::from_millis(1);
const IDLE: u32 = 8;
const HOLDS: u32 = 1500;
/// Reports of each disk thread, and answers, taken in a turn before data is read.
const WAITING_PER_TURN: usize = 64;
/// Advertisements go in after the data that was sent before them. When data has no end, they go in after so many
/// datagrams: about what a socket's buffer holds.
const DATA_BEFORE_ADVERTISEMENTS: usize = 4096;
const PROGRESS_EVERY: Duration = Duration::from_millis(500);
/// A node that ends waits no longer for the sender to take note.
const LEAVE_MAX: Duration = Duration::from_secs(1);

/// What one channel is given.
pub(crate) struct Setup {
    pub(crate) node: ReceiverNode,
    pub(crate) blocks: Blocks,
    pub(crate) dataset: Dataset,
    pub(crate) pull: PullSetup,
    pub(crate) shelf: Arc<ReceiverShelf>,
    pub(crate) network: Network,
    pub(crate) clock: Clock,
    pub(crate) shutdown: CancellationToken,
    pub(crate) progress: watch::Sender<ChannelProgress>,
    pub(crate) asked: mpsc::Receiver<Ask>,
}

/// Where a channel is heard.
pub(crate) struct Network {
    pub(crate) advertise: SocketAddr,
    pub(crate) interface: Interface,
    pub(crate) sources: Vec<IpAddr>,
}

/// Runs one channel until it is done or told to end.
pub(crate) async fn run(setup: Setup) -> Result<ReceivedChannel, RunError> {
    let Setup { mut node, blocks, dataset, pull, shelf, network, clock, shutdown, progress, mut asked } = setup;
    let mut puller = Puller::new(pull).map_err(RunError::Unicast)?;
    let mut sockets = Sockets::bind(&network, node.data_group()).map_err(RunError::Network)?;
    if let Some(warning) = sockets.data.warning() {
        tracing::info!("{}: {warning}", node.name());
    }
    node.tell_window(sockets.data.holds());
    let removal = dataset.removal();
    let told = |node: &ReceiverNode| told(node, &shelf, &removal, clock.now());
    let (threads, mut reports) = Threads::start(blocks, dataset)?;
    let mut progress_at = clock.now();
    // Datagrams of data since all of it was read, or advertisements were.
    let mut unbroken = 0;
    let mut nap = Nap::default();
    let mut incoming = vec![0; DATAGRAM_LEN_MAX];
    let result = loop {
        for _ in 0..WAITING_PER_TURN {
            let Ok(report) = reports.blocks.try_recv() else { break };
            node.handle_block_report(clock.now(), report);
            threads.carry_out(&mut node);
        }
        for _ in 0..WAITING_PER_TURN {
            let Ok(report) = reports.dataset.try_recv() else { break };
            node.handle_dataset_report(clock.now(), report);
            threads.carry_out(&mut node);
        }
        while let Some(reply) = puller.try_recv() {
            puller.hand_over(&mut node, clock, reply);
            threads.carry_out(&mut node);
        }
        // First who is let in, and then what they get.
        puller.follow(&node);
        shelf.follow(&node);
        sockets.hear_answers(&mut node, clock, &mut incoming);
        if unbroken >= DATA_BEFORE_ADVERTISEMENTS {
            unbroken = 0;
            let result = sockets.hear_advertisements(&mut node, clock);
            complain(&mut node, clock, result);
        }
        if node.poll_deadline().is_some_and(|deadline| clock.now() >= deadline.at) {
            node.handle_timeout(clock.now());
        }
        if clock.now() >= progress_at {
            node.set_wall_clock(clock.wall_origin_ms());
            progress.send_replace(told(&node));
            progress_at = clock.now() + PROGRESS_EVERY;
        }
        threads.carry_out(&mut node);
        puller.carry_out(&mut node);
        if node.poll_join(clock.now()) {
            puller.join(&node);
        }
        sockets.send(&mut node);
        match node.ended() {
            Some(End::Complete) => break Ok(()),
            Some(End::NotOurs(paths)) => break Err(RunError::NotOurs { paths: paths.clone() }),
            None => {}
        }
        sockets.follow(&network, node.data_group()).map_err(RunError::Network)?;
        let deadline = node.poll_deadline().map_or(progress_at, |deadline| deadline.at.min(progress_at));
        let deadline = nap.until().map_or(deadline, |until| deadline.min(until));
        let is_awake = nap.until().is_some_and(|until| clock.now() >= until);
        tokio::select! {
            biased;
            () = shutdown.cancelled() => break Ok(()),
            // Data before advertisements: see the node's contract.
            ready = sockets.data.readable(), if !is_awake => {
                match ready {
                    Ok(()) => nap.look(&mut sockets.data, &mut node, clock, &threads, &mut unbroken),
                    Err(error) => complain(&mut node, clock, Err(error)),
                }
            }
            () = std::future::ready(()), if is_awake => {
                nap.look(&mut sockets.data, &mut node, clock, &threads, &mut unbroken);
                // On a busy machine each look may be late, and the others below would never have their turn.
                if unbroken == 0 {
                    let result = sockets.hear_advertisements(&mut node, clock);
                    complain(&mut node, clock, result);
                }
                if let Ok(ask) = asked.try_recv() {
                    node.answer(ask);
                }
                tokio::task::yield_now().await;
            }
            Some(report) = reports.blocks.recv() => node.handle_block_report(clock.now(), report),
            Some(report) = reports.dataset.recv() => node.handle_dataset_report(clock.now(), report),
            ready = sockets.advertisements.readable() => {
                // During a nap nobody looked at data: what waits there would be taken for lost.
                let was_napping = nap.until().is_some();
                if was_napping {
                    nap.look(&mut sockets.data, &mut node, clock, &threads, &mut unbroken);
                }
                if !was_napping || unbroken == 0 {
                    let result = ready.and_then(|()| sockets.hear_advertisements(&mut node, clock));
                    complain(&mut node, clock, result);
                }
            }
            // Read at the top of the next turn.
            _ = sockets.nacks.readable() => {}
            Some(reply) = puller.recv() => puller.hand_over(&mut node, clock, reply),
            Some(ask) = asked.recv() => node.answer(ask),
            () = tokio::time::sleep_until(clock.instant(deadline).into()) => {}
        }
    };
    // Orders given before now are carried out: what was received shall survive.
    node.checkpoint_all();
    threads.carry_out(&mut node);
    if result.is_ok() {
        sockets.take_leave(&mut node, clock, &mut incoming).await;
    }
    progress.send_replace(told(&node));
    threads.join().await?;
    result.map(|()| ReceivedChannel { unicast_bytes: shelf.given(), ..node.summary() })
}

/// What the node does, what it gives to others, and how far the disk is where that takes long.
fn told(node: &ReceiverNode, shelf: &ReceiverShelf, removal: &Removal, now: Time) -> ChannelProgress {
    let row = node.progress(now);
    ChannelProgress { unicast_bytes: shelf.given(), note: removal.told().or(row.note), ..row }
}

/// Reads what is in, but not for ever: reports and timers wait. How many datagrams there were.
fn read(
    data: &mut GroupSocket,
    node: &mut ReceiverNode,
    clock: Clock,
    threads: &Threads,
    unbroken: &mut usize,
) -> std::io::Result<usize> {
    let mut read = 0;
    for _ in 0..BATCHES_PER_TURN {
        // All of a batch waited until it was read, whatever is done about those before.
        let mut read_at = None;
        let result = data.try_recv(|arrival, datagram| {
            let now = clock.now();
            let arrived = read_at.get_or_insert(now).before(arrival.waited);
            node.handle_data_datagram(now, arrived, datagram);
            // Orders must not wait for the end of a large batch: slots run short.
            threads.carry_out(node);
        });
        match result {
            Ok(count) => (read, *unbroken) = (read + count, *unbroken + count),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                *unbroken = 0;
                break;
            }
            Err(error) => return Err(error),
        }
        // A sender waits to hear how far we have read.
        if node.poll_deadline().is_some_and(|deadline| clock.now() >= deadline.at) {
            break;
        }
    }
    Ok(read)
}

/// While much comes the socket is looked at from time to time: to be woken for each datagram costs more than to read it.
#[derive(Debug, Default)]
struct Nap {
    until: Option<Time>,
    /// Looks in a row that found nothing.
    idle: u32,
}

impl Nap {
    const fn until(&self) -> Option<Time> {
        self.until
    }

    /// Reads what is in, and looks again as soon as that shows to be right.
    fn look(
        &mut self,
        data: &mut GroupSocket,
        node: &mut ReceiverNode,
        clock: Clock,
        threads: &Threads,
        unbroken: &mut usize,
    ) {
        let result = read(data, node, clock, threads, unbroken);
        self.follow(clock.now(), data, result.as_ref().map_or(0, |read| *read), *unbroken == 0);
        complain(node, clock, result);
    }

    /// So much was read; and whether nothing is left.
    fn follow(&mut self, now: Time, data: &mut GroupSocket, read: usize, is_empty: bool) {
        self.idle = if read == 0 { self.idle + 1 } else { 0 };
        let is_busy = match self.until {
            None => read >= BUSY && data.holds() >= HOLDS,
            Some(_) => self.idle < IDLE,
        };
        if is_busy {
            let pause = if is_empty { NAP } else { Duration::ZERO };
            self.until = Some(now + pause);
        } else {
            self.until = None;
        }
        // A socket that cannot be watched is looked at on.
        if data.watch(!is_busy).is_err() {
            self.until = Some(now + NAP);
        }
    }
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

    fn hear_advertisements(&mut self, node: &mut ReceiverNode, clock: Clock) -> std::io::Result<usize> {
        self.advertisements
            .try_recv(|arrival, datagram| node.handle_advertisement_datagram(clock.now(), arrival.from, datagram))
    }

    fn hear_answers(&self, node: &mut ReceiverNode, clock: Clock, incoming: &mut [u8]) {
        for _ in 0..WAITING_PER_TURN {
            let Ok((length, from)) = self.nacks.try_recv_from(incoming) else { break };
            if let Some(datagram) = incoming.get_mut(..length) {
                node.handle_answer_datagram(clock.now(), from, datagram);
            }
        }
    }

    /// Tells who may miss the node that it ends; waits for the answer, but not for long.
    async fn take_leave(&self, node: &mut ReceiverNode, clock: Clock, incoming: &mut [u8]) {
        node.leave(clock.now());
        let until = clock.now() + LEAVE_MAX;
        while !node.has_left() && clock.now() < until {
            self.send(node);
            let next = node.poll_deadline().map_or(until, |deadline| deadline.at.min(until));
            tokio::select! {
                _ = self.nacks.readable() => self.hear_answers(node, clock, incoming),
                () = tokio::time::sleep_until(clock.instant(next).into()) => node.handle_timeout(clock.now()),
            }
        }
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
