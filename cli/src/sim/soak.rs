//! Many seeds on all processors, until one fails.

use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use indicatif::{ProgressBar, ProgressStyle};

use crate::App;
use crate::failure::{Failure, OrFail};

/// What came of them.
#[derive(Debug)]
pub(super) struct Soaked<T> {
    /// How many were run.
    pub(super) runs: u64,
    /// What failed, in order of seeds.
    pub(super) failures: Vec<T>,
}

/// Runs them; `look` gives what failed, and how to say it.
pub(super) fn soak<T: Send>(
    name: &str,
    seeds: Range<u64>,
    keep_going: bool,
    app: &App,
    look: impl Fn(u64) -> Option<(T, String)> + Sync,
) -> Result<Soaked<T>, Failure> {
    let total = seeds.end.saturating_sub(seeds.start);
    let bar = ProgressBar::new(total);
    bar.set_style(
        ProgressStyle::with_template(&format!("{{bar:30}} {{pos}}/{{len}} {name}, {{per_sec}}, {{eta}} left{{msg}}"))
            .or_running("the progress display cannot be made")?,
    );
    app.terminal.line(&format!("{name} {}..{}", seeds.start, seeds.end));
    let next = AtomicU64::new(0);
    let stop = AtomicBool::new(false);
    let failures = Mutex::new(Vec::new());
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let nth = next.fetch_add(1, Ordering::Relaxed);
                    if nth >= total {
                        return;
                    }
                    let failed = look(seeds.start + nth);
                    bar.inc(1);
                    if let Some((failure, text)) = failed {
                        app.terminal.line(&text);
                        stop.store(!keep_going, Ordering::Relaxed);
                        if let Ok(mut failures) = failures.lock() {
                            failures.push((nth, failure));
                        }
                    }
                }
            });
        }
    });
    bar.finish_and_clear();
    let mut failures = failures.into_inner().unwrap_or_default();
    failures.sort_by_key(|(nth, _)| *nth);
    let failures = failures.into_iter().map(|(_, failure)| failure).collect();
    Ok(Soaked { runs: next.load(Ordering::Relaxed).min(total), failures })
}
