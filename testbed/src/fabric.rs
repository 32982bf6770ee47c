//! A switch in user space with one port per host, and faults on every cable.
//!
//! - One thread reads every frame that a host sends and hands it on: to all others where it goes to a
//!   group or to an unknown address, to one port where the address was learned.
//! - Faults ([`Link`]) touch UDP and TCP (bits are flipped in UDP only), partitions UDP; a call that changes them returns
//!   when they are in force.
//! - Random faults depend only on the seed and the order in which frames arrive.
//! - Nothing vanishes silently: every frame that a host sent and another did not get is counted somewhere
//!   in [`Counters`].

mod datagrams;
mod frame;
mod link;
mod switch;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::ops::Sub;
use std::sync::Arc;
use std::sync::mpsc::{Sender, SyncSender, channel, sync_channel};
use std::thread::JoinHandle;

use nix::sys::eventfd::{EfdFlags, EventFd};

pub use self::datagrams::{Amount, Datagrams};
pub(crate) use self::link::{Fate, LinkState, Passage};
pub use self::link::{GilbertElliott, Link};
use self::switch::Switch;
use crate::sys::PacketRing;

/// Why the fabric cannot do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum FabricError {
    /// A packet socket on a cable's end could not be made.
    #[error("cannot open a packet socket on {interface}: {source}; CAP_NET_RAW is needed")]
    Open {
        /// The cable's end.
        interface: String,
        /// What the kernel answered.
        source: io::Error,
    },
    /// The thread did not start, or has no way to be woken.
    #[error("cannot start the fabric's thread: {0}")]
    Thread(#[source] io::Error),
    /// No host has this name.
    #[error("the fabric has no host `{0}`")]
    NoSuchHost(String),
    /// A share is no probability.
    #[error("{what} of {value} is no probability: give 0 to 1")]
    NoProbability {
        /// Which field of the link.
        what: &'static str,
        /// What was given.
        value: f64,
    },
    /// The thread ended, by a panic or a failed system call; the log says why.
    #[error("the fabric's thread has ended; no more frames are carried")]
    Ended,
}

/// One direction of a host's cable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From the fabric to the host.
    ToHost,
    /// From the host to the fabric.
    FromHost,
}

impl Direction {
    fn index(self) -> usize {
        match self {
            Self::ToHost => 0,
            Self::FromHost => 1,
        }
    }
}

/// Frames and their bytes, from the Ethernet header on, without preamble and frame check sequence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// How many frames.
    pub frames: u64,
    /// How many bytes.
    pub bytes: u64,
}

impl Traffic {
    fn add(&mut self, length: usize) {
        self.frames += 1;
        self.bytes += length as u64;
    }
}

impl Sub for Traffic {
    type Output = Self;
    fn sub(self, earlier: Self) -> Self {
        Self { frames: self.frames - earlier.frames, bytes: self.bytes - earlier.bytes }
    }
}

/// What passed one direction of a host's cable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// From a host: what it sent, before faults. To a host: what it was given, after faults.
    pub all: Traffic,
    /// The part of `all` that is UDP to a group (or to all).
    pub multicast_udp: Traffic,
    /// The part of `all` that is UDP to one host.
    pub unicast_udp: Traffic,
    /// The part of `all` that is nackcast's, by type.
    pub datagrams: Datagrams,
    /// Frames lost by chance, by a burst, by a partition, or too long for the cable.
    pub dropped_by_fault: u64,
    /// Frames that found the queue of a rate-limited link full.
    pub dropped_by_queue: u64,
    /// From a host: frames that came faster than the fabric could take them, or were too long. To a host:
    /// frames that the kernel refused. Anything but zero here means that this machine was too slow, or
    /// that something is wrong: it is no fault that was asked for.
    pub dropped_by_machine: u64,
    /// To a host: how often the fabric waited because the kernel's queue was full.
    pub waits: u64,
}

/// What does not pass from one host to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Blocked {
    Nothing,
    Multicast,
    Udp,
}

pub(crate) enum Order {
    SetLink { host: usize, direction: Direction, link: Link },
    Partition { from: usize, to: usize, blocked: Blocked },
    Counters { host: usize, direction: Direction },
    Stop,
}

pub(crate) struct Request {
    order: Order,
    answer: SyncSender<Counters>,
}

/// A running switch. Dropping it stops the thread.
pub struct Fabric {
    hosts: Vec<String>,
    requests: Sender<Request>,
    wake: Arc<EventFd>,
    thread: Option<JoinHandle<()>>,
}

