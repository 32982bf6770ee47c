//! Lines for people, not the same one over and over.

use std::collections::BTreeMap;
use std::time::Duration;

use nackcast_common::clock::Time;
use nackcast_common::units::counted;

use crate::engine::Event;

/// Between two lines about the same trouble.
const SPACING: Duration = Duration::from_secs(5);
/// Different lines of which the time is kept.
const LINES_MAX: usize = 256;
/// Lines that are kept for the summary.
const PROBLEMS_MAX: usize = 100;

#[derive(Debug)]
pub(super) struct Notes {
    name: String,
    last: BTreeMap<String, Time>,
    /// The last trouble, until the dataset is whole.
    pub(super) current: Option<String>,
    pub(super) problems: Vec<String>,
}

impl Notes {
    pub(super) const fn new(name: String) -> Self {
        Self { name, last: BTreeMap::new(), current: None, problems: Vec::new() }
    }

    /// Something is wrong.
    pub(super) fn say(&mut self, now: Time, line: &str) {
        self.current = Some(line.to_owned());
        let key: String = line.chars().take(60).collect();
        if self.last.get(&key).is_some_and(|at| now.since(*at) < SPACING) {
            return;
        }
        if self.last.len() > LINES_MAX {
            self.last.clear();
        }
        self.last.insert(key, now);
        tracing::warn!("{}: {line}", self.name);
        if self.problems.len() < PROBLEMS_MAX && !self.problems.iter().any(|p| p == line) {
            self.problems.push(line.to_owned());
        }
    }

    /// Something that is as it should be.
    pub(super) fn inform(&self, line: &str) {
        tracing::info!("{}: {line}", self.name);
    }

    /// What the engine reports.
    pub(super) fn event(&mut self, now: Time, event: &Event) {
        match event {
            Event::SenderHeard(_, from) => self.inform(&format!("sender at {from}")),
            Event::SenderLost(_) => self.inform("the sender fell silent; waiting for it"),
            Event::OlderGeneration(generation) => {
                self.inform(&format!("the sender still has generation {generation}; ours is kept"));
            }
            Event::Complete(generation) => {
                self.inform(&format!("generation {generation} is complete and verified"));
                self.current = None;
            }
            Event::BlockUnsound(object, block) => {
                self.say(now, &format!("symbols of object {object}, block {block} were wrong: it is received again"))
            }
            Event::TwoManifests(generation) => self.say(
                now,
                &format!("two manifests of generation {generation} exist: ours is kept; publish a new generation"),
            ),
            Event::UnicastWanted(count) => self.say(
                now,
                &format!(
                    "objects that had all their passes: {count}; they are pulled by unicast where a source is at \
                     hand, or asked for again when a new round begins"
                ),
            ),
            Event::NoSenderAnswers => self.say(now, "no sender answers: it is asked again and again"),
            // The node says it, who knows its name.
            Event::SourceDropped(..) => {}
            Event::Unknown(count) => self.say(now, &format!("the sender does not have {}", counted(*count, "object"))),
        }
    }
}
