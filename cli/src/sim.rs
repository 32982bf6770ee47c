//! `nackcast sim`: runs scenarios of the deterministic simulator, replays and shrinks what fails.

mod real;

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use indicatif::{ProgressBar, ProgressStyle};
use nackcast_common::clock::Clock;
use nackcast_testbed::sim::scenario::Scenario;
use nackcast_testbed::sim::swarm::{self, Fixed};
use nackcast_testbed::sim::trace::Watch;
use nackcast_testbed::sim::world::Outcome;
use nackcast_testbed::sim::{self, plot};
use serde::Serialize;

use crate::App;
use crate::args::SimArgs;
use crate::failure::{Failure, OrFail};
use crate::output::{print, print_json};

/// One run, as it is printed.
#[derive(Debug, Serialize)]
struct Printed {
    seed: u64,
    passed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    oracle: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    what: Option<String>,
    trace: String,
    events: u64,
    virtual_seconds: f64,
    receivers: u32,
    sent_bytes: u64,
    repair_bytes: u64,
    nacks: u64,
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Report {
    runs: u64,
    failed: u64,
    seconds: f64,
    results: Vec<Printed>,
    /// The smallest scenario that still fails.
    #[serde(skip_serializing_if = "Option::is_none")]
    smallest: Option<PathBuf>,
}

/// Runs the command.
pub(crate) fn run(args: &SimArgs, app: &App) -> Result<(), Failure> {
    let clock = Clock::start();
    let watch = Watch { receiver: args.receiver, object: args.object };
    if let Some(path) = &args.scenario {
        let text = fs::read_to_string(path).or_usage(path.display())?;
        let mut scenario = Scenario::from_toml(&text).or_usage(path.display())?;
        if let Some(seed) = args.seed {
            scenario.seed = seed;
        }
        fix(&mut scenario, args);
        scenario.check().or_usage(path.display())?;
        if args.real {
            return real::run(&scenario, args.json, app);
        }
        return one(&scenario, watch, args, &clock);
    }
    let fixed = Fixed { receivers: args.receivers, loss: args.loss.map(|loss| loss.0) };
    match args.seeds {
        Some(seeds) => many(seeds.range(Clock::wall_ms()), fixed, watch, args, app, &clock),
        None => one(&swarm::scenario(args.seed.unwrap_or(1), fixed), watch, args, &clock),
    }
}

fn fix(scenario: &mut Scenario, args: &SimArgs) {
    if let Some(receivers) = args.receivers {
        scenario.receivers = receivers;
    }
    if let Some(loss) = args.loss {
        scenario.down.loss = loss.0;
    }
}

fn one(scenario: &Scenario, watch: Watch, args: &SimArgs, clock: &Clock) -> Result<(), Failure> {
    let outcome = sim::run(scenario, args.report.as_ref().map(|_| watch));
    if let Some(path) = &args.report {
        write_report(path, scenario, &outcome)?;
    }
    let failed = outcome.failure.is_some();
    let text = shown(scenario, &outcome);
    let smallest = if failed && !args.no_shrink { Some(shrunk(scenario)?) } else { None };
    if args.json {
        let results = vec![printed(scenario, &outcome)];
        let seconds = clock.now().0 as f64 / 1e6;
        print_json(&Report { runs: 1, failed: failed.into(), seconds, results, smallest })?;
    } else {
        print(&with_smallest(text, smallest.as_deref()))?;
    }
    if failed { Err(Failure::Reported) } else { Ok(()) }
}

fn many(
    seeds: std::ops::Range<u64>,
    fixed: Fixed,
    watch: Watch,
    args: &SimArgs,
    app: &App,
    clock: &Clock,
) -> Result<(), Failure> {
    let total = seeds.end.saturating_sub(seeds.start);
    let bar = ProgressBar::new(total);
    bar.set_style(
        ProgressStyle::with_template("{bar:30} {pos}/{len} seeds, {per_sec}, {eta} left{msg}")
            .or_running("the progress display cannot be made")?,
    );
    app.terminal.line(&format!("seeds {}..{}", seeds.start, seeds.end));
    let next = AtomicUsize::new(0);
    let stop = AtomicBool::new(false);
    let failures = Mutex::new(Vec::new());
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let nth = next.fetch_add(1, Ordering::Relaxed) as u64;
                    if nth >= total {
                        return;
                    }
                    let scenario = swarm::scenario(seeds.start + nth, fixed);
                    let outcome = sim::run(&scenario, None);
                    bar.inc(1);
                    if outcome.failure.is_some() {
                        app.terminal.line(&shown(&scenario, &outcome));
                        stop.store(!args.keep_going, Ordering::Relaxed);
                        if let Ok(mut failures) = failures.lock() {
                            failures.push((scenario, outcome));
                        }
                    }
                }
            });
        }
    });
    bar.finish_and_clear();
    let mut failures = failures.into_inner().unwrap_or_default();
    failures.sort_by_key(|(scenario, _)| scenario.seed);
    let runs = (next.load(Ordering::Relaxed) as u64).min(total);
    let seconds = clock.now().0 as f64 / 1e6;
    let mut smallest = None;
    if let Some((scenario, _)) = failures.first() {
        if let Some(path) = &args.report {
            write_report(path, scenario, &sim::run(scenario, Some(watch)))?;
        }
        if !args.no_shrink {
            smallest = Some(shrunk(scenario)?);
        }
    }
    let failed = failures.len() as u64;
    if args.json {
        let results = failures.iter().map(|(scenario, outcome)| printed(scenario, outcome)).collect();
        print_json(&Report { runs, failed, seconds, results, smallest })?;
    } else {
        let text = format!("{runs} seeds ({}..{}) in {seconds:.1} s, {failed} failed", seeds.start, seeds.end);
        print(&with_smallest(text, smallest.as_deref()))?;
    }
    if failed > 0 { Err(Failure::Reported) } else { Ok(()) }
}

