//! All requests under way, and what becomes of them.
//!
//! A request goes to its source, which answers block by block, as fast as it may give to all; each reply arrives after
//! the way's delay. The world carries out what is due ([`Exchange::go`], [`Exchange::arrive`]).

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use nackcast_common::clock::Time;
use nackcast_common::ids::ObjectId;
use nackcast_proto::pull::{Block, Offer, Request};
use nackcast_proto::wire::limits::ROOT_LEN_MAX;
use nackcast_receiver::engine::PullEnd;
use nackcast_receiver::node::PullOrder;
use rand::rngs::Xoshiro256PlusPlus;
use rand::{Rng, RngExt, SeedableRng};

use super::{Call, Names, Place, Replied};
use crate::sim::network::flipped;
use crate::sim::scenario::PullSpec;

/// Of which nothing is heard for so long, that is broken: QUIC's idle time.
pub const IDLE_MAX: Duration = Duration::from_secs(10);
/// Who is not reached is tried again after so long.
const AGAIN: Duration = Duration::from_millis(100);
/// Ways of a handshake and a hello, before a request arrives.
const GREETING: u32 = 5;
/// What a node gives at least when faults have ended, in bits per second.
const HEALED_BPS: u64 = 20_000_000;

/// The nodes between which blocks go.
pub trait Ends {
    /// In which of its lives the process there is; none when it does not run, or stands still.
    fn life(&self, place: Place) -> Option<u32>;
    /// Each reaches the other.
    fn join(&self, receiver: u32, place: Place) -> bool;
    /// The process there begins to answer; false when it refuses.
    fn begin(&mut self, place: Place, call: Call, request: &[u8]) -> bool;
    /// Its next reply, and how long it took to make it.
    fn reply(&mut self, place: Place, call: Call) -> (Replied, Duration);
}

/// What is due.
#[derive(Debug)]
pub enum Step {
    /// The source goes on.
    Go(Call),
    /// A reply arrives.
    Arrive(Call, Bytes),
    /// The caller learns how it ended.
    End(Call, PullEnd),
}

/// What a receiver is given.
#[derive(Debug)]
pub enum Delivery {
    /// A block of an object, and who gave it.
    Block(Place, ObjectId, Block),
    /// A manifest.
    Offer(Offer),
    /// Nothing more.
    Over(PullEnd),
}

#[derive(Debug)]
struct Running {
    source: Place,
    what: Request,
    longest: usize,
    /// The life of the process that answers.
    answers: Option<u32>,
    /// When the way was last seen to work.
    seen_at: Time,
}

/// All of it.
#[derive(Debug)]
pub struct Exchange {
    spec: PullSpec,
    names: Names,
    running: BTreeMap<Call, Running>,
    /// Until when a source is busy with what it gave.
    busy_until: BTreeMap<Place, Time>,
    /// Who gives wrong bytes, and who nothing, until when.
    false_until: BTreeMap<Place, Time>,
    mute_until: BTreeMap<Place, Time>,
    /// Who is behind a firewall, until when.
    barred_until: BTreeMap<Place, Time>,
    random: Xoshiro256PlusPlus,
}

impl Exchange {
    /// Nothing is under way.
    #[must_use]
    pub fn new(spec: &PullSpec, names: Names, seed: u64) -> Self {
        Self {
            spec: spec.clone(),
            names,
            running: BTreeMap::new(),
            busy_until: BTreeMap::new(),
            false_until: BTreeMap::new(),
            mute_until: BTreeMap::new(),
            barred_until: BTreeMap::new(),
            random: Xoshiro256PlusPlus::seed_from_u64(seed ^ 0x9011),
        }
    }

    /// Who is behind a name.
    #[must_use]
    pub fn place(&self, name: &str) -> Option<Place> {
        self.names.get(name).copied()
    }

    /// By what name somebody is asked.
    #[must_use]
    pub fn name(&self, place: Place) -> Option<&str> {
        self.names.iter().find(|(_, other)| **other == place).map(|(name, _)| name.as_str())
    }

    /// Every other block that it gives has a wrong bit.
    pub fn spoil(&mut self, place: Place, until: Time) {
        self.false_until.insert(place, until);
    }

    /// It takes requests, and says nothing.
    pub fn mute(&mut self, place: Place, until: Time) {
        self.mute_until.insert(place, until);
    }

    /// Nothing of unicast reaches it.
    pub fn bar(&mut self, place: Place, until: Time) {
        self.barred_until.insert(place, until);
    }

    /// All connections break: what becomes of each request.
    pub fn break_all(&mut self) -> Vec<Step> {
        self.running.keys().map(|call| Step::End(*call, PullEnd::Broken)).collect()
    }

    /// Faults end.
    pub fn heal(&mut self) {
        self.false_until.clear();
        self.mute_until.clear();
        self.barred_until.clear();
        self.spec.breaks = 0.0;
        self.spec.rate_bps = self.spec.rate_bps.max(HEALED_BPS);
    }

