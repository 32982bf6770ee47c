//! What happens while a scenario runs: when a process is started, stopped or killed, when a cable is cut and mended, and
//! when everybody is complete.
//!
//! Everything is looked at every few milliseconds, and brought to what the scenario says for that moment.

use std::time::Duration;

use nackcast_common::clock::{Clock, Time};
use nackcast_proto::wire::DatagramType;

use super::stage::{PATIENCE, Stage};
use super::{Outcome, RealError};
use crate::fabric::{Counters, Direction};
use crate::process::{Process, Signal};
use crate::sim::figures::Figures;
use crate::sim::scenario::{Happening, LinkSpec, Scenario, Side, What};
use crate::sim::world::AFTERGLOW;

/// Between two looks at everything.
const LOOK: Duration = Duration::from_millis(5);
/// A receiver says this when it has taken its directory...
const READY: &str = "receiving on interface";
/// ...and this when everything is there.
const COMPLETE: &str = "is complete and verified";

/// Refuses what cannot be done to processes.
pub(super) fn check(scenario: &Scenario) -> Result<(), RealError> {
    if scenario.disk.errors_ppm > 0 || scenario.disk.lies_ppm > 0 {
        return Err(RealError::Refused("disk"));
    }
    if !scenario.pull.is_off() {
        return Err(RealError::Refused("pull"));
    }
    scenario.happenings.iter().map(|happening| &happening.what).try_for_each(|what| {
        let refused = match what {
            What::Cut { .. }
            | What::Kill { .. }
            | What::Absent { .. }
            | What::Leave { .. }
            | What::Pause { .. }
            | What::KillSender { .. }
            | What::PauseSender { .. } => return Ok(()),
            What::PowerCut { .. } => "power-cut",
            What::Skew { .. } => "skew",
            What::Full { .. } => "full",
            What::Rot { .. } => "rot",
            What::Edit { .. } => "edit",
            What::WriteBackError { .. } => "write-back-error",
            What::Publish => "publish",
            What::RollSender => "roll-sender",
            What::StepSenderClock { .. } => "step-sender-clock",
            What::BadMemory { .. } => "bad-memory",
            What::SenderBlind { .. } => "sender-blind",
            What::LoseSender => "lose-sender",
            What::Spoil { .. } => "spoil",
            What::Mute { .. } => "mute",
            What::Bar { .. } => "bar",
            What::BreakPulls => "break-pulls",
        };
        Err(RealError::Refused(refused))
    })
}

/// A node's process, and what becomes of it when.
#[derive(Debug, Default)]
struct Node {
    process: Option<Process>,
    /// It is down until then.
    up_at: Time,
    /// It stands still until then.
    still_until: Option<Time>,
}

impl Node {
    fn kill(&mut self, until: Time) -> Result<(), RealError> {
        if let Some(mut process) = self.process.take() {
            process.kill9()?;
        }
        (self.up_at, self.still_until) = (until, None);
        Ok(())
    }

    fn pause(&mut self, until: Time) -> Result<(), RealError> {
        let Some(process) = &mut self.process else { return Ok(()) };
        process.signal(Signal::SIGSTOP)?;
        self.still_until = Some(until);
        Ok(())
    }

    /// Starts it, or lets it go on, if it is time.
    fn settle(&mut self, now: Time, start: impl FnOnce() -> Result<Process, RealError>) -> Result<(), RealError> {
        match &mut self.process {
            None if self.up_at <= now => self.process = Some(start()?),
            None => {}
            Some(process) => {
                if let Some(status) = process.try_wait()? {
                    let name = format!("{} ({status})", process.name());
                    return Err(RealError::Ended { name, tail: process.tail() });
                }
                if self.still_until.is_some_and(|until| until <= now) {
                    process.signal(Signal::SIGCONT)?;
                    self.still_until = None;
                }
            }
        }
        Ok(())
    }

    fn tail(&self) -> String {
        self.process.as_ref().map(Process::tail).unwrap_or_default()
    }
}

#[derive(Debug, Default)]
struct Receiver {
    node: Node,
    /// Which way its cable is cut, and until when: from the sender, to it.
    cut_until: [Option<Time>; 2],
    complete_at: Option<Time>,
    /// It does not come back, and nobody waits for it.
    has_left: bool,
}

/// A run.
#[derive(Debug)]
pub(super) struct Course<'a> {
    scenario: &'a Scenario,
    stage: &'a Stage<'a>,
    clock: Clock,
    sender: Node,
    receivers: Vec<Receiver>,
    /// Of the happenings, in order of time, what is to come.
    to_come: Vec<&'a Happening>,
    healed: bool,
}

