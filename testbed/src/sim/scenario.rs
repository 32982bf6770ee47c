//! A scenario: everything that a run depends on, as a TOML file can say it.
//!
//! A run is a function of its scenario alone: the seed chooses random numbers, everything else stands here. So a
//! scenario can be kept, shared, edited and made smaller by hand. Times are milliseconds of virtual time.

use std::time::Duration;

use nackcast_receiver::engine::PullWhen;
use serde::{Deserialize, Serialize};

use crate::fabric::{GilbertElliott, Link};

/// Everything that a run depends on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Scenario {
    /// Chooses every random number.
    pub seed: u64,
    /// How many receivers.
    pub receivers: u32,
    /// What is sent.
    pub content: ContentSpec,
    /// The sender's configuration.
    pub sender: SenderSpec,
    /// The receivers' configuration.
    pub receiver: ReceiverSpec,
    /// From the sender to each receiver.
    pub down: LinkSpec,
    /// From each receiver to the sender.
    pub up: LinkSpec,
    /// Receivers whose cables are others.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cables: Vec<CableSpec>,
    /// The receivers' disks.
    pub disk: DiskSpec,
    /// Unicast pull.
    #[serde(skip_serializing_if = "PullSpec::is_off")]
    pub pull: PullSpec,
    /// What happens to nodes and links, in order of time.
    pub happenings: Vec<Happening>,
    /// Faults end then: links and disks are healed, every node is up.
    pub heal_at_ms: u64,
    /// After that, every receiver must hold the newest generation within this time.
    pub liveness_ms: u64,
}

impl Default for Scenario {
    fn default() -> Self {
        Self {
            seed: 1,
            receivers: 3,
            content: ContentSpec::default(),
            sender: SenderSpec::default(),
            receiver: ReceiverSpec::default(),
            down: LinkSpec::default(),
            up: LinkSpec::default(),
            cables: Vec::new(),
            disk: DiskSpec::default(),
            pull: PullSpec::default(),
            happenings: Vec::new(),
            heal_at_ms: 5_000,
            liveness_ms: 120_000,
        }
    }
}

/// What is sent. Files are made from the seed; each further generation adds, changes, renames and removes some.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ContentSpec {
    /// Files that share packs.
    pub small_files: u32,
    /// Files of several blocks.
    pub large_files: u32,
    /// Bytes of the largest of these.
    pub large_bytes: u64,
    /// Bytes in a block.
    pub block_size: u32,
    /// Bytes in a symbol.
    pub symbol_size: u16,
}

impl Default for ContentSpec {
    fn default() -> Self {
        Self { small_files: 12, large_files: 2, large_bytes: 400_000, block_size: 64 << 10, symbol_size: 1400 }
    }
}

/// The sender's configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SenderSpec {
    /// Bits per second.
    pub rate_bps: u64,
    /// Congestion control finds the rate: that is its ceiling.
    pub auto: bool,
    /// Jobs at once.
    pub max_jobs: usize,
    /// Passes of an object in a round.
    pub max_passes: u32,
    /// Least delay between two passes of one object.
    pub period_ms: u64,
    /// A round ends when nobody asked for so long.
    pub round_quiet_ms: u64,
    /// Datagrams that wait to be read; what comes beyond is lost.
    pub inbox: usize,
    /// Time to read one of them.
    pub read_us: u64,
}

impl Default for SenderSpec {
    fn default() -> Self {
        Self {
            rate_bps: 20_000_000,
            auto: false,
            max_jobs: 4,
            max_passes: 16,
            period_ms: 500,
            round_quiet_ms: 10_000,
            inbox: 256,
            read_us: 20,
        }
    }
}

