//! What runs of scenarios look like: as text, as JSON, and as a page with a plot.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use nackcast_common::clock::Time;
use nackcast_common::ids::Digest;
use nackcast_testbed::sim::oracle::Failure as Failed;
use nackcast_testbed::sim::plot;
use nackcast_testbed::sim::scenario::Scenario;
use nackcast_testbed::sim::world::Outcome;
use serde::Serialize;

use super::replay::Replay;
use crate::failure::{Failure, OrFail};

/// How a run went, as it is printed; between what names it and what else there is to say.
#[derive(Debug, Serialize)]
pub(super) struct Went {
    passed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    oracle: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    what: Option<String>,
    trace: String,
    events: u64,
    virtual_seconds: f64,
}

impl Went {
    pub(super) fn new(failure: Option<&Failed>, trace: Digest, events: u64, end: Time) -> Self {
        Self {
            passed: failure.is_none(),
            oracle: failure.map(|failure| failure.oracle),
            what: failure.map(|failure| failure.what.clone()),
            trace: trace.to_string(),
            events,
            virtual_seconds: end.0 as f64 / 1e6,
        }
    }
}

/// One run, as it is printed.
#[derive(Debug, Serialize)]
pub(super) struct Printed {
    seed: u64,
    #[serde(flatten)]
    went: Went,
    receivers: u32,
    sent_bytes: u64,
    repair_bytes: u64,
    nacks: u64,
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
pub(super) struct Report<R> {
    pub(super) runs: u64,
    pub(super) failed: u64,
    pub(super) seconds: f64,
    pub(super) results: Vec<R>,
    /// The smallest scenario that still fails.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) smallest: Option<PathBuf>,
}

pub(super) fn with_smallest(mut text: String, smallest: Option<&Path>) -> String {
    if let Some(path) = smallest {
        let path = path.display();
        write!(
            text,
            "\nthe smallest scenario that still fails: {path}; replay it with `nackcast sim --scenario {path}`"
        )
        .unwrap_or_default();
    }
    text
}

pub(super) fn printed(scenario: &Scenario, outcome: &Outcome) -> Printed {
    Printed {
        seed: scenario.seed,
        went: Went::new(outcome.failure.as_ref(), outcome.hash, outcome.events, outcome.end),
        receivers: scenario.receivers,
        sent_bytes: outcome.sent_bytes,
        repair_bytes: outcome.repair_bytes,
        nacks: outcome.nacks,
    }
}

pub(super) fn shown(scenario: &Scenario, outcome: &Outcome, replay: &Replay<'_>) -> String {
    let seed = scenario.seed;
    let Some(failure) = &outcome.failure else {
        return format!(
            "seed {seed} passed: {} receivers, {:?} of virtual time, {} events, {} bytes sent ({} of them repair), {} NACKs\n\
             trace {}",
            scenario.receivers,
            outcome.end,
            outcome.events,
            outcome.sent_bytes,
            outcome.repair_bytes,
            outcome.nacks,
            outcome.hash
        );
    };
    let mut text = format!(
        "seed {seed} failed at {:?}: {}: {}\ntrace {}; replay it with `{replay}`",
        failure.at, failure.oracle, failure.what, outcome.hash
    );
    for line in &outcome.diagnosis {
        write!(text, "\n  {line}").unwrap_or_default();
    }
    text
}

/// By the file's ending: the picture alone, or a page with everything.
pub(super) fn write_report(path: &Path, scenario: &Scenario, outcome: &Outcome, text: &str) -> Result<(), Failure> {
    let title = format!("seed {}, {} receivers", scenario.seed, scenario.receivers);
    let picture = plot::svg(&title, &outcome.samples).or_running(path.display())?;
    if path.extension().is_some_and(|ending| ending == "svg") {
        return fs::write(path, picture).or_running(path.display());
    }
    let escaped = |text: &str| text.replace('&', "&amp;").replace('<', "&lt;");
    let page = format!(
        "<!doctype html><meta charset=utf-8><title>{title}</title>\n<h1>{title}</h1>\n<pre>{}</pre>\n{picture}\n\
         <h2>Scenario</h2>\n<pre>{}</pre>\n<h2>Timeline</h2>\n<pre>{}</pre>\n",
        escaped(text),
        escaped(&scenario.to_toml()),
        escaped(&outcome.timeline.join("\n"))
    );
    fs::write(path, page).or_running(path.display())
}
