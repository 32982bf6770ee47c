//! Every fuzz target on its corpus, as a plain test: no nightly compiler, no libFuzzer, no build of its own. What a
//! target says by its panic, it says here too.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

type Target = (&'static str, fn(&[u8]));

macro_rules! targets {
    ($($name:literal => $entry:path),* $(,)?) => {
        /// Name and entry point, as `fuzz_targets/NAME.rs` says.
        const TARGETS: &[Target] = &[$(($name, $entry)),*];
        const ENTRIES: &[&str] = &[$(concat!(stringify!($entry), "(input)")),*];
    };
}

targets! {
    "advertisement" => nackcast_proto::fuzz::advertisement,
    "block_counts" => nackcast_proto::fuzz::block_counts,
    "digest" => nackcast_proto::fuzz::digest,
    "hash_cache" => nackcast_sender::fuzz::hash_cache,
    "header" => nackcast_proto::fuzz::header,
    "index_set" => nackcast_proto::fuzz::index_set,
    "manifest_parts" => nackcast_proto::fuzz::manifest_parts,
    "manifest_root" => nackcast_proto::fuzz::manifest_root,
    "nack" => nackcast_proto::fuzz::nack,
    "nack_answer" => nackcast_proto::fuzz::nack_answer,
    "part_map" => nackcast_receiver::fuzz::part_map,
    "probe" => nackcast_proto::fuzz::probe,
    "pull" => nackcast_proto::fuzz::pull,
    "symbol" => nackcast_proto::fuzz::symbol,
    "ticket" => nackcast_proto::fuzz::ticket,
}

fn fuzz() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

fn inputs(target: &str) -> Vec<PathBuf> {
    let corpus = fuzz().join("corpus").join(target);
    let entries = fs::read_dir(&corpus).unwrap_or_else(|error| panic!("{}: {error}", corpus.display()));
    entries.map(|entry| entry.expect("a corpus is read").path()).collect()
}

#[test]
fn every_fuzz_target_holds_on_its_corpus() {
    for (target, entry) in TARGETS {
        let inputs = inputs(target);
        assert!(!inputs.is_empty(), "fuzz target {target} has no corpus: add seeds to testbed/fuzz/corpus/{target}");
        for path in inputs {
            let input = fs::read(&path).unwrap();
            let held = std::panic::catch_unwind(|| entry(&input));
            assert!(held.is_ok(), "{target} fails on {}", path.display());
        }
    }
}

/// Messages change, and seeds that nothing decodes any more search from nowhere.
#[test]
fn the_seeds_are_what_the_code_writes_today() {
    let seeds = [nackcast_proto::fuzz::seeds(), nackcast_receiver::fuzz::seeds(), nackcast_sender::fuzz::seeds()];
    for (target, inputs) in seeds.into_iter().flatten() {
        for (number, input) in inputs.iter().enumerate() {
            let path = fuzz().join("corpus").join(target).join(format!("seed-{number}-valid"));
            let kept = fs::read(&path).unwrap_or_default();
            assert!(kept == *input, "{} is stale: run the example `seeds` of testbed/fuzz", path.display());
        }
    }
}

#[test]
fn every_fuzz_target_is_replayed_here() {
    let sources = fs::read_dir(fuzz().join("fuzz_targets")).unwrap().map(|entry| entry.unwrap().path());
    let files: BTreeSet<_> = sources.map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned()).collect();
    let names: BTreeSet<_> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(files, names, "testbed/fuzz/fuzz_targets and the list in this test");
    for ((name, _), entry) in TARGETS.iter().zip(ENTRIES) {
        let entry: String = entry.split_whitespace().collect();
        let source = fs::read_to_string(fuzz().join("fuzz_targets").join(format!("{name}.rs"))).unwrap();
        assert!(source.contains(&entry), "fuzz_targets/{name}.rs does not call {entry}");
    }
}
