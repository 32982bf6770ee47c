//! How the whole behaves with 10 to 100,000 receivers: the engines in virtual time, see [`nackcast_testbed::sim::scale`].
//!
//! `cargo bench -p nackcast-testbed --bench scale` prints a table; rows are chosen by variables.
//!
//! | variable | default | meaning |
//! | --- | --- | --- |
//! | `SCALE_RECEIVERS` | 10,100,1000,10000 | numbers of receivers |
//! | `SCALE_LOSS` | 1,5,shared,tree | per cent of independent loss; `shared`: 1 % on a link before everybody; `tree`: 1 % on one link in front of each 100, and 0.1 % on each own |
//! | `SCALE_MB` | 1000 | millions of bytes of content |
//! | `SCALE_FILES` | 100 for each MB | number of files |
//! | `SCALE_RATE` | 100 | the sender's rate in Mbit/s |
//! | `SCALE_SEED` | 1 | seed |
//! | `SCALE_LIMIT` | 3600 | virtual seconds after which a run is given up |
//! | `SCALE_CSV` | - | a file for a line each virtual second |
//! | `SCALE_KEEP` | - | a directory for the rows (`scale.json`; those of other scenarios stay) and a picture of them |
//! | `SCALE_WATCH` | - | if set, the same on stderr |

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "the table is the result")]
#![expect(unsafe_code, reason = "an allocator that counts is one")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::io::Write;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nackcast_common::clock::{Clock, Time};
use nackcast_testbed::sim::scale::{Loss, Meter, Owner, Row, Sample, Scenario, keep_row, run, scale_svg};

static WORKING: AtomicUsize = AtomicUsize::new(0);
static HELD: [AtomicU64; 3] = [AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0)];

/// Puts a word before what it allocates that says whose it is, so that whoever frees it, the right one is credited.
struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The same with room in front, as wide as the alignment asks, and the width.
fn widened(layout: Layout) -> Option<(Layout, usize)> {
    Layout::new::<usize>().extend(layout).ok().map(|(whole, offset)| (whole.pad_to_align(), offset))
}

// SAFETY: every block comes from the system's allocator with `offset` bytes in front of what is given out, in the same
// layout when it is freed; the word is written before and read back from the block's own beginning.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let Some((whole, offset)) = widened(layout) else { return std::ptr::null_mut() };
        // SAFETY: `whole` is not empty.
        let block = unsafe { System.alloc(whole) };
        if block.is_null() {
            return block;
        }
        let owner = WORKING.load(Relaxed);
        HELD[owner].fetch_add(layout.size() as u64, Relaxed);
        // SAFETY: `whole` begins with a word and is larger than `offset`.
        unsafe {
            block.cast::<usize>().write(owner);
            block.add(offset)
        }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        let Some((whole, offset)) = widened(layout) else { return };
        // SAFETY: it was allocated by `alloc` with this layout.
        unsafe {
            let block = pointer.sub(offset);
            HELD[block.cast::<usize>().read()].fetch_sub(layout.size() as u64, Relaxed);
            System.dealloc(block, whole);
        }
    }
}

fn switch(owner: Owner) -> Owner {
    match WORKING.swap(owner as usize, Relaxed) {
        1 => Owner::Sender,
        2 => Owner::Receivers,
        _ => Owner::Model,
    }
}

fn held(owner: Owner) -> u64 {
    HELD[owner as usize].load(Relaxed)
}

fn main() -> Result<()> {
    let short = is_test();
    let receivers = text("SCALE_RECEIVERS", if short { "10" } else { "10,100,1000,10000" });
    let losses = text("SCALE_LOSS", if short { "5" } else { "1,5,shared,tree" });
    let bytes = number("SCALE_MB", if short { 5 } else { 1000 })? * 1_000_000;
    let files = u32::try_from(number("SCALE_FILES", bytes / 10_000)?)?;
    let rate = number("SCALE_RATE", 100)? * 1_000_000;
    let (seed, limit) = (number("SCALE_SEED", 1)?, Duration::from_secs(number("SCALE_LIMIT", 3600)?));
    let csv = std::env::var_os("SCALE_CSV").map(std::fs::File::create).transpose()?;
    let mut csv = csv.map(std::io::BufWriter::new);
    if let Some(csv) = &mut csv {
        writeln!(csv, "receivers,loss,{}", SAMPLE_HEAD)?;
    }
    println!("{} MB in {files} files, {} Mbit/s, seed {seed}\n", bytes / 1_000_000, rate / 1_000_000);
    println!("{}", Row::HEAD);
    for loss_name in losses.split(',') {
        for count in receivers.split(',') {
            let receivers: u32 = count.parse().with_context(|| format!("SCALE_RECEIVERS: {count} is no number"))?;
            let loss = loss(loss_name, receivers)?;
            let scenario = Scenario { receivers, bytes, files, loss, rate, seed, limit };
            let clock = Clock::start();
            let mut failed = None;
            let outcome = run(&scenario, &Meter { switch, held }, &mut |sample| {
                if std::env::var_os("SCALE_WATCH").is_some() {
                    eprintln!("{receivers},{loss_name},{}", sample_line(sample));
                }
                if let Some(csv) = &mut csv
                    && let Err(error) = writeln!(csv, "{receivers},{loss_name},{}", sample_line(sample))
                {
                    failed = Some(error);
                }
            })?;
            failed.map_or(Ok(()), Err).context("cannot write SCALE_CSV")?;
            let row = Row::new(loss_name, &scenario, &outcome, clock.now().since(Time::ZERO).as_secs_f64());
            println!("{}", row.line());
            if let Some(directory) = std::env::var_os("SCALE_KEEP").map(std::path::PathBuf::from) {
                let rows = keep_row(&directory.join("scale.json"), row)?;
                std::fs::write(directory.join("scale.svg"), scale_svg(&rows)?).context("cannot write the picture")?;
            }
        }
    }
    Ok(())
}

/// A run by `cargo test`, or with `--test`, only shows that it still works.
fn is_test() -> bool {
    let has = |wanted: &str| std::env::args().any(|argument| argument == wanted);
    has("--test") || !has("--bench")
}

fn text(name: &str, default: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| default.to_owned())
}

fn number(name: &str, default: u64) -> Result<u64> {
    let value =
        std::env::var(name).ok().map(|text| text.parse().with_context(|| format!("{name}={text} is no number")));
    value.unwrap_or(Ok(default))
}

fn loss(name: &str, receivers: u32) -> Result<Loss> {
    Ok(match name {
        "shared" => Loss::behind(1, 0.01, 0.0),
        "tree" => Loss::behind(receivers.div_ceil(100), 0.01, 0.001),
        _ => match name.parse::<f64>() {
            Ok(percent) => Loss::independent(percent / 100.0),
            Err(_) => bail!("SCALE_LOSS: {name} is neither `shared`, `tree` nor a number of per cent"),
        },
    })
}

const SAMPLE_HEAD: &str =
    "second,symbols,nacks,dropped,holding,complete,group_size,window_ms,jobs,pool,receiver_bytes,open_blocks";

fn sample_line(s: &Sample) -> String {
    let window = s.window.as_secs_f64() * 1000.0;
    format!(
        "{:.1},{},{},{},{},{},{},{window:.0},{},{},{},{:.2}",
        s.at.as_secs_f64(),
        s.symbols,
        s.nacks,
        s.dropped,
        s.holding,
        s.complete,
        s.group_size,
        s.jobs,
        s.pool,
        s.receiver_bytes,
        s.open_blocks
    )
}
