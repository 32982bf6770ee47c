//! Walk, hash and manifest of a directory, against `b3sum` on the same files in the same run.
//!
//! `cargo bench -p nackcast-testbed --bench manifest` makes 100,000 files of 1 to 16 KiB and one of 4 GiB, and runs
//! both programs on each, in alternating order, with nothing cached by us: median times and their ratio.
//!
//! | variable | default | meaning |
//! | --- | --- | --- |
//! | `B3SUM` | `b3sum` | the program (`cargo install b3sum`) |
//! | `BENCH_DIR` | `/dev/shm` | where the files go: a memory file system, so that no disk plays a part |
//! | `BENCH_FILES` | 100000 | how many small files |
//! | `BENCH_BYTES` | 4294967296 | length of the large one |
//! | `BENCH_PAIRS` | 5 | runs of each program |

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "the table is the result")]

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nackcast_common::clock::{Clock, Time};
use nackcast_common::geometry::Geometry;
use nackcast_common::ids::{ChannelId, Epoch, Generation};
use nackcast_common::keys::SigningKey;
use nackcast_sender::library::{Library, LibraryConfig};
use rand::rngs::Xoshiro256PlusPlus;
use rand::{Rng, RngExt, SeedableRng};

fn main() -> Result<()> {
    let b3sum = std::env::var("B3SUM").unwrap_or_else(|_| "b3sum".to_owned());
    if Command::new(&b3sum).arg("--version").stdout(Stdio::null()).status().is_err() {
        eprintln!("manifest bench skipped: no {b3sum}; install it with `cargo install b3sum`, or say where with B3SUM");
        return Ok(());
    }
    let parent = std::env::var("BENCH_DIR").unwrap_or_else(|_| "/dev/shm".to_owned());
    let place = tempfile::Builder::new().prefix("manifest-bench").tempdir_in(&parent);
    let place = place.with_context(|| format!("cannot make a directory in {parent}: set BENCH_DIR"))?;
    // With `--test` a run only shows that it still works.
    let short = std::env::args().any(|argument| argument == "--test");
    let (files, length) = if short { (100, 1 << 20) } else { (100_000, 4 << 30) };
    let (files, length) = (number("BENCH_FILES", files)?, number("BENCH_BYTES", length)?);

    println!("| data | bytes | nackcast | b3sum | nackcast / b3sum |");
    println!("| --- | --: | --: | --: | --: |");
    let small = place.path().join("small");
    let bytes = make_small(&small, files)?;
    let list = format!("find '{}' -type f -print0 | xargs -0 '{b3sum}' > /dev/null", small.display());
    compare(&format!("{files} files of 1 to 16 KiB"), bytes, &small, &["sh", "-c", &list])?;
    fs::remove_dir_all(&small)?;

    let large = place.path().join("large");
    let file = make_large(&large, length)?;
    let path = file.to_str().context("BENCH_DIR is not UTF-8")?;
    compare("one file", length, &large, &[&b3sum, path])
}

fn number(name: &str, default: u64) -> Result<u64> {
    let value =
        std::env::var(name).ok().map(|text| text.parse().with_context(|| format!("{name}={text} is no number")));
    value.unwrap_or(Ok(default))
}

/// Files of 1 to 16 KiB, a hundred in a directory.
fn make_small(root: &Path, files: u64) -> Result<u64> {
    let mut random = Xoshiro256PlusPlus::seed_from_u64(1);
    let mut bytes = vec![0; 16 << 10];
    let mut total = 0;
    for number in 0..files {
        let directory = root.join(format!("{:02}/{:04}", number / 100 % 97, number / 100));
        fs::create_dir_all(&directory)?;
        let length = random.random_range(1 << 10..=bytes.len());
        random.fill_bytes(&mut bytes[..length]);
        fs::write(directory.join(number.to_string()), &bytes[..length])?;
        total += length as u64;
    }
    Ok(total)
}

fn make_large(root: &Path, length: u64) -> Result<PathBuf> {
    fs::create_dir_all(root)?;
    let path = root.join("large");
    let mut file = File::create(&path)?;
    let mut random = Xoshiro256PlusPlus::seed_from_u64(2);
    let mut bytes = vec![0; 1 << 20];
    let mut left = length;
    while left > 0 {
        let now = left.min(bytes.len() as u64);
        random.fill_bytes(&mut bytes);
        file.write_all(&bytes[..usize::try_from(now)?])?;
        left -= now;
    }
    Ok(path)
}

fn compare(name: &str, bytes: u64, root: &Path, command: &[&str]) -> Result<()> {
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    // One pair is not counted: it warms caches and the processor's clock.
    for pair in 0..=number("BENCH_PAIRS", 5)? {
        let first_ours = pair % 2 == 0;
        for ours_now in [first_ours, !first_ours] {
            let time = if ours_now { time_manifest(root, bytes)? } else { time_command(command)? };
            if pair > 0 {
                if ours_now { &mut ours } else { &mut theirs }.push(time);
            }
        }
    }
    let (ours_median, theirs_median) = (median(&mut ours), median(&mut theirs));
    let ratio = ours_median.as_secs_f64() / theirs_median.as_secs_f64();
    let show = |median: Duration, all: &[Duration]| {
        let ends = |time: Option<&Duration>| time.map_or(0.0, Duration::as_secs_f64);
        format!("{:.3} s ({:.3} to {:.3})", median.as_secs_f64(), ends(all.first()), ends(all.last()))
    };
    println!("| {name} | {bytes} | {} | {} | {ratio:.2} |", show(ours_median, &ours), show(theirs_median, &theirs));
    Ok(())
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

/// From the directory's name to a signed manifest, by a sender that has never seen it.
fn time_manifest(root: &Path, bytes: u64) -> Result<Duration> {
    let state = tempfile::tempdir_in(root.parent().unwrap_or(root))?;
    let config = LibraryConfig {
        root: root.to_owned(),
        exclude: Default::default(),
        priorities: Vec::new(),
        geometry: Geometry::default(),
        cache: state.path().join("cache"),
        channel: ChannelId([7; 16]),
        epoch: Epoch(1),
    };
    let key = SigningKey::from_seed([1; 32]);
    let clock = Clock::start();
    let scan = Library::open(config)?.scan(None, Generation(1), &|_| {})?;
    let encoded = nackcast_proto::manifest::encode(scan.content.manifest(), &key)?;
    let time = clock.now().since(Time::ZERO);
    ensure!(scan.problems.is_empty() && !encoded.parts.is_empty(), "not everything was taken along");
    ensure!(scan.hashed_bytes >= bytes, "{} of {bytes} bytes were hashed", scan.hashed_bytes);
    Ok(time)
}

fn time_command(command: &[&str]) -> Result<Duration> {
    let (program, arguments) = command.split_first().context("no command")?;
    let clock = Clock::start();
    let status = Command::new(program).args(arguments).stdout(Stdio::null()).status()?;
    let time = clock.now().since(Time::ZERO);
    ensure!(status.success(), "{program} failed: {status}");
    Ok(time)
}