/// The receivers' configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ReceiverSpec {
    /// Open blocks held in memory.
    pub slots: u32,
    /// Wait for a NACK's answer.
    pub nack_retry_ms: u64,
    /// NACK datagrams in a window.
    pub nack_budget: usize,
    /// Between two quick scans; 0: none.
    pub scan_ms: u64,
    /// Remove what left the dataset.
    pub prune: bool,
    /// Bytes of datagrams that wait to be read while the node is busy or stopped.
    pub socket_bytes: usize,
}

impl Default for ReceiverSpec {
    fn default() -> Self {
        Self { slots: 64, nack_retry_ms: 200, nack_budget: 4, scan_ms: 0, prune: true, socket_bytes: 1 << 20 }
    }
}

/// Cables of some receivers. What is not given is as for all others.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CableSpec {
    /// Whose.
    pub receivers: Vec<u32>,
    /// From the sender.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub down: Option<LinkSpec>,
    /// To the sender.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub up: Option<LinkSpec>,
}

/// A direction of a receiver's cable. The faults are those of the fabric's [`Link`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LinkSpec {
    /// Share of datagrams that are lost, independently.
    pub loss: f64,
    /// Share that is lost in bursts, in addition.
    pub burst_loss: f64,
    /// Datagrams in a burst, on average.
    pub burst_length: f64,
    /// Time on the way.
    pub delay_us: u64,
    /// More of it, at random.
    pub jitter_us: u64,
    /// Share that is overtaken by others.
    pub reorder: f64,
    /// Share that arrives twice.
    pub duplicate: f64,
    /// Share of which one bit is flipped.
    pub corrupt: f64,
    /// Bits per second; 0: no limit.
    pub rate_bps: u64,
    /// With a rate: bytes that may wait.
    pub queue_bytes: usize,
    /// Longest datagram that passes.
    pub mtu: usize,
}

impl Default for LinkSpec {
    fn default() -> Self {
        Self {
            loss: 0.01,
            burst_loss: 0.0,
            burst_length: 10.0,
            delay_us: 1_000,
            jitter_us: 0,
            reorder: 0.0,
            duplicate: 0.0,
            corrupt: 0.0,
            rate_bps: 0,
            queue_bytes: 256 << 10,
            mtu: 1_500,
        }
    }
}

impl LinkSpec {
    /// As the fabric knows it.
    #[must_use]
    pub fn link(&self) -> Link {
        let burst = (self.burst_loss > 0.0).then(|| GilbertElliott::bursts(self.burst_loss, self.burst_length));
        Link {
            loss: self.loss,
            burst,
            delay: Duration::from_micros(self.delay_us),
            jitter: Duration::from_micros(self.jitter_us),
            reorder: self.reorder,
            duplicate: self.duplicate,
            corrupt: self.corrupt,
            rate_bps: (self.rate_bps > 0).then_some(self.rate_bps),
            queue_bytes: self.queue_bytes,
            mtu: self.mtu,
        }
    }

    /// The link when faults have ended: it still delays, and loses a little, but has no limit but
    /// that of an Ethernet.
    #[must_use]
    pub fn healed(&self) -> Self {
        Self { loss: self.loss.min(0.01), delay_us: self.delay_us, jitter_us: self.jitter_us, ..Self::default() }
    }
}

/// The receivers' disks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DiskSpec {
    /// Time for one call.
    pub call_us: u64,
    /// Time to make something durable.
    pub sync_us: u64,
    /// Bytes per second; 0: no limit.
    pub bytes_per_second: u64,
    /// Calls that fail with an input or output error, out of a million.
    pub errors_ppm: u32,
    /// Syncs that return well and do nothing, out of a million.
    pub lies_ppm: u32,
}

impl Default for DiskSpec {
    fn default() -> Self {
        Self { call_us: 5, sync_us: 500, bytes_per_second: 500_000_000, errors_ppm: 0, lies_ppm: 0 }
    }
}

