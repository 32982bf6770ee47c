//! What is wrong with a channel now, for [`nackcast_common::alerts`].

use std::time::Duration;

use nackcast_common::alerts::{Finding, Kind, name_some};
use nackcast_common::clock::Time;
use nackcast_common::ids::Generation;
use nackcast_common::units::counted;
use nackcast_proto::wire::Role;

use super::{MakeError, SenderNode, Snapshot, Trouble};
use crate::library::BlockError;
use crate::role::{RoleEvent, State};

/// When something that takes time takes too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// A generation that receivers have not reached after so long is late, beside the time that sending it takes.
    pub late: Duration,
    /// More NACKs than the window lets through are no passing thing after so long.
    pub flood: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { late: Duration::from_secs(600), flood: Duration::from_secs(10) }
    }
}

/// What is remembered for it.
#[derive(Debug, Default)]
pub(super) struct Watch {
    limits: Limits,
    /// The wall clock at the origin of the node's clock, in milliseconds since 1970.
    wall_origin_ms: Option<u64>,
    published: Option<(Time, Generation)>,
    left_out: Vec<String>,
    unreadable: Happened,
    /// What became of this sender's role, while it is not in its usual place.
    role: Option<String>,
    /// Who reaches only this backup, and what the primary said of itself.
    asked: Option<String>,
    two_active: Option<String>,
}

/// Something that happens now and then.
#[derive(Debug, Default)]
struct Happened {
    times: u64,
    last: String,
}

impl Watch {
    /// What to tell receivers of the wall clock; 0: it is not known.
    pub(super) fn wall_ms(&self, now: Time) -> u64 {
        self.wall_origin_ms.map_or(0, |origin| origin + now.0 / 1000)
    }

    /// The role changed, or found something wrong.
    pub(super) fn on_role(&mut self, now: Time, role: Role, event: &RoleEvent) {
        match event {
            RoleEvent::Changed { from, to, why } => {
                if is_usual(role, *to) {
                    self.role = None;
                } else if let Some(what) = told_of_change(role, *from, *to) {
                    self.role = Some(format!("{what}: {why}"));
                }
            }
            RoleEvent::OnlyBackupReached(told) => {
                let receivers = told.receivers.iter().map(|(_, address)| address);
                self.asked = Some(format!(
                    "{} in {} came to this backup although another sender serves ({}), from: {}",
                    counted(told.count, "NACK"),
                    minutes(now.since(told.since)),
                    told.saw,
                    name_some(receivers, told.receiver_count)
                ));
            }
            RoleEvent::OnlyBackupReachedOver => self.asked = None,
            RoleEvent::TwoActive { other, since } => {
                let text = format!("session {other} is active beside this one for {}", minutes(now.since(*since)));
                self.two_active = Some(text);
            }
            RoleEvent::TwoActiveOver => self.two_active = None,
        }
    }

    pub(super) fn on_publish(&mut self, now: Time, generation: Generation) {
        if self.published.is_none_or(|(_, before)| before != generation) {
            self.published = Some((now, generation));
        }
    }

    pub(super) fn on_scan(&mut self, troubles: &[Trouble]) {
        self.left_out = troubles.iter().filter(|trouble| trouble.is_failure).map(|t| t.line.clone()).collect();
    }

    pub(super) fn on_unmade(&mut self, error: &MakeError) {
        if let MakeError::Block(BlockError::Io { .. } | BlockError::HashList { .. }) = error {
            self.unreadable.times += 1;
            self.unreadable.last = error.to_string();
        }
    }
}

impl SenderNode {
    /// What the wall clock said at the origin of the node's clock, in milliseconds since 1970. Receivers compare it
    /// with theirs. To be told again and again: a wall clock may be set while the node runs.
    pub const fn set_wall_clock(&mut self, origin_ms: u64) {
        self.watch.wall_origin_ms = Some(origin_ms);
    }

    /// Sets when something takes too long.
    pub const fn set_limits(&mut self, limits: Limits) {
        self.watch.limits = limits;
    }

