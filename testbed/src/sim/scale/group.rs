//! The receivers: engines, and disks that answer at once.
//!
//! Receivers of one delay stand together, so that a datagram reaches them in one sweep. One that waits for nothing
//! costs nothing: each has at most one valid entry in the heap of wake-ups.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use nackcast_common::clock::Time;
use nackcast_common::ids::{ObjectId, ObjectIndex, SessionId};
use nackcast_common::ranges::RangeSet;
use nackcast_proto::wire::{Nack, NackAnswer};
use nackcast_receiver::engine::runs::Run;
use nackcast_receiver::engine::{
    BlockOutcome, Done, EngineConfig, Event, InstallOutcome, ReceiverEngine, Want, Wants, Work,
};

use super::content::Content;
use super::loss::{Loss, Losses};
use super::meter::{Meter, Owner};
use super::multicast::{Content as Carried, Multicast};
use super::world::CHANNEL;

/// Different delays from the sender.
pub(super) const DELAYS: usize = 8;
/// As many as a receiver has by default: 32 MiB.
const SLOTS: u32 = 128;
/// Where advertisements come from.
const SENDER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 255, 0, 1)), 7600);

#[derive(Debug)]
struct Receiver {
    engine: ReceiverEngine,
    /// The wake-up that counts.
    wake: Time,
    complete_at: Option<Time>,
    holds: bool,
}

#[derive(Debug)]
pub(super) struct Group {
    receivers: Vec<Receiver>,
    wakes: BinaryHeap<Reverse<(Time, u32)>>,
    losses: Losses,
    lost: Vec<u16>,
    content: Arc<Content>,
    /// NACKs on their way out.
    outbox: Vec<(u32, u64, Nack)>,
    meter: Meter,
    pub(super) complete: u32,
    pub(super) holding: u32,
    pub(super) completed_at: Vec<Time>,
    pub(super) handled: u64,
}