    /// A receiver orders something: what is due, and when.
    pub fn order(&mut self, now: Time, (receiver, life): (u32, u32), order: &PullOrder) -> Option<(Time, Step)> {
        let (request, source, what, longest) = match order {
            PullOrder::Manifest { request, source } => {
                (*request, source, Request::Manifest, ROOT_LEN_MAX as usize + 256)
            }
            PullOrder::Fetch { request, source, object, blocks, longest } => {
                (*request, source, Request::Blocks { object: *object, blocks: blocks.clone() }, *longest)
            }
            PullOrder::Cancel { request } => {
                self.running.remove(&Call { receiver, life, request: *request });
                return None;
            }
        };
        let call = Call { receiver, life, request };
        let source = self.place(source)?;
        self.running.insert(call, Running { source, what, longest, answers: None, seen_at: now });
        Some((now + self.delay() * GREETING, Step::Go(call)))
    }

    fn delay(&self) -> Duration {
        Duration::from_micros(self.spec.delay_us)
    }

    /// The source of a request goes on: what is due then.
    pub fn go(&mut self, now: Time, call: Call, ends: &mut impl Ends) -> Vec<(Time, Step)> {
        let (delay, spec) = (self.delay(), &self.spec);
        let Some(running) = self.running.get_mut(&call) else { return Vec::new() };
        let place = running.source;
        let until = |table: &BTreeMap<Place, Time>| table.get(&place).is_some_and(|until| now < *until);
        let is_reached = !until(&self.barred_until) && ends.join(call.receiver, place);
        let life = ends.life(place).filter(|_| is_reached);
        let broken = |at| vec![(at, Step::End(call, PullEnd::Broken))];
        let Some(life) = life else {
            return if now.since(running.seen_at) < IDLE_MAX {
                vec![(now + AGAIN, Step::Go(call))]
            } else {
                broken(now)
            };
        };
        running.seen_at = now;
        if until(&self.mute_until) {
            return vec![(now + AGAIN, Step::Go(call))];
        }
        // Another process does not know of the connection, and says so.
        if running.answers.is_some_and(|answers| answers != life)
            || running.answers.is_none() && !ends.begin(place, call, &running.what.encode())
        {
            return broken(now + delay);
        }
        running.answers = Some(life);
        let (reply, took) = match ends.reply(place, call) {
            (Replied::With(reply), took) => (reply, took),
            (Replied::Over, took) => return vec![(now + took + delay, Step::End(call, PullEnd::Over))],
            (Replied::Unknown, _) => return broken(now + delay),
        };
        let transfer = Duration::from_micros(reply.len() as u64 * 8_000_000 / spec.rate_bps.max(1));
        let begins = self.busy_until.get(&place).map_or(now, |at| now.max(*at)) + took;
        let ends_at = begins + transfer;
        self.busy_until.insert(place, ends_at);
        if spec.breaks > 0.0 && self.random.random_bool(spec.breaks) {
            return broken(begins + transfer / 2);
        }
        let is_false = until(&self.false_until) && self.random.random_range(0..2) == 0;
        let reply = if is_false { spoilt(&running.what, &reply, self.random.next_u64()) } else { reply };
        vec![(ends_at + delay, Step::Arrive(call, reply)), (ends_at, Step::Go(call))]
    }

    /// A reply arrives: what the receiver is given.
    pub fn arrive(&mut self, call: Call, reply: Bytes) -> Option<Delivery> {
        let running = self.running.get(&call)?;
        let (source, is_long) = (running.source, reply.len() > running.longest);
        let delivery = match running.what {
            _ if is_long => None,
            Request::Blocks { object, .. } => {
                Block::decode(reply).ok().map(|block| Delivery::Block(source, object, block))
            }
            Request::Manifest => match Offer::decode(reply) {
                Ok(Some(offer)) => Some(Delivery::Offer(offer)),
                Ok(None) => return None,
                Err(_) => None,
            },
            // Those are for senders.
            Request::Probe { .. } => None,
        };
        if delivery.is_none() {
            self.running.remove(&call);
        }
        delivery.or(Some(Delivery::Over(PullEnd::Broken)))
    }

    /// It is over, if the receiver still waits for it.
    pub fn end(&mut self, call: Call) -> bool {
        self.running.remove(&call).is_some()
    }

    /// A receiver's process is gone, and its requests with it.
    pub fn forget(&mut self, receiver: u32) {
        self.running.retain(|call, _| call.receiver != receiver);
    }
}

/// A block with a wrong bit; anything else as it is.
fn spoilt(what: &Request, reply: &Bytes, bit: u64) -> Bytes {
    match (what, Block::decode(reply.clone())) {
        (Request::Blocks { .. }, Ok(Block { block, data })) if !data.is_empty() => {
            Block { block, data: flipped(&data, bit) }.encode().into()
        }
        _ => reply.clone(),
    }
}
