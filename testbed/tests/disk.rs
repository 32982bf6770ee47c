//! The receiver's own disk code on the model disk, through thousands of power cuts and kills at any call.
//!
//! - Never a wrong byte under a final name.
//! - Never a map that claims what is not there.
//! - What was told to be durable is there after a power cut.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that cannot go on has failed, and says what it did"
)]

#[path = "disk_common/boots.rs"]
mod boots;
#[path = "disk_common/content.rs"]
mod content;

use std::path::Path;

use boots::{Life, Mood, live};
use content::generations;
use nackcast_receiver::disk::DiskError;
use nackcast_receiver::disk::part::{PartError, PartStore};
use nackcast_receiver::disk::target::TargetDir;
use nackcast_testbed::sim::disk::{Disk, Faults, Settings};

/// Seeds of each kind of disk; each seed is a life of several boots.
const LIVES: u64 = 500;

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

#[test]
fn what_one_object_lost_costs_neither_its_record_nor_the_others() {
    let disk = Disk::new(Settings { seed: 1, capacity: 1 << 20, privileged: false });
    let [dataset, _] = generations();
    let target = TargetDir::open(disk.files(), Path::new("/target")).unwrap();
    let (store, _) = PartStore::open(&target).unwrap();
    let [one, two] =
        [0, 1].map(|nth| dataset.objects.values().filter(|o| o.layout.block_count() > 4).nth(nth).unwrap());
    for object in [one, two] {
        store.create(object.layout, object.id).unwrap();
        store.write_block(object.id, 0, object.block(0)).unwrap();
        store.record(object.id).unwrap();
    }
    store.write_block(one.id, 4, one.block(4)).unwrap();
    disk.set_faults(Faults { write_back_error: 1.0, write_back: 1.0, ..Faults::default() });
    while disk.counts().lost == 0 {
        store.write_symbols(one.id, 2, [(0, one.source(2, 0))]).unwrap();
        store.discard_symbols(one.id, 2).unwrap();
    }
    disk.set_faults(Faults::default());
    store.write_block(two.id, 4, two.block(4)).unwrap();
    let error = store.sync(&[one.id, two.id]).unwrap_err();
    assert!(matches!(error, PartError::Disk(DiskError::Lost { .. })), "{error}");
    let verified = |id| store.state(id).unwrap().verified.iter().collect::<Vec<_>>();
    assert_eq!((verified(one.id), verified(two.id)), (vec![0], vec![0, 4]));
    // It goes on from there, and the disk is believed again.
    store.write_block(one.id, 4, one.block(4)).unwrap();
    store.sync(&[one.id, two.id]).unwrap();
    drop((store, target));
    let target = TargetDir::open(disk.crash(7).files(), Path::new("/target")).unwrap();
    let (store, _) = PartStore::open(&target).unwrap();
    for object in [one, two] {
        assert_eq!(store.state(object.id).unwrap().verified.iter().collect::<Vec<_>>(), [0, 4]);
        assert_eq!(store.read_block(object.id, 4).unwrap(), object.block(4));
    }
}
