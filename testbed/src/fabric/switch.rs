//! The fabric's thread: takes frames from the rings, decides, and sends.
//!
//! A frame that passes at once is sent straight from the ring that it arrived in: no copy, no allocation.
//! Only what is delayed or changed is copied. A link decides by when a frame came to it, not by when this thread has its
//! turn: a busy machine makes frames late, but no queue overflows by it. Each turn of the loop takes at most a batch
//! from every port, sends it, and gives the ring slots back.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::io;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use nackcast_common::clock::Clock;
use nackcast_proto::wire::DatagramType;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::eventfd::EventFd;
use nix::sys::time::TimeSpec;

use super::frame::{self, UdpFrame};
use super::link::{Fate, LinkState, Nanoseconds, Passage, nanoseconds, whole};
use super::{Blocked, Counters, Datagrams, Direction, Order, Request};
use crate::sys::{BATCH, PacketRing, Received, SLOTS};

/// How long one attempt to send waits for room.
const WAIT: Duration = Duration::from_millis(1);
/// How many such waits a batch gets before its next frame is given up.
const MAX_WAITS: u32 = 500;

/// The bytes of a frame: still in the ring of the port that it arrived at, or a copy.
#[derive(Clone)]
enum Bytes {
    Slot { port: usize, slot: usize },
    Copy(Rc<[u8]>),
}

/// A frame on its way, with what the decisions need to know of it.
#[derive(Clone)]
struct Frame {
    bytes: Bytes,
    length: usize,
    from: usize,
    group: bool,
    udp: Option<UdpFrame>,
    /// UDP or TCP: links do to it what they do. Address resolution and the like always passes.
    is_traffic: bool,
    /// Of what type it is, if it is nackcast's, and how long. As it was sent: a flipped bit makes no other type.
    datagram: Option<(DatagramType, usize)>,
}

/// Where a delayed frame goes on when its time has come.
#[derive(Clone, Copy)]
enum Stage {
    Switch,
    Port(usize),
}

struct Delayed {
    due: Nanoseconds,
    /// Keeps the order of frames that are due at the same time.
    number: u64,
    stage: Stage,
    frame: Frame,
}

impl PartialEq for Delayed {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}
impl Eq for Delayed {}
impl PartialOrd for Delayed {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Delayed {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.due, self.number).cmp(&(other.due, other.number))
    }
}

/// What belongs to one host, besides its ring. Pairs are indexed by [`Direction::index`].
struct Port {
    links: [LinkState; 2],
    counters: [Counters; 2],
    /// What does not reach this host, by the host that sent it.
    blocked: Vec<Blocked>,
    /// What is sent at the end of this turn.
    outgoing: Vec<Frame>,
}

pub(super) struct Switch {
    rings: Vec<PacketRing>,
    ports: Vec<Port>,
    learned: BTreeMap<[u8; 6], usize>,
    delayed: BinaryHeap<Reverse<Delayed>>,
    number: u64,
    clock: Clock,
}

fn bytes<'a>(rings: &'a [PacketRing], frame: &'a Frame) -> &'a [u8] {
    match &frame.bytes {
        Bytes::Slot { port, slot } => rings[*port].frame(*slot),
        Bytes::Copy(copy) => copy,
    }
}

fn count(counters: &mut Counters, frame: &Frame) {
    counters.all.add(frame.length);
    match (frame.udp, frame.group) {
        (Some(_), true) => counters.multicast_udp.add(frame.length),
        (Some(_), false) => counters.unicast_udp.add(frame.length),
        (None, _) => {}
    }
    if let Some((kind, length)) = frame.datagram {
        counters.datagrams.add(kind, length);
    }
}

impl Switch {
    pub(super) fn new(rings: Vec<PacketRing>, seed: u64) -> Self {
        let hosts = rings.len();
        let port = |index: usize| {
            // The generator scrambles its seed: neighbouring numbers give unrelated sequences.
            let link = |direction: Direction| {
                LinkState::new(seed.wrapping_mul(1 << 16).wrapping_add(2 * index as u64 + direction.index() as u64))
            };
            Port {
                links: [link(Direction::ToHost), link(Direction::FromHost)],
                counters: Default::default(),
                blocked: vec![Blocked::Nothing; hosts],
                outgoing: Vec::with_capacity(hosts * BATCH),
            }
        };
        Self {
            ports: (0..hosts).map(port).collect(),
            rings,
            learned: BTreeMap::new(),
            delayed: BinaryHeap::new(),
            number: 0,
            clock: Clock::start(),
        }
    }

