//! The simulator: named regressions, a sample of seeds, the same seed twice, and faults that are planted on purpose.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may fail, and says what it found")]

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use nackcast_common::clock::Clock;
use nackcast_common::mutation::{Mutation, plant};
use nackcast_testbed::sim::scenario::Scenario;
use nackcast_testbed::sim::swarm::{self, Fixed};
use nackcast_testbed::sim::{self};

/// Seeds in one run of the tests. `SIM_SEEDS` says how many, `SIM_FIRST` where they begin.
const SEEDS: u64 = 200;
/// A planted fault must be found by so many.
const FOUND_BY: u64 = 500;

/// Each planted fault that is found, and a seed that found it. `SideFileReused`, `PromiseForEver`, `PoolLosesObject`,
/// `StampNotChecked` and `SilenceNotSeen` are not found yet by seeds that pass without them.
const FOUND: [(Mutation, u64); 10] = [
    (Mutation::BitmapOffByOne, 1),
    (Mutation::InstallBeforeSync, 75),
    (Mutation::MapBeforeData, 14),
    (Mutation::BlockNotChecked, 5),
    (Mutation::WindowNeverReset, 265),
    (Mutation::NonceRestarts, 1),
    (Mutation::RollKeepsSession, 5),
    (Mutation::PassNotCounted, 0),
    (Mutation::RepairRepeats, 10),
    (Mutation::SlotLeaks, 21),
];

/// Runs seeds on all processors until one is to stop; gives what `look` gave, by seed.
fn on_all<T: Send>(seeds: std::ops::Range<u64>, look: impl Fn(u64) -> Option<T> + Sync) -> Vec<(u64, T)> {
    let next = AtomicU64::new(seeds.start);
    let found = Mutex::new(Vec::new());
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end || !found.lock().unwrap().is_empty() {
                        return;
                    }
                    if let Some(one) = look(seed) {
                        found.lock().unwrap().push((seed, one));
                    }
                }
            });
        }
    });
    let mut found = found.into_inner().unwrap();
    found.sort_by_key(|(seed, _)| *seed);
    found
}

/// Every failure that was ever met stands in `scenarios/`, under a name that says what it was.
#[test]
fn what_failed_once_does_not_fail_again() {
    let mut files: Vec<_> = std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "toml"))
        .collect();
    files.sort();
    assert!(!files.is_empty());
    for file in files {
        let scenario = Scenario::from_toml(&std::fs::read_to_string(&file).unwrap()).unwrap();
        let outcome = sim::run(&scenario, None);
        let failure = outcome.failure.map(|f| format!("{f:?}\n{}", outcome.diagnosis.join("\n")));
        assert_eq!(failure, None, "{}", file.display());
    }
}

/// A sample of the swarm, of seeds that nobody ran before: the first is the wall clock in milliseconds. `.ci/soak sim`
/// runs many more.
#[test]
fn fresh_seeds_find_nothing() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let first = number("SIM_FIRST").unwrap_or_else(Clock::wall_ms);
    let count = number("SIM_SEEDS").unwrap_or(SEEDS);
    println!("{count} seeds; the same again: SIM_FIRST={first}");
    let found = on_all(first..first + count, |seed| {
        let outcome = sim::run(&swarm::scenario(seed, Fixed::default()), None);
        outcome.failure.map(|failure| format!("{failure:?}\n{}", outcome.diagnosis.join("\n")))
    });
    for (seed, failure) in &found {
        println!("seed {seed}: {failure}");
    }
    assert!(found.is_empty(), "replay with `nackcast sim --seed {}`", found[0].0);
}

/// Twice in one process: nothing of a run depends on addresses, threads or what ran before.
#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in 0..6 {
        let scenario = swarm::scenario(seed, Fixed::default());
        let [one, two] = [sim::run(&scenario, None), sim::run(&scenario, None)];
        assert!(one.events > 0);
        assert_eq!((one.hash, one.events), (two.hash, two.events), "seed {seed}");
    }
}

#[test]
fn planted_faults_are_found() {
    let mut missed = Vec::new();
    for (mutation, seed) in FOUND {
        let try_one = |seed: u64| {
            plant(Some(mutation));
            let failure = sim::run(&swarm::scenario(seed, Fixed::default()), None).failure;
            plant(None);
            failure.map(|failure| failure.oracle)
        };
        // Where it was found the last time; if the code has changed, anywhere.
        let mut found = on_all(seed..seed + 1, try_one);
        if found.is_empty() {
            found = on_all(0..FOUND_BY, try_one);
        }
        match found.first() {
            Some((seed, oracle)) => println!("{mutation:?}: found by seed {seed}, by the oracle `{oracle}`"),
            None => missed.push(mutation),
        }
    }
    assert_eq!(missed, [], "not found by {FOUND_BY} seeds: a fault or an oracle is missing");
}
