//! What happened: a hash over all of it, a timeline of what somebody asked about, and samples for a plot.
//!
//! Two runs are the same when their hashes are. The hash covers every datagram that was sent, delivered or read, with
//! its bytes, whatever a disk finished, every step of unicast and all that happens to nodes, each with its time.

use std::fmt::Write as _;

use nackcast_common::clock::Time;
use nackcast_common::ids::{Digest, ObjectId};

/// Bytes that are hashed at once.
const CHUNK: usize = 32 << 10;
/// Lines of a timeline at most; the last ones are kept.
const LINES_MAX: usize = 20_000;

/// What a timeline shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Watch {
    /// Of this receiver only.
    pub receiver: Option<u32>,
    /// Of this object only.
    pub object: Option<ObjectId>,
}

/// The kinds of what happens, as the hash knows them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// The sender sent a datagram.
    Sent = 1,
    /// A datagram reached a receiver.
    Delivered,
    /// A receiver sent a NACK.
    Nack,
    /// A NACK reached the sender.
    Heard,
    /// A disk finished an order.
    Disk,
    /// Something happened to a node or a link.
    Happening,
    /// Something of unicast.
    Pull,
}

/// One moment of all nodes, for a plot.
#[derive(Clone, Debug, Default)]
pub struct Sample {
    /// When.
    pub at: Time,
    /// Share of its wanted bytes that each receiver holds.
    pub progress: Vec<f32>,
    /// Bytes that the sender has sent.
    pub sent_bytes: u64,
    /// Of these, repair.
    pub repair_bytes: u64,
    /// NACK datagrams that reached the sender.
    pub nacks: u64,
}

/// What happened.
#[derive(Debug)]
pub struct Trace {
    hasher: blake3::Hasher,
    pending: Vec<u8>,
    events: u64,
    watch: Option<Watch>,
    lines: std::collections::VecDeque<String>,
    /// Moments, in order.
    pub samples: Vec<Sample>,
}

impl Trace {
    /// Nothing yet.
    #[must_use]
    pub fn new(watch: Option<Watch>) -> Self {
        Self {
            hasher: blake3::Hasher::new(),
            pending: Vec::with_capacity(CHUNK + 64),
            events: 0,
            watch,
            lines: std::collections::VecDeque::new(),
            samples: Vec::new(),
        }
    }

    /// Adds to the hash.
    pub fn add(&mut self, now: Time, kind: Kind, node: u32, what: u64) {
        self.events += 1;
        self.pending.push(kind as u8);
        self.pending.extend_from_slice(&now.0.to_le_bytes());
        self.pending.extend_from_slice(&node.to_le_bytes());
        self.pending.extend_from_slice(&what.to_le_bytes());
        if self.pending.len() >= CHUNK {
            self.hasher.update(&self.pending);
            self.pending.clear();
        }
    }

    /// Adds a datagram to the hash.
    pub fn add_bytes(&mut self, now: Time, kind: Kind, node: u32, bytes: &[u8]) {
        self.add(now, kind, node, bytes.len() as u64);
        self.hasher.update(&self.pending);
        self.pending.clear();
        self.hasher.update(bytes);
    }

    /// Adds a line to the timeline, if it is about what is watched.
    pub fn line(&mut self, now: Time, receiver: Option<u32>, object: Option<ObjectId>, text: impl FnOnce() -> String) {
        let Some(watch) = self.watch else { return };
        let about = |asked: Option<u32>| asked.is_none() || receiver.is_none() || asked == receiver;
        if !about(watch.receiver) || (watch.object.is_some() && object.is_some() && watch.object != object) {
            return;
        }
        if self.lines.len() >= LINES_MAX {
            self.lines.pop_front();
        }
        let mut line = format!("{now:?} ");
        match receiver {
            Some(receiver) => write!(line, "receiver {receiver}: ").unwrap_or_default(),
            None => line.push_str("sender: "),
        }
        line.push_str(&text());
        self.lines.push_back(line);
    }

    /// Whether lines are kept at all.
    #[must_use]
    pub const fn is_watching(&self) -> bool {
        self.watch.is_some()
    }

    /// How much happened.
    #[must_use]
    pub const fn events(&self) -> u64 {
        self.events
    }

    /// The hash over all of it.
    #[must_use]
    pub fn hash(&self) -> Digest {
        let mut hasher = self.hasher.clone();
        hasher.update(&self.pending);
        Digest(*hasher.finalize().as_bytes())
    }

    /// The timeline.
    #[must_use]
    pub fn timeline(self) -> Vec<String> {
        self.lines.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_sees_times_nodes_and_order() {
        let of = |events: &[(u64, u32, u64)]| {
            let mut trace = Trace::new(None);
            events.iter().for_each(|(at, node, what)| trace.add(Time(*at), Kind::Sent, *node, *what));
            trace.hash()
        };
        let base = of(&[(1, 2, 3), (4, 5, 6)]);
        assert_eq!(base, of(&[(1, 2, 3), (4, 5, 6)]));
        for other in [&[(4, 5, 6), (1, 2, 3)][..], &[(1, 2, 3)], &[(1, 2, 3), (4, 5, 7)], &[(1, 2, 3), (5, 5, 6)]] {
            assert_ne!(base, of(other));
        }
        let of = |bytes: &[u8]| {
            let mut trace = Trace::new(None);
            trace.add_bytes(Time(1), Kind::Sent, 2, bytes);
            trace.hash()
        };
        assert_ne!(of(b"one"), of(b"two"));
    }
}
