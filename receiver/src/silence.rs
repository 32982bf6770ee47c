//! What to check when no sender is heard: one line for each channel, said once.

use std::net::SocketAddr;
use std::time::Duration;

use nackcast_common::clock::Time;
use nackcast_common::net::interface::Interface;
use nackcast_proto::ticket::Ticket;

use crate::report::{Progress, WAITING};

/// A sender advertises every second at least: it is not just late.
const HINT_AFTER: Duration = Duration::from_secs(10);

/// Watches for channels that hear nothing.
#[derive(Debug)]
pub(crate) struct Silence {
    started: Time,
    channels: Vec<Quiet>,
}

#[derive(Debug)]
struct Quiet {
    name: String,
    group: SocketAddr,
    interface: String,
    loopback: bool,
    /// Since when; none once the hint was given.
    since: Option<Time>,
}

impl Silence {
    pub(crate) const fn new(now: Time) -> Self {
        Self { started: now, channels: Vec::new() }
    }

    /// One more channel, in the order of the rows that will be looked at.
    pub(crate) fn add(&mut self, ticket: &Ticket, interface: &Interface) {
        self.channels.push(Quiet {
            name: ticket.name.clone(),
            group: ticket.advertise,
            interface: interface.name.clone(),
            loopback: interface.loopback,
            since: Some(self.started),
        });
    }

    /// What is to be said now.
    pub(crate) fn look(&mut self, now: Time, progress: &Progress) -> Vec<String> {
        let mut hints = Vec::new();
        for (quiet, row) in self.channels.iter_mut().zip(&progress.channels) {
            let Some(since) = quiet.since else { continue };
            // A note tells of trouble that explains the silence, such as a wrong ticket.
            if row.state != WAITING || row.note.is_some() {
                quiet.since = Some(now);
            } else if now.since(since) >= HINT_AFTER {
                quiet.since = None;
                hints.push(quiet.hint());
            }
        }
        hints
    }
}

impl Quiet {
    fn hint(&self) -> String {
        let Self { name, group, interface, loopback, .. } = self;
        let data = group.port().saturating_add(1);
        let reach = if *loopback { ", which reaches this machine only" } else { "" };
        format!(
            "{name}: no sender was heard for {} s on {group}, interface {interface}{reach}; check that `nackcast send` \
             runs with this channel's key, that it uses the same network (--interface on both sides), that no firewall \
             drops UDP to ports {} and {data}, and that switches forward the group (IGMP or MLD snooping with a querier); \
             `nackcast doctor` finds out which it is",
            HINT_AFTER.as_secs(),
            group.port(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::ChannelProgress;

    fn silence() -> Silence {
        let quiet = Quiet {
            name: "news".to_owned(),
            group: "239.1.2.3:7600".parse().unwrap(),
            interface: "eth0".to_owned(),
            loopback: false,
            since: Some(Time::ZERO),
        };
        Silence { started: Time::ZERO, channels: vec![quiet] }
    }

    fn at(silence: &mut Silence, seconds: u64, state: &str, note: Option<&str>) -> Vec<String> {
        let row = ChannelProgress { state: state.to_owned(), note: note.map(str::to_owned), ..Default::default() };
        silence.look(Time::ZERO + Duration::from_secs(seconds), &Progress { channels: vec![row] })
    }

    #[test]
    fn a_channel_that_hears_nothing_gets_one_hint() {
        let mut silence = silence();
        assert_eq!(at(&mut silence, 9, WAITING, None), Vec::<String>::new());
        let hints = at(&mut silence, 10, WAITING, None);
        let [hint] = hints.as_slice() else { panic!("{hints:?}") };
        for part in
            ["news: no sender", "239.1.2.3:7600", "eth0", "7600 and 7601", "IGMP", "nackcast send", "nackcast doctor"]
        {
            assert!(hint.contains(part), "no {part} in {hint}");
        }
        assert!(!hint.contains('\n'));
        assert_eq!(at(&mut silence, 60, WAITING, None), Vec::<String>::new(), "said once");
    }

    #[test]
    fn a_channel_that_hears_something_or_knows_why_not_gets_none() {
        let mut silence = silence();
        assert_eq!(at(&mut silence, 11, "receiving", None), Vec::<String>::new());
        assert_eq!(at(&mut silence, 20, WAITING, None), Vec::<String>::new());
        assert_eq!(at(&mut silence, 22, WAITING, Some("wrong ticket")), Vec::<String>::new());
        assert_eq!(at(&mut silence, 31, WAITING, None), Vec::<String>::new());
        assert_eq!(at(&mut silence, 32, WAITING, None).len(), 1);
    }
}