fn shrunk(scenario: &Scenario) -> Result<PathBuf, Failure> {
    let path = PathBuf::from(format!("sim-{}.toml", scenario.seed));
    fs::write(&path, sim::shrink(scenario).to_toml()).or_running(path.display())?;
    Ok(path)
}

fn with_smallest(mut text: String, smallest: Option<&Path>) -> String {
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

fn printed(scenario: &Scenario, outcome: &Outcome) -> Printed {
    Printed {
        seed: scenario.seed,
        passed: outcome.failure.is_none(),
        oracle: outcome.failure.as_ref().map(|failure| failure.oracle),
        what: outcome.failure.as_ref().map(|failure| failure.what.clone()),
        trace: outcome.hash.to_string(),
        events: outcome.events,
        virtual_seconds: outcome.end.0 as f64 / 1e6,
        receivers: scenario.receivers,
        sent_bytes: outcome.sent_bytes,
        repair_bytes: outcome.repair_bytes,
        nacks: outcome.nacks,
    }
}

fn shown(scenario: &Scenario, outcome: &Outcome) -> String {
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
        "seed {seed} failed at {:?}: {}: {}\ntrace {}; replay it with `nackcast sim --seed {seed}`",
        failure.at, failure.oracle, failure.what, outcome.hash
    );
    for line in &outcome.diagnosis {
        write!(text, "\n  {line}").unwrap_or_default();
    }
    text
}

/// By the file's ending: the picture alone, or a page with everything.
fn write_report(path: &Path, scenario: &Scenario, outcome: &Outcome) -> Result<(), Failure> {
    let title = format!("seed {}, {} receivers", scenario.seed, scenario.receivers);
    let picture = plot::svg(&title, &outcome.samples).or_running(path.display())?;
    if path.extension().is_some_and(|ending| ending == "svg") {
        return fs::write(path, picture).or_running(path.display());
    }
    let escaped = |text: &str| text.replace('&', "&amp;").replace('<', "&lt;");
    let page = format!(
        "<!doctype html><meta charset=utf-8><title>{title}</title>\n<h1>{title}</h1>\n<pre>{}</pre>\n{picture}\n\
         <h2>Scenario</h2>\n<pre>{}</pre>\n<h2>Timeline</h2>\n<pre>{}</pre>\n",
        escaped(&shown(scenario, outcome)),
        escaped(&scenario.to_toml()),
        escaped(&outcome.timeline.join("\n"))
    );
    fs::write(path, page).or_running(path.display())
}