impl<'a> Course<'a> {
    /// Starts everybody who is there from the start, and waits for the sender's first word.
    pub(super) fn begin(scenario: &'a Scenario, stage: &'a Stage<'a>) -> Result<Self, RealError> {
        let mut to_come: Vec<&Happening> = scenario.happenings.iter().collect();
        to_come.sort_by_key(|happening| std::cmp::Reverse(happening.at_ms));
        let receivers = (0..scenario.receivers).map(|_| Receiver::default()).collect();
        let sender = Node::default();
        let clock = Clock::start();
        let mut course = Self { scenario, stage, clock, sender, receivers, to_come, healed: false };
        // Who is away from the start on is not started before.
        course.happen(Time::ZERO)?;
        course.settle(Time::ZERO)?;
        for receiver in &mut course.receivers {
            if let Some(process) = &mut receiver.node.process {
                process.wait_for_stderr(READY, PATIENCE)?;
            }
        }
        course.sender.process = Some(stage.send()?);
        while course.counters(Direction::FromHost)?.datagrams.of(DatagramType::Advertisement).datagrams == 0 {
            course.sender.settle(Time::ZERO, || stage.send())?;
            if course.clock.now().since(Time::ZERO) > PATIENCE {
                return Err(RealError::Silent(course.sender.tail()));
            }
            std::thread::park_timeout(LOOK / 5);
        }
        course.clock = Clock::start();
        Ok(course)
    }

    /// Runs to the end.
    pub(super) fn run(mut self) -> Result<Outcome, RealError> {
        let heal_at = millis(self.scenario.heal_at_ms);
        let end = millis(self.scenario.heal_at_ms + self.scenario.liveness_ms);
        let mut complete_since = None;
        loop {
            let now = self.clock.now();
            self.happen(now)?;
            if !self.healed && now >= heal_at {
                self.heal(now)?;
            }
            self.settle(now)?;
            self.sender.settle(now, || self.stage.send())?;
            let all = self.look(now);
            if !all || !self.healed {
                complete_since = None;
            } else if now.since(*complete_since.get_or_insert(now)) >= AFTERGLOW {
                return self.finish();
            }
            if now > end {
                return Err(self.incomplete());
            }
            std::thread::park_timeout(LOOK);
        }
    }

    fn happen(&mut self, now: Time) -> Result<(), RealError> {
        while let Some(happening) = self.to_come.pop_if(|next| millis(next.at_ms) <= now) {
            let at = millis(happening.at_ms);
            let later = |ms: u64| at + Duration::from_millis(ms);
            match &happening.what {
                What::Cut { receivers, side, for_ms } => {
                    for receiver in receivers {
                        self.cut(*receiver, *side, later(*for_ms))?;
                    }
                }
                What::Kill { receiver, for_ms } | What::Absent { receiver, for_ms } => {
                    let receiver = &mut self.receivers[*receiver as usize];
                    receiver.complete_at = None;
                    receiver.node.kill(later(*for_ms))?;
                }
                What::Leave { receiver } => {
                    let receiver = &mut self.receivers[*receiver as usize];
                    (receiver.complete_at, receiver.has_left) = (None, true);
                    receiver.node.kill(Time::NEVER)?;
                }
                What::Pause { receiver, for_ms } => {
                    self.receivers[*receiver as usize].node.pause(later(*for_ms))?;
                }
                What::KillSender { for_ms } => self.sender.kill(later(*for_ms))?,
                What::PauseSender { for_ms } => self.sender.pause(later(*for_ms))?,
                // Refused before.
                _ => {}
            }
        }
        Ok(())
    }

    fn cut(&mut self, receiver: u32, side: Side, until: Time) -> Result<(), RealError> {
        let Some(node) = self.receivers.get_mut(receiver as usize) else { return Ok(()) };
        for (is_down, cut_until) in [true, false].into_iter().zip(&mut node.cut_until) {
            let other = if is_down { Side::Up } else { Side::Down };
            if side != other {
                self.stage.cut(receiver, is_down, true)?;
                *cut_until = Some(cut_until.map_or(until, |before| before.max(until)));
            }
        }
        Ok(())
    }

    /// Faults end.
    fn heal(&mut self, now: Time) -> Result<(), RealError> {
        self.healed = true;
        self.stage.set_links(LinkSpec::healed)?;
        let nodes = self.receivers.iter_mut().map(|receiver| &mut receiver.node).chain([&mut self.sender]);
        for node in nodes {
            node.up_at = node.up_at.min(now);
            node.still_until = node.still_until.map(|until| until.min(now));
        }
        for until in self.receivers.iter_mut().flat_map(|receiver| &mut receiver.cut_until) {
            *until = until.map(|until| until.min(now));
        }
        Ok(())
    }

