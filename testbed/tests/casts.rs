//! Casts of senders with roles: what failed once, a sample of seeds, and the same seed twice.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may fail, and says what it found")]

mod seeds;

use nackcast_common::control::Steer;
use nackcast_proto::wire::Role;
use nackcast_testbed::sim::roles::cast::Part;
use nackcast_testbed::sim::roles::{self, Cast, Turn};
use nackcast_testbed::sim::scenario::ContentSpec;

use self::seeds::{on_all, sample};

/// Casts that failed once, and of what. A seed must go on saying what it said then: new turns get dice of their own.
const FAILED_ONCE: [(&str, u64); 2] = [
    ("who held off began beside a sender that goes first", 10_825),
    ("content that could be read again left its sender blind", 8),
];

/// What fails in a cast.
fn failure(cast: &Cast) -> Option<String> {
    let outcome = roles::run(cast);
    outcome.failure.map(|failure| format!("{failure:?}\n{cast:#?}\n{}", outcome.story.join("\n")))
}

#[test]
fn what_failed_once_does_not_fail_again() {
    for (name, seed) in FAILED_ONCE {
        assert_eq!(failure(&Cast::of_seed(seed)), None, "{name}");
    }
}

/// A sample of seeds. `.ci/soak sim` runs many more.
#[test]
fn a_sample_of_casts_finds_nothing() {
    let found = on_all(sample(), false, |seed| failure(&Cast::of_seed(seed)));
    for (seed, failure) in &found {
        println!("cast {seed}: {failure}");
    }
    assert!(found.is_empty(), "replay with `nackcast sim --cast {}`", found[0].0);
}

/// Twice in one process: nothing of a run depends on addresses, threads or what ran before.
#[test]
fn the_same_cast_gives_the_same_trace() {
    let mut hashes = Vec::new();
    for seed in 0..6 {
        let cast = Cast::of_seed(seed);
        let [one, two] = [roles::run(&cast), roles::run(&cast)];
        assert!(one.events > 0);
        assert_eq!((one.hash, one.events, &one.story), (two.hash, two.events, &two.story), "cast {seed}");
        hashes.push(one.hash.to_string());
    }
    hashes.sort();
    hashes.dedup();
    assert_eq!(hashes.len(), 6);
}

/// A primary that an admin stops serves no more, the backup takes over, and gives the service back when the primary may
/// go on.
#[test]
fn a_primary_that_is_told_to_rest_is_stood_in_for() {
    for stop in [Steer::Pause, Steer::Drain] {
        let part = |role| Part { role, rank: 0, start_ms: 0 };
        let cast = Cast {
            parts: vec![part(Role::Primary), part(Role::Backup)],
            // Too much to be sent before.
            content: ContentSpec { large_files: 8, large_bytes: 2_000_000, ..ContentSpec::default() },
            rate_bps: 1_000_000,
            drain_limit_ms: 300,
            turns: vec![(2_000, Turn::Steer(0, stop)), (30_000, Turn::Steer(0, Steer::Resume))],
            heal_at_ms: 60_000,
            ..Cast::of_seed(1)
        };
        let outcome = roles::run(&cast);
        assert_eq!(outcome.failure, None, "{:#?}", outcome.story);
        let at = |what: &str| outcome.story.iter().position(|line| line.contains(what));
        let begins = |sender: u32| {
            let is_so = |line: &&String| line.contains(&format!("sender {sender}:")) && line.contains("-> Active");
            outcome
                .story
                .iter()
                .enumerate()
                .filter(move |(_, line)| is_so(line))
                .map(|(nth, _)| nth)
                .collect::<Vec<_>>()
        };
        let (stopped, resumed) = (at("Steer(0, ").unwrap(), at("Steer(0, Resume)").unwrap());
        let story = &outcome.story;
        assert!(begins(1).iter().any(|nth| (stopped..resumed).contains(nth)), "{stop:?}: {story:#?}");
        assert!(begins(0).iter().any(|nth| *nth > resumed), "{stop:?}: {story:#?}");
        assert!(!begins(0).iter().any(|nth| (stopped..resumed).contains(nth)), "{stop:?}: {story:#?}");
    }
}

/// What no seed draws, no oracle ever sees.
#[test]
fn seeds_draw_commands_of_admins() {
    let turns: Vec<_> = (0..100).flat_map(|seed| Cast::of_seed(seed).turns).map(|(_, turn)| turn).collect();
    for steer in [Steer::Pause, Steer::Drain, Steer::Resume] {
        assert!(turns.iter().any(|turn| matches!(turn, Turn::Steer(_, one) if *one == steer)), "{steer:?}");
    }
}