/// Unicast pull: the last resort.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PullSpec {
    /// When receivers pull.
    pub when: When,
    /// The sender gives blocks.
    pub sender: bool,
    /// Receivers give blocks to each other.
    pub peers: bool,
    /// What a node gives to all others together, in bits per second.
    pub rate_bps: u64,
    /// Time on the way.
    pub delay_us: u64,
    /// Share of replies in the middle of which the connection breaks.
    pub breaks: f64,
}

/// When receivers pull.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum When {
    /// Never.
    #[default]
    Never,
    /// When no passes are left, or nobody answers.
    Last,
    /// Also what the sender does not have.
    Unknown,
}

impl From<When> for PullWhen {
    fn from(when: When) -> Self {
        match when {
            When::Never => Self::Never,
            When::Last => Self::Last,
            When::Unknown => Self::Unknown,
        }
    }
}

impl Default for PullSpec {
    fn default() -> Self {
        let (when, sender, peers) = (When::Never, true, true);
        Self { when, sender, peers, rate_bps: 50_000_000, delay_us: 1_000, breaks: 0.0 }
    }
}

impl PullSpec {
    /// Nobody pulls.
    #[must_use]
    pub fn is_off(&self) -> bool {
        self.when == When::Never
    }
}

/// Something that happens at a time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Happening {
    /// When.
    pub at_ms: u64,
    /// What.
    pub what: What,
}

/// Which direction of a cable is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Side {
    /// From the sender.
    Down,
    /// To the sender.
    Up,
    /// Both.
    Both,
}

/// What happens. Receivers are numbered from 0.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum What {
    /// These receivers' cables are cut.
    Cut {
        /// Whose.
        receivers: Vec<u32>,
        /// Which way.
        side: Side,
        /// For so long.
        for_ms: u64,
    },
    /// The process is killed, and started again: what the kernel was given survives.
    Kill {
        /// Whose.
        receiver: u32,
        /// Down for so long.
        for_ms: u64,
    },
    /// Power fails in the middle of a disk operation: only what was durable survives.
    PowerCut {
        /// Whose.
        receiver: u32,
        /// So many calls of the disk later.
        after_calls: u32,
        /// Down for so long.
        for_ms: u64,
    },
    /// The receiver is not there before, or leaves for a while.
    Absent {
        /// Who.
        receiver: u32,
        /// For so long.
        for_ms: u64,
    },
    /// The receiver leaves for good: it is not started any more, and nobody waits for it.
    Leave {
        /// Who.
        receiver: u32,
    },
    /// The process stands still, and its socket's buffer fills.
    Pause {
        /// Whose.
        receiver: u32,
        /// For so long.
        for_ms: u64,
    },
    /// The clock runs fast (or slow) from now on.
    Skew {
        /// Whose.
        receiver: u32,
        /// By so many millionths.
        ppm: i32,
    },
    /// The disk has only so many bytes left, until the heal.
    Full {
        /// Whose.
        receiver: u32,
        /// How many.
        bytes_left: u64,
    },
    /// Bits of installed or partial files flip at rest; a deep scan is ordered at the heal.
    Rot {
        /// Whose.
        receiver: u32,
        /// How many bits.
        bits: u32,
    },
    /// Somebody else changes a byte of installed files: their length stays.
    Edit {
        /// Whose.
        receiver: u32,
        /// How many files.
        files: u32,
        /// The modification time is put back.
        keep_time: bool,
    },
    /// Half of what is written back is lost, and the next sync says so.
    WriteBackError {
        /// Whose.
        receiver: u32,
        /// For so long.
        for_ms: u64,
    },
    /// The sender publishes the next generation.
    Publish,
    /// The sender's process is killed, and started again with its state.
    KillSender {
        /// Down for so long.
        for_ms: u64,
    },
    /// The sender stands still.
    PauseSender {
        /// For so long.
        for_ms: u64,
    },
    /// The sender begins a new session.
    RollSender,
    /// The sender's wall clock jumps.
    StepSenderClock {
        /// By so much.
        by_ms: i64,
    },
    /// The sender's memory is bad for a while: a bit of some blocks flips after they were checked.
    BadMemory {
        /// For so long.
        for_ms: u64,
    },
    /// Blocks of the sender's content cannot be read for a while.
    SenderBlind {
        /// For so long.
        for_ms: u64,
    },
    /// The sender is killed, and comes back at the heal only if no receiver holds everything.
    LoseSender,
    /// Of what somebody gives by unicast, every other block has a wrong bit for a while.
    Spoil {
        /// Who; none: the sender.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        receiver: Option<u32>,
        /// For so long.
        for_ms: u64,
    },
    /// Somebody takes requests of unicast for a while, and says nothing.
    Mute {
        /// Who; none: the sender.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        receiver: Option<u32>,
        /// For so long.
        for_ms: u64,
    },
    /// QUIC does not reach somebody for a while: a firewall.
    Bar {
        /// Whom; none: the sender.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        receiver: Option<u32>,
        /// For so long.
        for_ms: u64,
    },
    /// All connections of unicast break.
    BreakPulls,
}