impl fmt::Debug for Fabric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fabric").field("hosts", &self.hosts).finish_non_exhaustive()
    }
}

impl Fabric {
    /// Starts a switch whose ports are interfaces of the calling thread's namespace: pairs of a host's
    /// name and the hub's end of its cable.
    pub fn start(ends: Vec<(String, String)>, seed: u64) -> Result<Self, FabricError> {
        let mut hosts = Vec::with_capacity(ends.len());
        let mut rings = Vec::with_capacity(ends.len());
        for (host, interface) in ends {
            let index = nix::net::if_::if_nametoindex(interface.as_str()).map_err(io::Error::from);
            let ring = index.and_then(PacketRing::open);
            rings.push(ring.map_err(|source| FabricError::Open { interface, source })?);
            hosts.push(host);
        }
        let (requests, inbox) = channel();
        let wake = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK);
        let wake = Arc::new(wake.map_err(|errno| FabricError::Thread(errno.into()))?);
        let woken = Arc::clone(&wake);
        let thread = std::thread::Builder::new()
            .name("fabric".into())
            .spawn(move || {
                // Where it is allowed, go before the programs under test: they are to see only the loss asked for.
                let _allowed = rustix::process::setpriority_process(None, -10);
                if let Err(error) = Switch::new(rings, seed).run(&inbox, &woken) {
                    tracing::error!(%error, "the fabric stopped");
                }
            })
            .map_err(FabricError::Thread)?;
        Ok(Self { hosts, requests, wake, thread: Some(thread) })
    }

    /// Puts `link` in force on one direction of a host's cable.
    pub fn set_link(&self, host: &str, direction: Direction, link: Link) -> Result<(), FabricError> {
        check(&link)?;
        self.ask(Order::SetLink { host: self.index(host)?, direction, link }).map(drop)
    }

    /// Blocks (or not) UDP from one host to another; the other way is not affected.
    pub fn partition(&self, from: &str, to: &str, blocked: bool) -> Result<(), FabricError> {
        self.block(from, to, if blocked { Blocked::Udp } else { Blocked::Nothing })
    }

    /// The same for multicast only: unicast passes.
    pub fn block_multicast(&self, from: &str, to: &str, blocked: bool) -> Result<(), FabricError> {
        self.block(from, to, if blocked { Blocked::Multicast } else { Blocked::Nothing })
    }

    fn block(&self, from: &str, to: &str, blocked: Blocked) -> Result<(), FabricError> {
        self.ask(Order::Partition { from: self.index(from)?, to: self.index(to)?, blocked }).map(drop)
    }

    /// What passed so far, everything included that a host had sent when this was called.
    pub fn counters(&self, host: &str, direction: Direction) -> Result<Counters, FabricError> {
        self.ask(Order::Counters { host: self.index(host)?, direction })
    }

    fn index(&self, host: &str) -> Result<usize, FabricError> {
        let found = self.hosts.iter().position(|name| name == host);
        found.ok_or_else(|| FabricError::NoSuchHost(host.to_owned()))
    }

    fn ask(&self, order: Order) -> Result<Counters, FabricError> {
        let (answer, answered) = sync_channel(1);
        self.requests.send(Request { order, answer }).map_err(|_gone| FabricError::Ended)?;
        // A full counter also wakes; nothing else can fail.
        let _woken = self.wake.write(1);
        answered.recv().map_err(|_gone| FabricError::Ended)
    }
}

impl Drop for Fabric {
    fn drop(&mut self) {
        // An error means that the thread has ended before.
        let _stopped = self.ask(Order::Stop);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the fabric's thread panicked");
        }
    }
}

fn check(link: &Link) -> Result<(), FabricError> {
    let burst = link.burst.unwrap_or(GilbertElliott { to_bad: 0.0, to_good: 0.0, loss_good: 0.0, loss_bad: 0.0 });
    let shares = [
        ("loss", link.loss),
        ("reorder", link.reorder),
        ("duplicate", link.duplicate),
        ("corrupt", link.corrupt),
        ("burst.to_bad", burst.to_bad),
        ("burst.to_good", burst.to_good),
        ("burst.loss_good", burst.loss_good),
        ("burst.loss_bad", burst.loss_bad),
    ];
    match shares.into_iter().find(|(_, value)| !(0.0..=1.0).contains(value)) {
        Some((what, value)) => Err(FabricError::NoProbability { what, value }),
        None => Ok(()),
    }
}
