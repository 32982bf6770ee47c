//! What is wrong with a channel now, for [`nackcast_common::alerts`].

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use nackcast_common::alerts::{Finding, Kind, name_some};
use nackcast_common::clock::Time;
use nackcast_common::keys::VerifyingKey;
use nackcast_common::units::{ByteCount, counted};

use super::ReceiverNode;
use crate::dataset::Blocked;
use crate::engine::{Event, Snapshot};

/// Clocks that differ by more are far off: generations are numbered by the wall clock.
const CLOCK_OFF_MS: u64 = 60_000;
/// Of the wanted objects, and of the bytes that came, so many hundredths that multicast does not bring are much.
const UNICAST_PERCENT: u8 = 5;
/// Senders advertise every second at least: after so long it is not one that is restarted.
const NO_SENDER: Duration = Duration::from_secs(30);
/// That much came by unicast is told for so long after the last block that did.
const SHARE_TOLD: Duration = Duration::from_secs(600);
/// Senders whose clocks are off that are told of; there are seldom more than two.
const CLOCKS_MAX: usize = 16;
/// A sender that was not heard for so long has no clock any more.
pub(super) const CLOCK_GONE: Duration = Duration::from_secs(60);
/// Retries and another sender's turn are usual; that no sender answers for longer is not.
const NO_ANSWER: Duration = Duration::from_secs(10);
/// Generations that are remembered to be complete: so many in the time between two reports are too many for any disk.
const COMPLETED_MAX: usize = 16;
/// A stranger that was not heard for so long is gone.
const STRANGER_GONE: Duration = Duration::from_secs(60);

/// What is remembered for it.
#[derive(Debug, Default)]
pub(super) struct Watch {
    /// The wall clock at the origin of the node's clock, in milliseconds since 1970.
    wall_origin_ms: Option<u64>,
    /// By the key of the sender: when it was heard last, and how far off it is.
    clocks_off: BTreeMap<VerifyingKey, (Time, String)>,
    /// Since when no sender answers, if none does.
    unanswered_since: Time,
    /// When a sender was heard last; before, when the node started.
    heard_at: Time,
    stranger: Option<(Time, SocketAddr)>,
    /// Generations that became complete, the last one last.
    pub(super) completed: VecDeque<u64>,
    damaged: Happened,
    /// What was damaged last is whole again.
    healed: bool,
    refused: Happened,
    unsound: Happened,
    two_manifests: Happened,
    disk: Happened,
    blocked: Blocked,
    /// By source. There are only so many of them.
    sources: BTreeMap<String, Happened>,
    /// Sources of unicast that were reached: what became of one that served is not the configuration's fault.
    reached: BTreeSet<String>,
    /// The others that were called, when that was last, and what came of it.
    silent: BTreeMap<String, (Time, String)>,
    /// The generation that is received, and what had come by unicast and by multicast when it began.
    share: (u64, u64, u64),
    /// So many hundredths by unicast are much.
    unicast_percent: u8,
    /// When a block that was pulled was found sound.
    pulled_at: Option<Time>,
}

/// Something that happens now and then.
#[derive(Debug, Default)]
struct Happened {
    times: u64,
    last: String,
}

impl Happened {
    fn again(&mut self, times: u64, text: String) {
        self.times += times;
        self.last = text;
    }
}

impl Watch {
    pub(super) fn new(now: Time) -> Self {
        Self { heard_at: now, unicast_percent: UNICAST_PERCENT, ..Self::default() }
    }

    /// A sender of the channel was heard.
    pub(super) const fn on_heard(&mut self, now: Time) {
        self.heard_at = now;
    }

    /// A block that was pulled is sound.
    pub(super) const fn on_pulled(&mut self, now: Time) {
        self.pulled_at = Some(now);
    }

    pub(super) fn on_event(&mut self, now: Time, event: &Event) {
        match event {
            Event::BlockUnsound(object, block) => {
                self.unsound.again(1, format!("symbols of object {object}, block {block} were wrong"));
            }
            Event::TwoManifests(generation) => {
                self.two_manifests.again(1, format!("two manifests of generation {generation} exist: ours is kept"));
            }
            Event::Complete(generation) => {
                self.healed = true;
                // A dataset that was healed is complete again, and no other generation.
                if self.completed.back() != Some(&generation.0) {
                    while self.completed.len() >= COMPLETED_MAX {
                        self.completed.pop_front();
                    }
                    self.completed.push_back(generation.0);
                }
            }
            Event::NoSenderAnswers => self.unanswered_since = now,
            Event::SenderHeard(..)
            | Event::SenderLost(_)
            | Event::OlderGeneration(_)
            | Event::UnicastWanted(_)
            | Event::Unknown(_)
            | Event::SourceDropped(..) => {}
        }
    }