    /// Carries frames until told to stop.
    pub(super) fn run(mut self, inbox: &Receiver<Request>, wake: &EventFd) -> io::Result<()> {
        loop {
            let busy = self.turn();
            // After the turn, so that counters include what had been sent when they were asked for.
            while let Ok(request) = inbox.try_recv() {
                if matches!(request.order, Order::Stop) {
                    return Ok(());
                }
                let answer = self.obey(&request.order)?;
                // An asker that went away wants no answer.
                let _heard = request.answer.send(answer);
            }
            if !busy {
                self.wait(wake)?;
            }
        }
    }

    fn obey(&mut self, order: &Order) -> io::Result<Counters> {
        match *order {
            Order::SetLink { host, direction, link } => self.ports[host].links[direction.index()].set(link),
            Order::Partition { from, to, blocked } => self.ports[to].blocked[from] = blocked,
            Order::Counters { host, direction } => {
                // What was sent before the question lies in the rings: this many turns take all of it, and no
                // traffic that goes on can hold the answer back.
                for _ in 0..SLOTS.div_ceil(BATCH) {
                    if !self.turn() {
                        break;
                    }
                }
                let counters = &mut self.ports[host].counters[direction.index()];
                if direction == Direction::FromHost {
                    counters.dropped_by_machine += self.rings[host].take_overflows()?;
                }
                return Ok(*counters);
            }
            Order::Stop => {}
        }
        Ok(Counters::default())
    }

    fn wait(&self, wake: &EventFd) -> io::Result<()> {
        let now = nanoseconds(self.clock.now());
        let next = self.delayed.peek().map(|Reverse(first)| Duration::from_nanos(first.due.saturating_sub(now)));
        let mut interests: Vec<_> =
            self.rings.iter().map(PacketRing::as_fd).map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
        interests.push(PollFd::new(wake.as_fd(), PollFlags::POLLIN));
        match ppoll(&mut interests, next.map(TimeSpec::from_duration), None) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        // Empty (EAGAIN) where a frame or the time woke us.
        let _empty = wake.read();
        Ok(())
    }

    /// One turn: takes a batch from every port and whatever is due, and sends. Answers whether there was anything.
    fn turn(&mut self) -> bool {
        let now = nanoseconds(self.clock.now());
        let wall = Clock::wall();
        let mut busy = false;
        for port in 0..self.ports.len() {
            for _ in 0..BATCH {
                let Some(received) = self.rings[port].receive() else { break };
                let waited = Clock::waited(wall, received.at);
                self.arrive(port, received, now.saturating_sub(whole(waited)));
                busy = true;
            }
        }
        while self.delayed.peek().is_some_and(|Reverse(first)| first.due <= now) {
            let Some(Reverse(Delayed { due, stage, frame, .. })) = self.delayed.pop() else { break };
            match stage {
                Stage::Switch => self.switch(&frame, due),
                Stage::Port(to) => self.ports[to].outgoing.push(frame),
            }
            busy = true;
        }
        for port in 0..self.ports.len() {
            self.flush(port);
        }
        for ring in &mut self.rings {
            ring.release();
        }
        busy
    }

    /// A frame came from the host at `port`.
    fn arrive(&mut self, port: usize, received: Received, now: Nanoseconds) {
        let counters = &mut self.ports[port].counters[Direction::FromHost.index()];
        if received.truncated {
            counters.dropped_by_machine += 1;
            return;
        }
        if received.checksum_missing {
            frame::finish_checksum(self.rings[port].frame_mut(received.slot));
        }
        let content = self.rings[port].frame(received.slot);
        let Some((_, source)) = frame::addresses(content) else { return };
        let udp = frame::udp(content);
        let payload = udp.and_then(|udp| udp.payload(content));
        let frame = Frame {
            bytes: Bytes::Slot { port, slot: received.slot },
            length: received.length,
            from: port,
            group: frame::is_group(content),
            udp,
            is_traffic: udp.is_some() || frame::is_tcp(content),
            datagram: payload.and_then(|payload| Some((Datagrams::kind(payload)?, payload.len()))),
        };
        count(counters, &frame);
        self.learned.insert(source, port);
        if let Some(passage) = self.judge(port, Direction::FromHost, &frame, now) {
            self.pass(frame, Stage::Switch, passage, now);
        }
    }

    /// Asks the link what becomes of `frame`; counts it where it ends here.
    fn judge(&mut self, host: usize, direction: Direction, frame: &Frame, now: Nanoseconds) -> Option<Passage> {
        let port = &mut self.ports[host];
        let fate = if frame.is_traffic {
            port.links[direction.index()].judge(frame.length.saturating_sub(frame::ETHERNET), now)
        } else {
            Fate::Passes(Passage { due: None, twice: false, flip: None })
        };
        let counters = &mut port.counters[direction.index()];
        match fate {
            Fate::Passes(passage) => return Some(passage),
            Fate::Lost => counters.dropped_by_fault += 1,
            Fate::QueueFull => counters.dropped_by_queue += 1,
        }
        None
    }