impl What {
    /// The receiver that it is about, if it is about one.
    #[must_use]
    pub const fn receiver(&self) -> Option<u32> {
        match self {
            Self::Kill { receiver, .. }
            | Self::PowerCut { receiver, .. }
            | Self::Absent { receiver, .. }
            | Self::Leave { receiver }
            | Self::Pause { receiver, .. }
            | Self::Skew { receiver, .. }
            | Self::Full { receiver, .. }
            | Self::Rot { receiver, .. }
            | Self::Edit { receiver, .. }
            | Self::WriteBackError { receiver, .. } => Some(*receiver),
            Self::Spoil { receiver, .. } | Self::Mute { receiver, .. } | Self::Bar { receiver, .. } => *receiver,
            Self::Cut { .. }
            | Self::Publish
            | Self::KillSender { .. }
            | Self::PauseSender { .. }
            | Self::RollSender
            | Self::StepSenderClock { .. }
            | Self::BadMemory { .. }
            | Self::SenderBlind { .. }
            | Self::LoseSender
            | Self::BreakPulls => None,
        }
    }
}

/// Why a scenario's text cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ScenarioError {
    /// Not TOML, or an unknown key, or a value of the wrong kind.
    #[error("the scenario cannot be read: {0}")]
    Parse(#[from] toml::de::Error),
    /// A value out of its range.
    #[error("the scenario's `{key}` is {value}: {why}")]
    Value {
        /// Which key.
        key: &'static str,
        /// What stands there.
        value: String,
        /// What may stand there.
        why: &'static str,
    },
}

impl Scenario {
    /// From a file's text.
    ///
    /// # Errors
    /// When it is no scenario that can be run.
    pub fn from_toml(text: &str) -> Result<Self, ScenarioError> {
        let scenario: Self = toml::from_str(text)?;
        scenario.check()?;
        Ok(scenario)
    }