    pub(super) fn on_damaged(&mut self, paths: &[String], count: u64) {
        let text =
            format!("{} damaged or gone that had been sound: {}", counted(count, "file"), name_some(paths, count));
        self.damaged.again(count, text);
        self.healed = false;
    }

    /// A source of unicast gave a wrong block.
    pub(super) fn on_false_source(&mut self, source: &str) {
        let text = format!("{source} gave a wrong block by unicast, and is not asked any more");
        self.sources.entry(source.to_owned()).or_default().again(1, text);
    }

    /// A source of unicast was reached.
    pub(super) fn on_source_reached(&mut self, source: &str) {
        self.silent.remove(source);
        self.reached.insert(source.to_owned());
    }

    /// A source of unicast was not reached.
    pub(super) fn on_source_silent(&mut self, now: Time, source: &str, why: &str) {
        if self.reached.contains(source) {
            return;
        }
        // As it was given: the port before that of its QUIC.
        let given = source.rsplit_once(':').and_then(|(host, port)| {
            let port = port.parse::<u16>().ok()?.checked_sub(1)?;
            Some(format!("{host}:{port}"))
        });
        let given = given.unwrap_or_else(|| source.to_owned());
        self.silent.insert(source.to_owned(), (now, format!("the source {given} never answered: {why}")));
    }

    /// A manifest came into force when so much had come by unicast, and by multicast: from here on shares count.
    pub(super) const fn on_manifest(&mut self, generation: u64, pulled: u64, heard: u64) {
        if self.share.0 != generation {
            self.share = (generation, pulled, heard);
        }
    }

    pub(super) fn on_refused(&mut self, why: &str) {
        self.refused.again(1, format!("a manifest was refused: {why}"));
    }

    pub(super) fn on_disk(&mut self, text: String) {
        self.disk.again(1, text);
    }

    /// These are all that cannot be put where they belong.
    pub(super) fn on_blocked(&mut self, blocked: Blocked) {
        self.blocked = blocked;
    }

    pub(super) const fn on_stranger(&mut self, now: Time, from: SocketAddr) {
        self.stranger = Some((now, from));
    }

    /// A sender says what time it is; 0: it does not know.
    pub(super) fn on_clock(&mut self, now: Time, sender: VerifyingKey, from: SocketAddr, theirs_ms: u64) {
        let Some(origin) = self.wall_origin_ms.filter(|_| theirs_ms > 0) else { return };
        let ours_ms = origin + now.0 / 1000;
        let off = ours_ms.abs_diff(theirs_ms);
        self.clocks_off.retain(|_, (at, _)| now.since(*at) < CLOCK_GONE);
        if off <= CLOCK_OFF_MS {
            self.clocks_off.remove(&sender);
        } else if self.clocks_off.len() < CLOCKS_MAX || self.clocks_off.contains_key(&sender) {
            let way = if theirs_ms > ours_ms { "ahead of" } else { "behind" };
            let text = format!("the clock of the sender at {from} is {} s {way} this node's", off / 1000);
            self.clocks_off.insert(sender, (now, text));
        }
    }
}

impl ReceiverNode {
    /// What the wall clock said at the origin of the node's clock, in milliseconds since 1970. Without it clocks are
    /// not compared. To be told again and again: a wall clock may be set while the node runs.
    pub const fn set_wall_clock(&mut self, origin_ms: u64) {
        self.watch.wall_origin_ms = Some(origin_ms);
    }

    /// From so many hundredths on, what comes by unicast is much; by default 5.
    pub const fn set_unicast_alert(&mut self, percent: u8) {
        self.watch.unicast_percent = percent;
    }