    /// Damages, doubles and delays `frame` as its passage says, and brings it to its next stage.
    fn pass(&mut self, mut frame: Frame, stage: Stage, passage: Passage, now: Nanoseconds) {
        if let (Some(random), Some(udp)) = (passage.flip, frame.udp) {
            let mut copy: Vec<u8> = bytes(&self.rings, &frame).to_vec();
            udp.corrupt(&mut copy, random);
            frame.bytes = Bytes::Copy(copy.into());
        }
        for _ in 0..=u8::from(passage.twice) {
            match passage.due {
                Some(due) => self.delay(frame.clone(), stage, due),
                None => match stage {
                    Stage::Switch => self.switch(&frame, now),
                    Stage::Port(to) => self.ports[to].outgoing.push(frame.clone()),
                },
            }
        }
    }

    fn delay(&mut self, mut frame: Frame, stage: Stage, due: Nanoseconds) {
        // The ring slot goes back at the end of this turn.
        if let Bytes::Slot { .. } = frame.bytes {
            frame.bytes = Bytes::Copy(bytes(&self.rings, &frame).into());
        }
        self.number += 1;
        self.delayed.push(Reverse(Delayed { due, number: self.number, stage, frame }));
    }

    /// Hands a frame that passed its sender's cable to those whom it is for.
    fn switch(&mut self, frame: &Frame, now: Nanoseconds) {
        let destination = frame::addresses(bytes(&self.rings, frame)).map(|(destination, _)| destination);
        let only = if frame.group { None } else { destination.and_then(|to| self.learned.get(&to).copied()) };
        for to in 0..self.ports.len() {
            if to == frame.from || only.is_some_and(|only| only != to) {
                continue;
            }
            let is_blocked = match self.ports[to].blocked[frame.from] {
                Blocked::Nothing => false,
                Blocked::Multicast => frame.group,
                Blocked::Udp => true,
            };
            if frame.udp.is_some() && is_blocked {
                self.ports[to].counters[Direction::ToHost.index()].dropped_by_fault += 1;
            } else if let Some(passage) = self.judge(to, Direction::ToHost, frame, now) {
                self.pass(frame.clone(), Stage::Port(to), passage, now);
            }
        }
    }

    /// Sends what waits for one host; waits where the kernel has no room, and counts what it refuses.
    fn flush(&mut self, port: usize) {
        let outgoing = std::mem::take(&mut self.ports[port].outgoing);
        let counters = &mut self.ports[port].counters[Direction::ToHost.index()];
        let (mut done, mut waits) = (0, 0);
        while done < outgoing.len() {
            let batch = &outgoing[done..outgoing.len().min(done + BATCH)];
            let mut pieces: [&[u8]; BATCH] = [&[]; BATCH];
            for (piece, frame) in pieces.iter_mut().zip(batch) {
                *piece = bytes(&self.rings, frame);
            }
            match self.rings[port].send(&pieces[..batch.len()]) {
                Ok(sent) => {
                    batch[..sent].iter().for_each(|frame| count(counters, frame));
                    (done, waits) = (done + sent, 0);
                }
                Err(error) if is_full(&error) && waits < MAX_WAITS => {
                    (counters.waits, waits) = (counters.waits + 1, waits + 1);
                    wait_for_room(&self.rings[port], &error);
                }
                Err(error) => {
                    tracing::debug!(%error, port, "a frame was refused");
                    (counters.dropped_by_machine, done, waits) = (counters.dropped_by_machine + 1, done + 1, 0);
                }
            }
        }
        let mut emptied = outgoing;
        emptied.clear();
        self.ports[port].outgoing = emptied;
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(code) if code == Errno::EAGAIN as i32 || code == Errno::ENOBUFS as i32)
}

/// Waits for room in the socket's queue, or, where it is the interface that is full, a moment.
fn wait_for_room(ring: &PacketRing, error: &io::Error) {
    let mut interest = [PollFd::new(ring.as_fd(), PollFlags::POLLOUT)];
    let by_socket = error.raw_os_error() == Some(Errno::EAGAIN as i32);
    let interests = if by_socket { &mut interest[..] } else { &mut [] };
    // Cut short or failed, the next attempt to send will tell.
    let _ready = ppoll(interests, Some(TimeSpec::from_duration(WAIT)), None);
}
