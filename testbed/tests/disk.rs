//! The receiver's own disk code on the model disk, through thousands of power cuts and kills at any call.
//!
//! - Never a wrong byte under a final name.
//! - Never a map that claims what is not there.
//! - What was told to be durable is there after a power cut.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a test may fail, and says what it did")]

mod disk_common {
    pub(crate) mod boots;
    pub(crate) mod content;
}

use std::path::Path;
use std::sync::Arc;

use disk_common::boots::{Life, Mood, live};
use disk_common::content::{Object, generations};
use nackcast_common::files::{Files, How};
use nackcast_receiver::disk::DiskError;
use nackcast_receiver::disk::install::{Installer, Policy, Source};
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

#[test]
fn a_flush_of_everything_tells_of_a_loss_once_and_it_is_not_forgotten() {
    let disk = Disk::new(Settings { seed: 1, capacity: 1 << 20, privileged: false });
    let [dataset, _] = generations();
    let target = TargetDir::open(disk.files(), Path::new("/target")).unwrap();
    let (store, _) = PartStore::open(&target).unwrap();
    let objects: Vec<_> = dataset.objects.values().collect();
    let write = |object: &Object| {
        store.create(object.layout, object.id).unwrap();
        store.write_block(object.id, 0, object.block(0)).unwrap();
    };
    write(objects[0]);
    disk.set_faults(Faults { write_back_error: 1.0, write_back: 1.0, ..Faults::default() });
    while disk.counts().lost == 0 {
        store.write_symbols(objects[0].id, 0, [(0, objects[0].source(0, 0))]).unwrap();
        store.remove(objects[0].id).unwrap();
        write(objects[0]);
    }
    disk.set_faults(Faults::default());
    // It is told while others are recorded, and these are sound.
    objects[1..].iter().for_each(|object| write(object));
    let ids: Vec<_> = objects.iter().map(|object| object.id).collect();
    assert!(ids.len() > 10, "so many that they are flushed at once");
    store.sync(&ids[1..]).unwrap();
    objects[1..].iter().for_each(|object| {
        store.discard_symbols(object.id, 0).unwrap();
        if object.layout.block_count() > 1 {
            store.write_block(object.id, 1, object.block(1)).unwrap();
        }
    });
    store.sync(&ids).unwrap_err();
    assert!(store.state(ids[0]).is_none(), "what was never recorded begins anew");
    assert!(ids[1..].iter().all(|id| store.state(*id).unwrap().verified.contains(0)));
}

#[test]
fn a_name_is_durable_from_the_top_though_a_killed_run_made_what_leads_to_it() {
    let disk = Disk::new(Settings { seed: 1, capacity: 1 << 20, privileged: false });
    let [_, dataset] = generations();
    let target = TargetDir::open(disk.files(), Path::new("/target")).unwrap();
    let (store, _) = PartStore::open(&target).unwrap();
    for path in ["/target/f", "/target/f/g"] {
        disk.make_directory(Path::new(path), 0o755).unwrap();
    }
    let entry = dataset.manifest.entry(b"f/g/h").unwrap();
    let object = dataset.objects.values().find(|o| o.layout.block_count() == 8 && o.layout.size() == 8192).unwrap();
    store.create(object.layout, object.id).unwrap();
    (0..8).for_each(|block| store.write_block(object.id, block, object.block(block)).unwrap());
    let whole = store.finish(object.id).unwrap();
    let mut installer = Installer::new(Arc::clone(&target), Policy::default());
    installer.stage(entry, Source::Object(&whole)).unwrap();
    assert!(installer.commit().unwrap().iter().all(|outcome| outcome.result.is_ok()));
    for seed in 0..50 {
        let directory = disk.crash(seed).open_directory(Path::new("/target/f/g")).unwrap();
        let file = directory.open(b"h", How::Read).unwrap();
        assert_eq!(file.read_to_end(u64::MAX).unwrap(), object.bytes);
        assert_eq!(file.facts().unwrap().links, 1, "to remove another name would change the file's change time");
    }
}
