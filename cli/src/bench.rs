//! `nackcast bench`: how fast, at what cost, and what holds it back.
//!
//! A side (`--send`, `--receive`) is the ordinary node, on content that is made up, with its means measured around it
//! ([`side`]). Without these options, sender and receivers run as processes of this same program in a network on this
//! machine ([`here`]), and their reports are put together. In the same run plain datagrams show what the network would
//! carry with nobody doing any work ([`raw`]).

mod bottleneck;
mod content;
mod here;
mod means;
mod outcome;
mod raw;
mod side;

use std::path::{Path, PathBuf};

use crate::App;
use crate::args::BenchArgs;
use crate::failure::{Failure, OrFail};

/// Content is not to wait for a disk, unless that is wanted.
const MEMORY: &str = "/dev/shm";

/// Runs the command.
pub(crate) fn run(args: &BenchArgs, app: &App) -> Result<(), Failure> {
    if args.size.0 < args.files.into() {
        return Err(Failure::usage("--size, --files: a file has at least one byte"));
    }
    match (&args.send, &args.receive) {
        (Some(key), _) => side::send(key, args, app),
        (None, Some(ticket)) => side::receive(ticket, args, app),
        (None, None) => here::run(args, app),
    }
}

/// A directory for one run, gone when it is dropped.
fn place(args: &BenchArgs) -> Result<tempfile::TempDir, Failure> {
    let parent = match &args.dir {
        Some(given) => given.clone(),
        None if Path::new(MEMORY).is_dir() => MEMORY.into(),
        None => std::env::temp_dir(),
    };
    let made = tempfile::Builder::new().prefix("nackcast-bench-").tempdir_in(&parent);
    made.or_usage(format_args!("--dir {}: no directory can be made there", parent.display()))
}

/// Content that is there `copies` times, and state beside it, must fit.
fn check_room(place: &Path, bytes: u64, copies: u64) -> Result<(), Failure> {
    let needed = bytes.saturating_mul(copies).saturating_add(bytes / 4).saturating_add(64 << 20);
    let free = rustix::fs::statvfs(place).or_running(place.display())?;
    let free = free.f_bavail.saturating_mul(free.f_frsize);
    if free < needed {
        let shown = |bytes| nackcast_common::units::ByteCount(bytes);
        let parent = place.parent().unwrap_or(place).display();
        return Err(Failure::usage(format_args!(
            "{} are needed in {parent}, where {} are free: give less --size or fewer --receivers, or another --dir",
            shown(needed),
            shown(free)
        )));
    }
    Ok(())
}

/// What lies in a run's directory.
fn below(place: &Path, name: &str) -> PathBuf {
    place.join(name)
}
