//! The simulator and the program agree: a scenario that both run costs the same, and ends in the same order.
//!
//! Real processes in namespaces, on the fabric. Nothing is judged by the clock, only one run by the other.

#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test says what it measured, and fails when it cannot go on"
)]

use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use nackcast_testbed::netns::with_namespaces;
use nackcast_testbed::sim::figures::Figures;
use nackcast_testbed::sim::scenario::Scenario;
use nackcast_testbed::{real, sim};

/// Who is complete so long before another in the simulator is so on the fabric, too.
const CLEARLY: Duration = Duration::from_secs(1);

/// The processes run so often at most.
const RUNS: usize = 3;

/// How far the two may differ. Where these come from: `docs/src/testing.md`.
struct Tolerance {
    /// Of the bytes of symbols, as a share.
    bytes: f64,
    /// Of the number of NACKs, as a factor.
    nacks: f64,
}

/// Runs a scenario in both ways and compares.
fn compare(name: &str, tolerance: &Tolerance) {
    // Processes of several tests at once would only be in each other's way.
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../testbed/tests/fabric").join(name).with_extension("toml");
    let scenario = Scenario::from_toml(&std::fs::read_to_string(file).unwrap()).unwrap();
    let simulated = sim::run(&scenario, None);
    assert!(simulated.failure.is_none(), "{:?}\n{}", simulated.failure, simulated.diagnosis.join("\n"));
    // What else a machine does only adds to what a run costs: that is no difference between the two.
    let mut said = Vec::new();
    for _ in 0..RUNS {
        match run(name, &scenario, &simulated.figures, tolerance) {
            Ok(()) => return,
            Err(difference) => said.push(difference),
        }
    }
    panic!("each of {RUNS} runs differs: {}", said.join("; "));
}

/// Runs the processes, and says how they differ.
fn run(name: &str, scenario: &Scenario, here: &Figures, tolerance: &Tolerance) -> Result<(), String> {
    let place = tempfile::tempdir_in(place()).unwrap();
    let program = Path::new(env!("CARGO_BIN_EXE_nackcast"));
    let outcome = real::run(scenario, program, place.path()).unwrap_or_else(|error| panic!("{name}: {error}"));
    let there = &outcome.figures;
    eprintln!("{name}: simulator {}; processes {}; {} overflows", shown(here), shown(there), outcome.overflows);
    let bytes = ratio(there.symbols().bytes, here.symbols().bytes);
    if (bytes - 1.0).abs() > tolerance.bytes {
        return Err(format!("{bytes:.3} times the bytes; {} overflows", outcome.overflows));
    }
    let nacks = ratio(there.nacks().datagrams, here.nacks().datagrams);
    let nacks = nacks.max(1.0 / nacks);
    if nacks > tolerance.nacks {
        return Err(format!("NACKs differ by a factor of {nacks:.2}; {} overflows", outcome.overflows));
    }
    match here.other_order(there, CLEARLY) {
        other if other.is_empty() => Ok(()),
        other => Err(format!("complete in another order: {other:?}")),
    }
}

/// In memory, where there is such a place: the simulator knows nothing of what else this machine's disk is doing.
fn place() -> &'static Path {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { memory } else { Path::new(env!("CARGO_TARGET_TMPDIR")) }
}

fn shown(figures: &Figures) -> String {
    let complete: Vec<String> = figures
        .complete_at
        .iter()
        .map(|at| at.map_or("-".to_owned(), |at| format!("{:.2}", at.as_secs_f64())))
        .collect();
    let (symbols, nacks) = (figures.symbols().bytes, figures.nacks().datagrams);
    format!("{symbols} bytes, {nacks} NACKs, complete after {}", complete.join(" "))
}

#[expect(clippy::cast_precision_loss, reason = "counts here are far below 2^52")]
fn ratio(part: u64, whole: u64) -> f64 {
    part as f64 / whole as f64
}

#[test]
fn independent_loss_costs_what_the_simulator_says() {
    with_namespaces(|| compare("independent-loss", &Tolerance { bytes: 0.08, nacks: 1.5 }));
}

#[test]
fn bursts_and_a_slow_cable_cost_what_the_simulator_says() {
    with_namespaces(|| compare("bursts-and-a-slow-cable", &Tolerance { bytes: 0.08, nacks: 1.5 }));
}

#[test]
fn a_cut_and_a_late_joiner_cost_what_the_simulator_says() {
    with_namespaces(|| compare("a-cut-and-a-late-joiner", &Tolerance { bytes: 0.08, nacks: 1.5 }));
}
