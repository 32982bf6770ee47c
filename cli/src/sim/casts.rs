//! `nackcast sim --cast`: senders with roles, and what each did, when, and why.

use std::fmt::Write as _;
use std::ops::Range;

use nackcast_common::clock::Clock;
use nackcast_testbed::sim::roles::{self, Cast, Outcome};
use serde::Serialize;

use super::shown::{Report, Went};
use super::soak::soak;
use crate::App;
use crate::args::SimArgs;
use crate::failure::Failure;
use crate::output::{print, print_json};

/// One run, as it is printed.
#[derive(Debug, Serialize)]
struct Printed {
    cast: u64,
    #[serde(flatten)]
    went: Went,
    senders: usize,
    receivers: usize,
    story: Vec<String>,
}

/// Runs one, and tells its story.
pub(super) fn one(seed: u64, args: &SimArgs, clock: &Clock) -> Result<(), Failure> {
    let cast = Cast::of_seed(seed);
    let outcome = roles::run(&cast);
    let failed = outcome.failure.is_some();
    if args.json {
        let seconds = clock.now().0 as f64 / 1e6;
        let results = vec![printed(&cast, &outcome)];
        print_json(&Report { runs: 1, failed: failed.into(), seconds, results, smallest: None })?;
    } else {
        print(&shown(&cast, &outcome))?;
    }
    if failed { Err(Failure::Reported) } else { Ok(()) }
}

/// Runs many; tells the stories of those that fail.
pub(super) fn many(seeds: Range<u64>, args: &SimArgs, app: &App, clock: &Clock) -> Result<(), Failure> {
    let soaked = soak("casts", seeds.clone(), args.keep_going, app, |seed| {
        let cast = Cast::of_seed(seed);
        let outcome = roles::run(&cast);
        outcome.failure.is_some().then(|| (printed(&cast, &outcome), shown(&cast, &outcome)))
    })?;
    let (runs, failed) = (soaked.runs, soaked.failures.len() as u64);
    let seconds = clock.now().0 as f64 / 1e6;
    if args.json {
        print_json(&Report { runs, failed, seconds, results: soaked.failures, smallest: None })?;
    } else {
        print(&format!("{runs} casts ({}..{}) in {seconds:.1} s, {failed} failed", seeds.start, seeds.end))?;
    }
    if failed > 0 { Err(Failure::Reported) } else { Ok(()) }
}

fn printed(cast: &Cast, outcome: &Outcome) -> Printed {
    Printed {
        cast: cast.seed,
        went: Went::new(outcome.failure.as_ref(), outcome.hash, outcome.events, outcome.end),
        senders: cast.parts.len(),
        receivers: cast.receivers,
        story: outcome.story.clone(),
    }
}

fn shown(cast: &Cast, outcome: &Outcome) -> String {
    let (seed, hash) = (cast.seed, outcome.hash);
    let mut text = match &outcome.failure {
        None => {
            let (senders, receivers) = (cast.parts.len(), cast.receivers);
            let (end, events) = (outcome.end, outcome.events);
            format!(
                "cast {seed} passed: {senders} senders, {receivers} receivers, {end:?} of virtual time, {events} events\n\
                 trace {hash}"
            )
        }
        Some(failure) => format!(
            "cast {seed} failed at {:?}: {}: {}\ntrace {hash}; replay it with `nackcast sim --cast {seed}`\n  {cast:?}",
            failure.at, failure.oracle, failure.what
        ),
    };
    for line in &outcome.story {
        write!(text, "\n  {line}").unwrap_or_default();
    }
    text
}

#[cfg(test)]
mod tests {
    use nackcast_common::clock::Time;
    use nackcast_testbed::sim::oracle;

    use super::*;

    #[test]
    fn a_failure_says_how_to_see_it_again_and_what_each_did() {
        let cast = Cast::of_seed(31);
        let mut outcome = roles::run(&cast);
        assert!(shown(&cast, &outcome).contains(&format!("\ntrace {}", outcome.hash)));
        outcome.failure = Some(oracle::Failure { at: Time(5), oracle: "alert", what: "too soon".to_owned() });
        let text = shown(&cast, &outcome);
        assert!(text.contains("replay it with `nackcast sim --cast 31`") && text.contains("alert: too soon"), "{text}");
        assert!(!outcome.story.is_empty() && outcome.story.iter().all(|line| text.contains(line)), "{text}");
    }
}