    /// Mends cables and starts receivers, where it is time.
    fn settle(&mut self, now: Time) -> Result<(), RealError> {
        for (receiver, number) in self.receivers.iter_mut().zip(0..) {
            for (is_down, until) in [true, false].into_iter().zip(&mut receiver.cut_until) {
                if until.is_some_and(|until| until <= now) {
                    self.stage.cut(number, is_down, false)?;
                    *until = None;
                }
            }
            if !receiver.has_left {
                receiver.node.settle(now, || self.stage.receive(number))?;
            }
        }
        Ok(())
    }

    /// Whether everybody is complete.
    fn look(&mut self, now: Time) -> bool {
        let mut all = true;
        for receiver in &mut self.receivers {
            if receiver.complete_at.is_none()
                && !receiver.has_left
                && receiver.node.process.as_ref().is_some_and(|process| process.stderr().contains(COMPLETE))
            {
                receiver.complete_at = Some(now);
            }
            all &= receiver.complete_at.is_some() || receiver.has_left;
        }
        all
    }

    fn counters(&self, direction: Direction) -> Result<Counters, RealError> {
        Ok(self.stage.fabric().counters(self.stage.sender_name(), direction)?)
    }

    fn finish(self) -> Result<Outcome, RealError> {
        let (sent, heard) = (self.counters(Direction::FromHost)?, self.counters(Direction::ToHost)?);
        let complete_at = self.receivers.iter().map(|receiver| Some(receiver.complete_at?.since(Time::ZERO)));
        let figures = Figures { sent: sent.datagrams, heard: heard.datagrams, complete_at: complete_at.collect() };
        let mut overflows = 0;
        for host in self.stage.hosts() {
            overflows += host.overflows()?;
            for direction in [Direction::FromHost, Direction::ToHost] {
                overflows += self.stage.fabric().counters(host.name(), direction)?.dropped_by_machine;
            }
        }
        Ok(Outcome { figures, overflows })
    }

    fn incomplete(&self) -> RealError {
        let lacks = |receiver: &Receiver| receiver.complete_at.is_none() && !receiver.has_left;
        let lacking = self.receivers.iter().zip(0..).filter(|(receiver, _)| lacks(receiver));
        let (lacking, numbers): (Vec<&Receiver>, Vec<String>) =
            lacking.map(|(receiver, number): (_, u32)| (receiver, format!("receiver-{number}"))).unzip();
        RealError::Incomplete {
            names: numbers.join(", "),
            liveness_ms: self.scenario.liveness_ms,
            tail: lacking.first().map(|receiver| receiver.node.tail()).unwrap_or_default(),
        }
    }
}

const fn millis(ms: u64) -> Time {
    Time(ms * 1000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::scenario::DiskSpec;

    #[test]
    fn what_processes_cannot_be_made_to_do_is_refused() {
        let with = |what| Scenario { happenings: vec![Happening { at_ms: 1, what }], ..Scenario::default() };
        assert!(check(&with(What::Kill { receiver: 0, for_ms: 5 })).is_ok());
        for scenario in [
            with(What::PowerCut { receiver: 0, after_calls: 1, for_ms: 5 }),
            with(What::Publish),
            Scenario { disk: DiskSpec { lies_ppm: 1, ..DiskSpec::default() }, ..Scenario::default() },
        ] {
            assert!(matches!(check(&scenario), Err(RealError::Refused(_))));
        }
    }

    #[test]
    fn the_book_names_what_is_refused() {
        let book = include_str!("../../../docs/src/testing.md");
        let (receiver, for_ms) = (0, 1);
        let refused = [
            What::PowerCut { receiver, after_calls: 1, for_ms },
            What::Skew { receiver, ppm: 1 },
            What::Full { receiver, bytes_left: 1 },
            What::Rot { receiver, bits: 1 },
            What::Edit { receiver, files: 1, keep_time: true },
            What::WriteBackError { receiver, for_ms },
            What::Publish,
            What::RollSender,
            What::StepSenderClock { by_ms: 1 },
            What::BadMemory { for_ms },
            What::SenderBlind { for_ms },
            What::LoseSender,
            What::Spoil { receiver: None, for_ms },
            What::Mute { receiver: None, for_ms },
            What::Bar { receiver: None, for_ms },
            What::BreakPulls,
        ];
        for what in refused {
            let scenario = Scenario { happenings: vec![Happening { at_ms: 1, what }], ..Scenario::default() };
            let Err(RealError::Refused(name)) = check(&scenario) else { panic!("not refused") };
            assert!(book.contains(&format!("`{name}`")), "{name}");
        }
    }
}