impl Group {
    pub(super) fn new(count: u32, loss: Loss, seed: u64, content: Arc<Content>, meter: Meter) -> Self {
        let receiver = |at: u32| Receiver {
            engine: ReceiverEngine::new(EngineConfig {
                channel: CHANNEL,
                seed: seed.wrapping_mul(1_000_003).wrapping_add(at.into()),
                nack_retry: Duration::from_millis(200),
                nack_budget: 4,
                slots: SLOTS,
                remembered: None,
                once: false,
            }),
            wake: Time::NEVER,
            complete_at: None,
            holds: false,
        };
        Self {
            receivers: meter.count(Owner::Receivers, || (0..count).map(receiver).collect()),
            wakes: BinaryHeap::new(),
            losses: Losses::new(loss.own, seed ^ 0x5eed),
            lost: Vec::new(),
            content,
            outbox: Vec::new(),
            meter,
            complete: 0,
            holding: 0,
            completed_at: Vec::new(),
            handled: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.receivers.len()
    }

    /// Receivers of one delay.
    pub(super) fn of_delay(&self, delay: usize) -> Range<usize> {
        let each = self.receivers.len();
        each * delay / DELAYS..each * (delay + 1) / DELAYS
    }

    /// Which delay a receiver has.
    pub(super) fn delay_of(&self, receiver: u32) -> usize {
        (0..DELAYS).find(|delay| self.of_delay(*delay).contains(&(receiver as usize))).unwrap_or(0)
    }

    /// A datagram to or from one receiver is lost.
    pub(super) fn loses(&mut self) -> bool {
        self.losses.one()
    }

    /// What was multicast at one moment reaches all receivers of one delay.
    pub(super) fn deliver(&mut self, now: Time, delay: usize, session: SessionId, burst: &[Multicast]) {
        let before = (self.meter.switch)(Owner::Receivers);
        let mut lost = std::mem::take(&mut self.lost);
        for at in self.of_delay(delay) {
            for multicast in burst {
                lost.clear();
                self.losses.draw(multicast.count, &mut lost);
                multicast.add_shared(at, &mut lost);
                if lost.len() >= multicast.count.into() {
                    continue;
                }
                self.handled += 1;
                let engine = &mut self.receivers[at].engine;
                match &multicast.content {
                    Carried::Advertisement(a) => engine.handle_advertisement(now, SENDER, a),
                    Carried::Digest(d) => engine.handle_digest(now, d),
                    Carried::Symbols(run) => {
                        let (first_packet, object, block) = (run.first_packet, run.object, run.block);
                        let run = Run { session, first_packet, object, block, esis: run.esis.clone() };
                        engine.handle_run(now, &run, &lost);
                    }
                }
                self.work(now, at);
            }
            self.settle(now, at);
        }
        self.lost = lost;
        (self.meter.switch)(before);
    }

    /// An answer reaches a receiver.
    pub(super) fn answer(&mut self, now: Time, receiver: u32, answer: &NackAnswer) {
        let before = (self.meter.switch)(Owner::Receivers);
        let at = receiver as usize;
        self.handled += 1;
        self.receivers[at].engine.handle_answer(now, answer, answer.nonce != 0);
        self.settle(now, at);
        (self.meter.switch)(before);
    }

    /// When the next receiver wants to be woken.
    pub(super) fn next_wake(&mut self) -> Option<Time> {
        while let Some(Reverse((at, receiver))) = self.wakes.peek() {
            if self.receivers[*receiver as usize].wake == *at {
                return Some(*at);
            }
            self.wakes.pop();
        }
        None
    }

    /// Wakes one receiver whose time has come.
    pub(super) fn wake(&mut self, now: Time) {
        let Some(Reverse((_, receiver))) = self.wakes.pop() else { return };
        let at = receiver as usize;
        let before = (self.meter.switch)(Owner::Receivers);
        self.receivers[at].wake = Time::NEVER;
        self.settle(now, at);
        (self.meter.switch)(before);
    }

    /// NACKs that were sent since.
    pub(super) fn take_outbox(&mut self) -> Vec<(u32, u64, Nack)> {
        std::mem::take(&mut self.outbox)
    }

    /// Everybody is complete, and the sender knows.
    pub(super) fn all_reported(&self) -> bool {
        self.complete as usize == self.receivers.len() && self.receivers.iter().all(|r| r.engine.has_reported())
    }

    /// Open blocks, over all receivers.
    pub(super) fn open_blocks(&self) -> u64 {
        self.receivers.iter().map(|r| r.engine.snapshot().open_blocks).sum()
    }

    /// How an incomplete receiver stands, for a model that got stuck.
    pub(super) fn incomplete(&self) -> Option<String> {
        let at = self.receivers.iter().position(|r| r.complete_at.is_none())?;
        let engine = &self.receivers[at].engine;
        Some(format!("receiver {at}: {:?} {:?}", engine.snapshot(), engine.poll_deadline()))
    }

    /// Does what an engine ordered.
    fn work(&mut self, now: Time, at: usize) {
        let receiver = &mut self.receivers[at];
        while let Some(work) = receiver.engine.poll_work() {
            if let Some(done) = work_done(&receiver.engine, &work) {
                receiver.engine.handle_done(now, done);
            }
            match work {
                Work::Complete { object, .. } if !receiver.holds && Some(object) == self.content.root_object() => {
                    let hash = self.content.encoded.reference.hash;
                    receiver.engine.handle_root(now, hash, &self.content.root, |_| false);
                }
                Work::Assemble(_) => {
                    self.holding += u32::from(!receiver.holds);
                    receiver.holds = true;
                    receiver.engine.handle_wants(now, wants(&self.content));
                }
                _ => {}
            }
        }
    }

    /// Does what is due, takes what the engine sends, and sees when it wants to be woken.
    fn settle(&mut self, now: Time, at: usize) {
        self.work(now, at);
        if self.receivers[at].engine.poll_deadline().is_some_and(|d| d.at <= now) {
            self.handled += 1;
            self.receivers[at].engine.handle_timeout(now);
            self.work(now, at);
        }
        let receiver = &mut self.receivers[at];
        let name = u32::try_from(at).unwrap_or(u32::MAX);
        while let Some(transmit) = receiver.engine.poll_transmit() {
            self.outbox.push((name, transmit.packet, transmit.nack));
        }
        while let Some(event) = receiver.engine.poll_event() {
            if matches!(event, Event::Complete(_)) && receiver.complete_at.is_none() {
                receiver.complete_at = Some(now);
                self.complete += 1;
                self.completed_at.push(now);
            }
        }
        let deadline = receiver.engine.poll_deadline().map(|d| d.at.max(now + Duration::from_micros(1)));
        if let Some(deadline) = deadline.filter(|deadline| *deadline < receiver.wake) {
            receiver.wake = deadline;
            self.wakes.push(Reverse((deadline, name)));
        }
    }
}

/// What a disk without faults answers.
fn work_done(engine: &ReceiverEngine, work: &Work) -> Option<Done> {
    let held = |object: ObjectId, block: u32| engine.held_symbols(object, block).cloned();
    Some(match work {
        Work::Complete { object, block, slot } => {
            Done::Complete { object: *object, block: *block, slot: *slot, outcome: BlockOutcome::Sound }
        }
        Work::Spill { object, block, slot } => {
            Done::Spill { object: *object, block: *block, slot: *slot, held: held(*object, *block) }
        }
        Work::Load { object, block, slot } => {
            let held = held(*object, *block).unwrap_or_default();
            Done::Load { object: *object, block: *block, slot: *slot, held }
        }
        Work::Install { object } => Done::Install { object: *object, outcome: InstallOutcome::Installed },
        Work::Checkpoint { .. } => Done::Checkpoint,
        Work::Room => Done::Room { is_there: true },
        Work::Finish => Done::Finish { whole: true },
        Work::Discard { .. } | Work::Assemble(_) => return None,
    })
}

/// An empty directory wants everything.
fn wants(content: &Content) -> Wants {
    let objects = (0..u32::try_from(content.manifest.objects().len()).unwrap_or(u32::MAX))
        .map(|index| Want { index: ObjectIndex(index), done: RangeSet::new(), held: Vec::new() })
        .collect();
    Wants { manifest: Arc::clone(&content.manifest), hash: content.encoded.reference.hash, objects }
}
