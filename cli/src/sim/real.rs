//! `nackcast sim --real`: a scenario in the simulator and with real processes, side by side.

use std::fmt::Write as _;
use std::time::Duration;

use nackcast_testbed::sim::figures::Figures;
use nackcast_testbed::sim::scenario::Scenario;
use nackcast_testbed::{netns, real, sim};
use serde::Serialize;

use crate::App;
use crate::failure::{Failure, OrFail};
use crate::output::{print, print_json};

/// What both runs came to. Names of fields are a contract with scripts.
#[derive(Debug, Serialize)]
struct Compared {
    simulator: Row,
    processes: Row,
    /// Datagrams that this machine was too slow for.
    overflows: u64,
}

#[derive(Debug, Serialize)]
struct Row {
    symbols: u64,
    symbol_bytes: u64,
    nacks: u64,
    nack_bytes: u64,
    /// Seconds from the first advertisement until each receiver was complete.
    complete_after: Vec<Option<f64>>,
}

impl Row {
    fn new(figures: &Figures) -> Self {
        let (symbols, nacks) = (figures.symbols(), figures.nacks());
        Self {
            symbols: symbols.datagrams,
            symbol_bytes: symbols.bytes,
            nacks: nacks.datagrams,
            nack_bytes: nacks.bytes,
            complete_after: figures.complete_at.iter().map(|at| at.map(|at| at.as_secs_f64())).collect(),
        }
    }
}

/// Runs a scenario in both ways.
pub(super) fn run(scenario: &Scenario, json: bool, app: &App) -> Result<(), Failure> {
    real::check(scenario).or_usage("--real")?;
    // Before all else: a user namespace can only be entered with a single thread.
    netns::enter_user_namespace().or_running("no network can be built")?;
    let place = tempfile::Builder::new().prefix("nackcast-sim-").tempdir();
    let place = place.or_running("a temporary directory cannot be made")?;
    let program = std::env::current_exe().or_running("this program cannot find itself")?;
    let simulated = sim::run(scenario, None);
    if let Some(failure) = &simulated.failure {
        return Err(Failure::running(format_args!("in the simulator: {}: {}", failure.oracle, failure.what)));
    }
    let most = Duration::from_millis(scenario.heal_at_ms + scenario.liveness_ms);
    app.terminal.line(&format!("running {} receivers for at most {most:?}", scenario.receivers));
    let outcome = real::run(scenario, &program, place.path()).or_running("with real processes")?;
    let compared = Compared {
        simulator: Row::new(&simulated.figures),
        processes: Row::new(&outcome.figures),
        overflows: outcome.overflows,
    };
    if json { print_json(&compared) } else { print(&compared.to_text()) }
}

impl Compared {
    fn to_text(&self) -> String {
        let mut text = format!("{:24}{:>14}{:>14}{:>9}", "", "simulator", "processes", "ratio");
        let (one, two) = (&self.simulator, &self.processes);
        let rows = [
            ("symbols sent", one.symbols, two.symbols),
            ("bytes of symbols", one.symbol_bytes, two.symbol_bytes),
            ("NACKs heard", one.nacks, two.nacks),
            ("bytes of NACKs", one.nack_bytes, two.nack_bytes),
        ];
        for (name, simulated, real) in rows {
            #[expect(clippy::cast_precision_loss, reason = "for reading only")]
            let ratio = real as f64 / simulated.max(1) as f64;
            write!(text, "\n{name:24}{simulated:>14}{real:>14}{ratio:>9.3}").unwrap_or_default();
        }
        let shown = |at: &Option<f64>| at.map_or_else(|| "-".to_owned(), |at| format!("{at:.2} s"));
        for (number, pair) in one.complete_after.iter().zip(&two.complete_after).enumerate() {
            let name = format!("receiver {number} complete");
            write!(text, "\n{name:24}{:>14}{:>14}", shown(pair.0), shown(pair.1)).unwrap_or_default();
        }
        if self.overflows > 0 {
            let lost = self.overflows;
            write!(text, "\n{lost} datagrams were lost since this machine is too slow").unwrap_or_default();
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_runs_stand_side_by_side() {
        let row = |symbols, at| Row {
            symbols,
            symbol_bytes: symbols * 1450,
            nacks: 0,
            nack_bytes: 0,
            complete_after: vec![Some(at), None],
        };
        let text = Compared { simulator: row(100, 1.0), processes: row(101, 1.25), overflows: 0 }.to_text();
        let line = |nth: usize| text.lines().nth(nth).unwrap().split_whitespace().collect::<Vec<_>>();
        assert_eq!(line(1), ["symbols", "sent", "100", "101", "1.010"]);
        assert_eq!(line(5), ["receiver", "0", "complete", "1.00", "s", "1.25", "s"]);
        assert_eq!(line(6), ["receiver", "1", "complete", "-", "-"]);
        assert_eq!(text.lines().count(), 7);
    }
}