    /// What is wrong now.
    pub(super) fn findings(&self, now: Time, snapshot: &Snapshot, pulled: u64) -> Vec<Finding> {
        let Watch { clocks_off, stranger, damaged, refused, unsound, two_manifests, disk, sources, .. } = &self.watch;
        let Watch { heard_at, healed, pulled_at, share, blocked, silent, .. } = &self.watch;
        let unicast_percent = u64::from(self.watch.unicast_percent);
        let mut found = Vec::new();
        if damaged.times > 0 {
            let came = if *healed { "healed: whole again" } else { "fetched again" };
            let text = format!("{}; {came}", damaged.last);
            found.push(Finding::happened(Kind::ContentDamaged, "", text, damaged.times));
        }
        for (kind, happened) in [
            (Kind::ManifestRefused, refused),
            (Kind::SymbolsWrong, unsound),
            (Kind::TwoManifests, two_manifests),
            (Kind::DiskFailing, disk),
        ] {
            if happened.times > 0 {
                found.push(Finding::happened(kind, "", &happened.last, happened.times));
            }
        }
        for (path, why) in &blocked.paths {
            found.push(Finding::lasting(Kind::NotInstalled, path, why));
        }
        let more = blocked.count.saturating_sub(blocked.paths.len() as u64);
        if more > 0 {
            let text = format!("{} more cannot be put where they belong", counted(more, "path"));
            found.push(Finding::lasting(Kind::NotInstalled, "", text));
        }
        for (source, (at, line)) in silent {
            if now.since(*at) < SHARE_TOLD {
                found.push(Finding::lasting(Kind::SourceSilent, source, line));
            }
        }
        for (source, happened) in sources {
            found.push(Finding::happened(Kind::SymbolsWrong, source, &happened.last, happened.times));
        }
        for (sender, (at, text)) in clocks_off {
            if now.since(*at) < CLOCK_GONE {
                found.push(Finding::lasting(Kind::ClockOff, sender.to_string(), text));
            }
        }
        if snapshot.unanswered && snapshot.senders > 0 && now.since(self.watch.unanswered_since) >= NO_ANSWER {
            let text = "senders are heard, and none answers what this node asks: what it lacks does not come";
            found.push(Finding::lasting(Kind::NoSenderAnswers, "", text));
        }
        if self.listening.told_wrong_ticket && snapshot.senders == 0 {
            let text =
                "datagrams arrive, but none opens with this ticket: they are of another channel, or it is an old one";
            found.push(Finding::lasting(Kind::KeyRejected, "", text));
        }
        if let Some(text) = &self.kept_out {
            found.push(Finding::lasting(Kind::KeyRejected, "join", text));
        }
        let has_wrong_ticket = self.listening.told_wrong_ticket && self.listening.opened_at.is_none();
        if !has_wrong_ticket
            && self.kept_out.is_none()
            && snapshot.senders == 0
            && self.config.own_sender.is_none()
            && now.since(*heard_at) >= NO_SENDER
        {
            // Beside a sender of our own, its role says who serves.
            let (group, seconds) = (self.config.ticket.advertise, NO_SENDER.as_secs());
            let text = format!("no sender of this channel was heard on {group} for more than {seconds} s");
            found.push(Finding::lasting(Kind::NoSenderHeard, "", text));
        }
        if let Some((at, from)) = stranger
            && now.since(*at) < STRANGER_GONE
        {
            let text =
                format!("{from} advertises with this channel's secret, but its key is not the publisher's choice");
            found.push(Finding::lasting(Kind::KeyRejected, "sender", text));
        }
        if snapshot.unicast_wanted * 100 >= snapshot.objects * unicast_percent && snapshot.unicast_wanted > 0 {
            let text = format!(
                "objects that had all their passes and wait for unicast: {} of {}",
                snapshot.unicast_wanted, snapshot.objects
            );
            found.push(Finding::lasting(Kind::UnicastShare, "", text));
        }
        let (generation, pulled_then, heard_then) = *share;
        let pulled = pulled.saturating_sub(pulled_then);
        let all = pulled + self.listening.received_bytes.saturating_sub(heard_then);
        let is_new = pulled_at.is_some_and(|at| now.since(at) < SHARE_TOLD);
        if is_new && generation > 0 && pulled > 0 && pulled * 100 >= all * unicast_percent {
            let (pulled, all) = (ByteCount(pulled), ByteCount(all));
            let text = format!("{pulled} of {all} that came for generation {generation} were pulled by unicast");
            found.push(Finding::lasting(Kind::UnicastShare, "bytes", text));
        }
        found
    }
}
