//! Who takes part in a run, and what happens to them: a function of a seed.

use nackcast_common::control::Steer;
use nackcast_proto::wire::Role;
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};

use crate::sim::scenario::{ContentSpec, PullSpec, SenderSpec, When};

/// A sender's part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// What it is for.
    pub role: Role,
    /// Order among backups.
    pub rank: u32,
    /// When its node starts first.
    pub start_ms: u64,
}

/// What happens. Nodes are counted: senders first, then receivers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Nothing passes from one node to another, or both ways.
    Cut {
        /// From.
        from: usize,
        /// To.
        to: usize,
        /// And back.
        both: bool,
        /// How long.
        for_ms: u64,
    },
    /// A sender's process is killed, and comes back.
    Kill(usize, u64),
    /// A sender's process stands still.
    Freeze(usize, u64),
    /// An admin pauses a sender, lets it drain, or lets it go on.
    Steer(usize, Steer),
    /// A sender cannot read its content.
    Blind(usize, u64),
    /// A sender's wall clock is set to 1970.
    Epoch(usize),
    /// The first sender publishes a generation; backups have it some time later.
    Publish(u64),
    /// All senders are gone: until the heal, or for good if a receiver holds everything then.
    Lose,
    /// Of what a node gives by unicast, every other block has a wrong bit.
    Spoil(usize, u64),
    /// A node takes requests of unicast, and says nothing.
    Mute(usize, u64),
    /// QUIC does not reach a node: a firewall.
    Bar(usize, u64),
    /// All connections of unicast break.
    BreakPulls,
}

/// Everything that a run depends on.
#[derive(Clone, Debug, PartialEq)]
pub struct Cast {
    /// Chooses every random number.
    pub seed: u64,
    /// The senders.
    pub parts: Vec<Part>,
    /// How many receivers.
    pub receivers: usize,
    /// What is sent.
    pub content: ContentSpec,
    /// Bits per second of each sender.
    pub rate_bps: u64,
    /// Passes of an object in a round.
    pub max_passes: u32,
    /// Unicast pull.
    pub pull: PullSpec,
    /// How long a sender that yields may finish.
    pub drain_limit_ms: u64,
    /// Each way.
    pub delay_us: u64,
    /// Share of datagrams lost between a sender and a receiver.
    pub loss: f64,
    /// What happens, in order of time.
    pub turns: Vec<(u64, Turn)>,
    /// Faults end then.
    pub heal_at_ms: u64,
    /// After that one sender serves, and every receiver is complete, within this time.
    pub liveness_ms: u64,
}