    /// What is wrong now.
    pub(super) fn findings(&self, now: Time, snapshot: &Snapshot) -> Vec<Finding> {
        let Watch { limits, published, left_out, unreadable, role, asked, two_active, .. } = &self.watch;
        let audience = self.engine.audience(now);
        let mut found = Vec::new();
        let (names, count) = &audience.silent;
        if *count > 0 {
            let text =
                format!("{} heard before and silent now: {}", counted(*count, "receiver"), name_some(names, *count));
            found.push(Finding::lasting(Kind::ReceiverSilent, "", text));
        }
        let (names, count) = &audience.lagging;
        if let Some((at, generation)) = published
            && *count > 0
            && now.since(*at) >= limits.late + sending_takes(snapshot)
        {
            let since = minutes(now.since(*at));
            let text = format!(
                "generation {generation} has not reached {} after {since}: {}",
                counted(*count, "receiver"),
                name_some(names, *count)
            );
            found.push(Finding::lasting(Kind::GenerationLate, "", text));
        }
        if snapshot.exhausted > 0 {
            let text = format!(
                "objects that had all their passes and are still asked for: {} of {}: {}",
                snapshot.exhausted,
                snapshot.objects,
                name_some(&audience.exhausted, snapshot.exhausted)
            );
            found.push(Finding::lasting(Kind::PassesExhausted, "", text));
        }
        if audience.flooded_since.is_some_and(|since| now.since(since) >= limits.flood) {
            let window = snapshot.nack_window;
            let text = format!("more than twice the NACKs come that a window of {window:?} should let through");
            found.push(Finding::lasting(Kind::NackRate, "", text));
        }
        if !left_out.is_empty() {
            let text = name_some(left_out, left_out.len() as u64);
            found.push(Finding::lasting(Kind::ContentLeftOut, "", text));
        }
        let (hung, hangs) = self.reads.trouble(now);
        if unreadable.times + hung > 0 {
            let text = hangs.or_else(|| (unreadable.times > 0).then(|| unreadable.last.clone()));
            let text = text.unwrap_or_else(|| "the disk did not answer for some seconds; it does again".to_owned());
            found.push(Finding::happened(Kind::DiskFailing, "", text, unreadable.times + hung));
        }
        for (kind, text) in [(Kind::RoleChanged, role), (Kind::BackupAsked, asked), (Kind::TwoSenders, two_active)] {
            found.extend(text.as_ref().map(|text| Finding::lasting(kind, "", text)));
        }
        found
    }
}

/// Where a sender of this role is when nothing is wrong, or where an admin put it.
const fn is_usual(role: Role, state: State) -> bool {
    match state {
        State::Waiting | State::Paused | State::Drained | State::Draining { for_good: true, .. } => true,
        State::Active | State::Asking => matches!(role, Role::Primary),
        State::Standby | State::Probing => matches!(role, Role::Backup),
        State::Penalty { .. } | State::HoldingOff { .. } | State::Draining { .. } | State::Blind => false,
    }
}

/// A change that somebody should look at, in words. Starts, ends and what an admin commanded are none.
const fn told_of_change(role: Role, from: State, to: State) -> Option<&'static str> {
    match (role, from, to) {
        (Role::Backup, State::Standby | State::Probing, State::Active) => Some("this backup took over"),
        (Role::Backup, State::Active, State::Draining { for_good: false, .. }) => Some("this backup hands back"),
        (Role::Primary, _, State::HoldingOff { .. }) => Some("this primary came back and lets the backup finish"),
        (Role::Primary, _, State::Penalty { .. }) => {
            Some("this primary failed soon after its returns, and leaves the channel to the backup for a while")
        }
        (Role::Primary, State::Active, State::Draining { for_good: false, .. }) => {
            Some("this primary yields to another one")
        }
        (Role::Primary, State::Asking | State::HoldingOff { .. }, State::Standby) => Some(
            "another primary of this channel serves, and this one stands by; end one of them, or start it with --role \
             backup",
        ),
        (_, _, State::Blind) => Some("this sender can no longer read its content, or cannot send"),
        _ => None,
    }
}

/// So long does it take to send everything twice.
const fn sending_takes(snapshot: &Snapshot) -> Duration {
    match snapshot.rate_limit_bps {
        0 => Duration::ZERO,
        rate => Duration::from_secs((snapshot.bytes / rate).saturating_mul(16)),
    }
}

/// In minutes, since nobody wants to read more.
fn minutes(duration: Duration) -> String {
    match duration.as_secs() {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds => format!("{} min", seconds / 60),
    }
}
