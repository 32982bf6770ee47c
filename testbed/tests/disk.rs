//! The receiver's own disk code on the model disk, through thousands of power cuts and kills at any call.
//!
//! - Never a wrong byte under a final name.
//! - Never a map that claims what is not there.
//! - What was told to be durable is there after a power cut.

mod disk_common;

use disk_common::boots::{Life, Mood, live};
use nackcast_testbed::sim::disk::Faults;

/// Seeds of each kind of disk; each seed is a life of several boots.
const LIVES: u64 = 250;

fn lives(name: &str, mood: Mood, faults: impl Fn(u64) -> Faults) {
    let mut sum = Life::default();
    for seed in 0..LIVES {
        sum.add(&live(seed, mood, faults(seed)));
    }
    println!("{name}: {sum:?}");
    assert!(sum.cuts > 3 * LIVES, "{sum:?}");
    assert!(sum.installed > LIVES && sum.taken_up > LIVES / 2, "the lives do something: {sum:?}");
}

#[test]
fn an_honest_disk_keeps_every_promise_through_any_power_cut() {
    let faults = |seed: u64| Faults { write_back: if seed.is_multiple_of(2) { 0.3 } else { 0.0 }, ..Faults::default() };
    lives("honest", Mood::Trusting, faults);
}

#[test]
fn lost_write_backs_never_reach_a_final_name_or_a_map() {
    let faults = |seed: u64| Faults {
        write_back: 0.3,
        write_back_error: if seed.is_multiple_of(2) { 0.01 } else { 0.1 },
        ..Faults::default()
    };
    lives("lost write-backs", Mood::Trusting, faults);
}

#[test]
fn failing_calls_of_all_kinds_do_no_harm() {
    let faults = |_| Faults {
        write_back: 0.2,
        write_back_error: 0.01,
        read_error: 0.005,
        write_error: 0.005,
        ..Faults::default()
    };
    lives("failing calls", Mood::Wary, faults);
}
