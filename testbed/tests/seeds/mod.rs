//! Which seeds are run, and how: on all processors.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// Seeds in one run of the tests.
const SEEDS: u64 = 200;

/// Runs seeds on all processors, until something is found if `first`; gives what `look` gave, by seed.
pub(crate) fn on_all<T: Send>(
    seeds: std::ops::Range<u64>,
    first: bool,
    look: impl Fn(u64) -> Option<T> + Sync,
) -> Vec<(u64, T)> {
    let next = AtomicU64::new(seeds.start);
    let found = Mutex::new(Vec::new());
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end || (first && !found.lock().unwrap().is_empty()) {
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

/// The seeds to run: new ones each day, so that a day's failure is the same for everybody who looks into it.
/// `SIM_SEEDS` says how many, `SIM_FIRST` where they begin.
pub(crate) fn sample() -> std::ops::Range<u64> {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let count = number("SIM_SEEDS").unwrap_or(SEEDS);
    let days = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs() / 86_400;
    let first = number("SIM_FIRST").unwrap_or(days * SEEDS);
    println!("{count} seeds; the same again: SIM_FIRST={first} SIM_SEEDS={count}");
    first..first + count
}
