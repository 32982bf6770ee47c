//! `nackcast sim`: runs scenarios of the deterministic simulator, replays and shrinks what fails.

mod casts;
mod real;
mod replay;
mod shown;
mod soak;

use std::fs;
use std::path::PathBuf;

use nackcast_common::clock::Clock;
use nackcast_testbed::sim;
use nackcast_testbed::sim::scenario::Scenario;
use nackcast_testbed::sim::swarm::{self, Fixed};
use nackcast_testbed::sim::trace::Watch;

use self::replay::Replay;
use self::shown::{Report, printed, shown, with_smallest, write_report};
use self::soak::soak;
use crate::App;
use crate::args::SimArgs;
use crate::failure::{Failure, OrFail};
use crate::output::{print, print_json};

/// Runs the command.
pub(crate) fn run(args: &SimArgs, app: &App) -> Result<(), Failure> {
    let clock = Clock::start();
    if let Some(seed) = args.cast {
        return casts::one(seed, args, &clock);
    }
    if let Some(seeds) = args.casts {
        return casts::many(seeds.range(Clock::wall_ms()), args, app, &clock);
    }
    let fixed = Fixed { receivers: args.receivers, loss: args.loss.map(|loss| loss.share()) };
    if let Some(path) = &args.scenario {
        let text = fs::read_to_string(path).or_usage(path.display())?;
        let mut scenario = Scenario::from_toml(&text).or_usage(path.display())?;
        scenario.seed = args.seed.unwrap_or(scenario.seed);
        scenario.receivers = fixed.receivers.unwrap_or(scenario.receivers);
        fixed.apply_loss(&mut scenario);
        scenario.check().or_usage(path.display())?;
        if args.real {
            return real::run(&scenario, args.json, app);
        }
        return one(&scenario, args, &clock);
    }
    match args.seeds {
        Some(seeds) => many(seeds.range(Clock::wall_ms()), fixed, args, app, &clock),
        None => one(&made(args.seed.unwrap_or(1), fixed)?, args, &clock),
    }
}

fn made(seed: u64, fixed: Fixed) -> Result<Scenario, Failure> {
    let scenario = swarm::scenario(seed, fixed);
    scenario.check().or_usage(format_args!("seed {seed}"))?;
    Ok(scenario)
}

const fn watch(args: &SimArgs) -> Watch {
    Watch { receiver: args.receiver, object: args.object }
}

fn one(scenario: &Scenario, args: &SimArgs, clock: &Clock) -> Result<(), Failure> {
    let outcome = sim::run(scenario, args.report.as_ref().map(|_| watch(args)));
    let text = shown(scenario, &outcome, &Replay::of(args, scenario.seed));
    if let Some(path) = &args.report {
        write_report(path, scenario, &outcome, &text)?;
    }
    let failed = outcome.failure.is_some();
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

fn many(seeds: std::ops::Range<u64>, fixed: Fixed, args: &SimArgs, app: &App, clock: &Clock) -> Result<(), Failure> {
    made(seeds.start, fixed)?;
    let soaked = soak("seeds", seeds.clone(), args.keep_going, app, |seed| {
        let scenario = swarm::scenario(seed, fixed);
        let outcome = sim::run(&scenario, None);
        outcome.failure.is_some().then(|| {
            let text = shown(&scenario, &outcome, &Replay::of(args, seed));
            ((scenario, outcome), text)
        })
    })?;
    let seconds = clock.now().0 as f64 / 1e6;
    let mut smallest = None;
    if let Some((scenario, _)) = soaked.failures.first() {
        if let Some(path) = &args.report {
            let outcome = sim::run(scenario, Some(watch(args)));
            write_report(path, scenario, &outcome, &shown(scenario, &outcome, &Replay::of(args, scenario.seed)))?;
        }
        if !args.no_shrink {
            smallest = Some(shrunk(scenario)?);
        }
    }
    let (runs, failed) = (soaked.runs, soaked.failures.len() as u64);
    if args.json {
        let results = soaked.failures.iter().map(|(scenario, outcome)| printed(scenario, outcome)).collect();
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