impl Cast {
    /// The cast of a seed.
    #[must_use]
    pub fn of_seed(seed: u64) -> Self {
        let mut dice = Xoshiro256PlusPlus::seed_from_u64(seed ^ 0xCA57);
        let senders = match dice.random_range(0..10) {
            0..6 => vec![(Role::Primary, 0), (Role::Backup, 0)],
            6..9 => vec![(Role::Primary, 0), (Role::Backup, 0), (Role::Backup, 1)],
            _ => vec![(Role::Primary, 0), (Role::Primary, 0), (Role::Backup, 0)],
        };
        let mut part = |(role, rank)| {
            let start_ms = if dice.random_range(0..3) == 0 { dice.random_range(0..4_000) } else { 0 };
            Part { role, rank, start_ms }
        };
        let parts: Vec<_> = senders.into_iter().map(&mut part).collect();
        let receivers = dice.random_range(1..5);
        let heal_at_ms = dice.random_range(2_000..25_000);
        let content = ContentSpec {
            small_files: dice.random_range(0..20),
            large_files: dice.random_range(1..4),
            large_bytes: dice.random_range(1..600_000),
            ..ContentSpec::default()
        };
        let mut turns = Vec::new();
        let (sort, nodes) = (dice.random_range(0..6), parts.len() + receivers);
        for _ in 0..dice.random_range(0..12) {
            let at_ms = dice.random_range(0..heal_at_ms);
            let sender = dice.random_range(0..parts.len());
            let for_ms = dice.random_range(1..8_000);
            // One in six runs has cuts only, one kills only.
            let turn = match if sort < 2 { sort } else { dice.random_range(0..7) } {
                0 | 6 => {
                    let other = (sender + dice.random_range(1..nodes)) % nodes;
                    let (from, to) = if dice.random_range(0..2) == 0 { (sender, other) } else { (other, sender) };
                    Turn::Cut { from, to, both: dice.random_range(0..2) == 0, for_ms }
                }
                1 => Turn::Kill(sender, for_ms),
                2 => Turn::Freeze(sender, for_ms),
                3 => Turn::Blind(sender, for_ms),
                4 => Turn::Epoch(sender),
                _ => Turn::Publish(for_ms),
            };
            turns.push((at_ms, turn));
        }
        turns.sort_by_key(|(at, _)| *at);
        let pick = |dice: &mut Xoshiro256PlusPlus, of: &[u64]| of[dice.random_range(0..of.len())];
        let mut cast = Self {
            seed,
            parts,
            receivers,
            content,
            rate_bps: pick(&mut dice, &[1_000_000, 4_000_000, 20_000_000]),
            drain_limit_ms: pick(&mut dice, &[300, 2_000, 10_000]),
            delay_us: pick(&mut dice, &[100, 2_000, 20_000]),
            loss: if dice.random_range(0..2) == 0 { 0.0 } else { dice.random_range(0.0..0.05) },
            max_passes: SenderSpec::default().max_passes,
            pull: PullSpec::default(),
            turns,
            heal_at_ms,
            liveness_ms: 180_000,
        };
        // Dice of its own: what else a seed says does not depend on unicast.
        let mut dice = Xoshiro256PlusPlus::seed_from_u64(seed ^ 0x9011);
        if dice.random_range(0..3) == 0 {
            cast.pull(&mut dice);
        }
        // Likewise.
        let mut dice = Xoshiro256PlusPlus::seed_from_u64(seed ^ 0x57EE);
        if dice.random_range(0..3) == 0 {
            cast.steer(&mut dice);
        }
        cast
    }

    /// Admins stop senders, and most of them let them go on.
    fn steer(&mut self, dice: &mut Xoshiro256PlusPlus) {
        for _ in 0..dice.random_range(1..5) {
            let sender = dice.random_range(0..self.parts.len());
            let (at_ms, for_ms) = (dice.random_range(0..self.heal_at_ms), dice.random_range(1..8_000));
            let stop = if dice.random_range(0..2) == 0 { Steer::Pause } else { Steer::Drain };
            self.turns.push((at_ms, Turn::Steer(sender, stop)));
            if dice.random_range(0..4) > 0 {
                self.turns.push((at_ms + for_ms, Turn::Steer(sender, Steer::Resume)));
            }
        }
        self.turns.retain(|(at_ms, _)| *at_ms < self.heal_at_ms);
        self.turns.sort_by_key(|(at, _)| *at);
    }

    /// Some of it comes by unicast.
    fn pull(&mut self, dice: &mut Xoshiro256PlusPlus) {
        let sender = self.receivers == 1 || dice.random_range(0..4) > 0;
        self.pull = PullSpec {
            when: if dice.random_range(0..3) == 0 { When::Unknown } else { When::Last },
            sender,
            peers: !sender || dice.random_range(0..4) > 0,
            rate_bps: [200_000, 2_000_000, 20_000_000][dice.random_range(0..3)],
            delay_us: self.delay_us,
            breaks: if dice.random_range(0..2) == 0 { 0.0 } else { dice.random_range(0.0..0.2) },
        };
        self.max_passes = dice.random_range(1..4);
        let nodes = self.parts.len() + self.receivers;
        for _ in 0..dice.random_range(0..6) {
            let (node, for_ms) = (dice.random_range(0..nodes), dice.random_range(1..8_000));
            let turn = match dice.random_range(0..3) {
                0 => Turn::Spoil(node, for_ms),
                1 => Turn::Mute(node, for_ms),
                _ => Turn::BreakPulls,
            };
            self.turns.push((dice.random_range(0..self.heal_at_ms), turn));
        }
        if self.pull.peers && dice.random_range(0..2) == 0 {
            self.turns.push((dice.random_range(self.heal_at_ms / 4..self.heal_at_ms), Turn::Lose));
        }
        for node in 0..nodes {
            if dice.random_range(0..3) == 0 {
                self.turns.push((0, Turn::Bar(node, dice.random_range(1..30_000))));
            }
        }
        self.turns.sort_by_key(|(at, _)| *at);
    }
}