    /// As a file's text.
    ///
    /// # Panics
    /// Never: every field has a place in TOML.
    #[must_use]
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("a scenario fits TOML")
    }

    /// A receiver's cable: from the sender, and to the sender. Where two are given, the last one counts.
    #[must_use]
    pub fn cable(&self, receiver: u32) -> [&LinkSpec; 2] {
        let of = |cable: &&CableSpec| cable.receivers.contains(&receiver);
        let mine = || self.cables.iter().rev().filter(of);
        let down = mine().find_map(|cable| cable.down.as_ref());
        let up = mine().find_map(|cable| cable.up.as_ref());
        [down.unwrap_or(&self.down), up.unwrap_or(&self.up)]
    }

    /// Checks what types cannot.
    ///
    /// # Errors
    /// When a value is out of its range.
    pub fn check(&self) -> Result<(), ScenarioError> {
        let bad = |key, value: String, why| Err(ScenarioError::Value { key, value, why });
        if self.receivers == 0 || self.receivers > 10_000 {
            return bad("receivers", self.receivers.to_string(), "give 1 to 10,000");
        }
        let special = self.cables.iter().flat_map(|cable| [("cables", &cable.down), ("cables", &cable.up)]);
        let special = special.filter_map(|(key, link)| Some((key, link.as_ref()?)));
        for (key, link) in [("down", &self.down), ("up", &self.up)].into_iter().chain(special) {
            let shares = [link.loss, link.burst_loss, link.reorder, link.duplicate, link.corrupt];
            if let Some(share) = shares.into_iter().find(|share| !(0.0..=1.0).contains(share)) {
                return bad(key, share.to_string(), "shares lie between 0 and 1");
            }
        }
        if self.content.block_size < 64 << 10 {
            return bad("content.block_size", self.content.block_size.to_string(), "give 64 KiB or more");
        }
        if !(0.0..1.0).contains(&self.pull.breaks) {
            return bad("pull.breaks", self.pull.breaks.to_string(), "a share lies between 0 and 1");
        }
        if self.sender.rate_bps < 8_000 {
            return bad("sender.rate_bps", self.sender.rate_bps.to_string(), "give 8,000 or more");
        }
        let happens = self.happenings.iter().filter_map(|happening| happening.what.receiver());
        let cabled = self.cables.iter().flat_map(|cable| cable.receivers.iter().copied());
        for (key, receiver) in happens.map(|one| ("happenings", one)).chain(cabled.map(|one| ("cables", one))) {
            if receiver >= self.receivers {
                return bad(key, receiver.to_string(), "there is no such receiver");
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scenario_survives_its_text() {
        let mut scenario = Scenario::default();
        let what = [
            What::Cut { receivers: vec![0, 2], side: Side::Up, for_ms: 70 },
            What::PowerCut { receiver: 1, after_calls: 3, for_ms: 10 },
            What::Leave { receiver: 2 },
            What::Publish,
            What::KillSender { for_ms: 5 },
            What::Spoil { receiver: None, for_ms: 7 },
            What::Mute { receiver: Some(2), for_ms: 7 },
            What::BreakPulls,
        ];
        scenario.pull.when = When::Unknown;
        let slow = LinkSpec { rate_bps: 1_000_000, ..LinkSpec::default() };
        scenario.cables = vec![CableSpec { receivers: vec![1], down: Some(slow), up: None }];
        scenario.happenings = what.into_iter().zip(1..).map(|(what, at_ms)| Happening { at_ms, what }).collect();
        assert_eq!(Scenario::from_toml(&scenario.to_toml()).unwrap(), scenario);
    }

    #[test]
    fn a_cable_of_ones_own_counts_one_way_or_both() {
        let text = "[down]\nloss = 0.2\n[[cables]]\nreceivers = [1, 2]\ndown = { loss = 0.3 }\n\
                    [[cables]]\nreceivers = [2]\nup = { loss = 0.4 }";
        let scenario = Scenario::from_toml(text).unwrap();
        let losses = [0, 1, 2].map(|receiver| scenario.cable(receiver).map(|link| link.loss));
        assert_eq!(losses, [[0.2, 0.01], [0.3, 0.01], [0.3, 0.4]]);
    }

    #[test]
    fn what_cannot_be_run_is_refused() {
        for text in [
            "receivers = 0",
            "reveivers = 3",
            "[down]\nloss = 1.5",
            "[[cables]]\nreceivers = [3]\n",
            "[[cables]]\nreceivers = [0]\nup = { loss = 2.0 }",
            "[pull]\nbreaks = 1.0",
            "[[happenings]]\nat_ms = 1\nwhat = { mute = { receiver = 9, for_ms = 1 } }",
            "[[happenings]]\nat_ms = 1\nwhat = { kill = { receiver = 9, for_ms = 1 } }",
        ] {
            assert!(Scenario::from_toml(text).is_err(), "{text}");
        }
    }
}
