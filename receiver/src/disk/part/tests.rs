use nackcast_common::files::linux;
use nackcast_common::geometry::Geometry;
use nackcast_common::ids::Digest;
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

const ID: ObjectId = ObjectId(0xabcd);

fn layout() -> Layout {
    // Blocks of 1,024 bytes in symbols of 100: K = 11, the last block has 1 symbol of 17 bytes.
    Geometry::new(100, 1024, 1).unwrap().object(4 * 1024 + 17).unwrap()
}

fn bytes_of(layout: &Layout) -> Vec<u8> {
    (0..layout.size()).map(|i| u8::try_from(i * 31 % 251).unwrap() | 1).collect()
}

fn block(bytes: &[u8], block: u32) -> &[u8] {
    let start = block as usize * 1024;
    &bytes[start..bytes.len().min(start + 1024)]
}

fn symbol(bytes: &[u8], of: u32, esi: u16) -> &[u8] {
    &block(bytes, of)[layout().symbol_range(of, esi)]
}

fn open(directory: &std::path::Path) -> (PartStore, Survivors) {
    PartStore::open(&TargetDir::open(linux(), directory).unwrap()).unwrap()
}

/// What a crash at this moment would leave (the page cache counts as durable).
fn crash(directory: &TempDir) -> TempDir {
    let copy = tempfile::tempdir().unwrap();
    let part = directory.path().join(PART_DIRECTORY);
    std::fs::create_dir(copy.path().join(PART_DIRECTORY)).unwrap();
    for file in std::fs::read_dir(part).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), copy.path().join(PART_DIRECTORY).join(file.file_name())).unwrap();
    }
    copy
}

/// Every claim of the store about the object is true of `bytes` and of the repair symbols.
fn assert_claims_are_true(store: &PartStore, bytes: &[u8]) {
    let state = store.state(ID).unwrap();
    for verified in state.verified.iter() {
        assert_eq!(store.read_block(ID, verified).unwrap(), block(bytes, verified));
    }
    for (of, open) in &state.open {
        let held = store.load_symbols(ID, *of).unwrap();
        assert_eq!(held.source, open.source);
        for esi in held.source.ones().map(|esi| u16::try_from(esi).unwrap()) {
            let range = layout().symbol_range(*of, esi);
            assert_eq!(&held.bytes[range], symbol(bytes, *of, esi), "block {of} symbol {esi}");
        }
        for (esi, symbol) in held.repair {
            assert_eq!(symbol, repair_symbol(*of, esi), "block {of} repair {esi}");
        }
    }
}

fn repair_symbol(of: u32, esi: u16) -> Vec<u8> {
    Digest::of(&[&of.to_be_bytes()[..], &esi.to_be_bytes()].concat()).0.iter().copied().cycle().take(100).collect()
}

#[test]
fn an_object_survives_a_restart_as_far_as_it_was_recorded() {
    let directory = tempfile::tempdir().unwrap();
    let bytes = bytes_of(&layout());
    let (store, survivors) = open(directory.path());
    assert!(survivors.objects.is_empty());
    store.create(layout(), ID).unwrap();
    store.write_block(ID, 1, block(&bytes, 1)).unwrap();
    let repair = repair_symbol(2, 40);
    let symbols = [(3, symbol(&bytes, 2, 3)), (10, symbol(&bytes, 2, 10)), (40, &repair[..])];
    let kept = store.write_symbols(ID, 2, symbols).unwrap();
    assert_eq!(kept, Kept { source: 2, repair: 1, dropped: 0 });
    assert_eq!(store.write_symbols(ID, 2, symbols).unwrap(), Kept { source: 0, repair: 0, dropped: 3 });
    let unrecorded = crash(&directory);
    store.record(ID).unwrap();
    store.write_block(ID, 3, block(&bytes, 3)).unwrap();
    let before = store.state(ID).unwrap();
    drop(store);

    let (store, survivors) = open(directory.path());
    assert!(survivors.warnings.is_empty());
    let [state] = survivors.objects.try_into().unwrap();
    assert_eq!(state.layout, layout());
    assert_eq!(state.verified.iter().collect::<Vec<_>>(), [1], "block 3 was not recorded");
    assert_eq!(state.open, before.open);
    assert_claims_are_true(&store, &bytes);
    assert_eq!(store.create(layout(), ID).unwrap(), state, "creating it again goes on");

    let (store, survivors) = open(unrecorded.path());
    assert!(survivors.objects.is_empty() && survivors.warnings.is_empty() && store.is_empty());
    assert!(!unrecorded.path().join(PART_DIRECTORY).exists(), "what claims nothing is removed");
}

#[test]
fn a_complete_object_is_handed_out_and_its_files_go() {
    let directory = tempfile::tempdir().unwrap();
    let bytes = bytes_of(&layout());
    let (store, _) = open(directory.path());
    store.create(layout(), ID).unwrap();
    for b in 0..4 {
        store.write_block(ID, b, block(&bytes, b)).unwrap();
    }
    assert_eq!(store.finish(ID).unwrap_err(), PartError::Incomplete { id: ID, missing: 1 });
    store.write_block(ID, 4, block(&bytes, 4)).unwrap();
    let finished = store.finish(ID).unwrap();
    assert_eq!(finished.file.read_to_end(u64::MAX).unwrap(), bytes);
    store.record(ID).unwrap();
    store.remove(ID).unwrap();
    assert!(store.is_empty());
    assert!(TargetDir::open(linux(), directory.path()).unwrap().remove_part_directory().unwrap());
}

type Damage = fn(&std::path::Path);

#[test]
fn an_object_that_is_being_installed_does_not_cost_the_others_their_record() {
    let directory = tempfile::tempdir().unwrap();
    let bytes = bytes_of(&layout());
    let (store, _) = open(directory.path());
    let other = ObjectId(0x77);
    for id in [ID, other] {
        store.create(layout(), id).unwrap();
        for of in 0..5 {
            store.write_block(id, of, block(&bytes, of)).unwrap();
        }
    }
    // The installer renames the data file away while a checkpoint that knows of it is still to come.
    store.finish(other).unwrap();
    std::fs::remove_file(directory.path().join(PART_DIRECTORY).join(format!("{other}.data"))).unwrap();
    store.sync(&[ID, other]).unwrap();
    assert_eq!(store.state(ID).unwrap().verified.count(), 5);
    let (store, survivors) = {
        drop(store);
        open(directory.path())
    };
    assert_eq!(survivors.objects.iter().map(|o| o.id).collect::<Vec<_>>(), [ID]);
    assert_claims_are_true(&store, &bytes);
}

#[test]
fn damaged_maps_are_discarded_with_their_data() {
    let damage: [(&str, Damage); 4] = [
        ("changed", |part| {
            let map = part.join(name(ID, MAP));
            let mut bytes = std::fs::read(&map).unwrap();
            bytes[20] ^= 1;
            std::fs::write(map, bytes).unwrap();
        }),
        ("cut", |part| std::fs::write(part.join(name(ID, MAP)), b"nack").unwrap()),
        ("short data", |part| std::fs::write(part.join(name(ID, DATA)), b"x").unwrap()),
        ("side file gone", |part| std::fs::remove_file(part.join(name(ID, REPAIR))).unwrap()),
    ];
    for (what, damage) in damage {
        let directory = tempfile::tempdir().unwrap();
        let (store, _) = open(directory.path());
        store.create(layout(), ID).unwrap();
        store.write_symbols(ID, 0, [(20, &repair_symbol(0, 20)[..])]).unwrap();
        store.record(ID).unwrap();
        drop(store);
        damage(&directory.path().join(PART_DIRECTORY));
        let (store, survivors) = open(directory.path());
        assert!(survivors.objects.is_empty(), "{what}");
        assert_eq!(survivors.warnings.len(), 1, "{what}");
        assert!(survivors.warnings[0].to_string().contains("000000000000abcd"), "{what}");
        assert!(!directory.path().join(PART_DIRECTORY).exists(), "{what}");
        store.create(layout(), ID).unwrap();
    }
}

#[test]
fn what_is_not_wanted_is_removed() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = open(directory.path());
    for id in 1..4 {
        store.create(layout(), ObjectId(id)).unwrap();
    }
    store.sync(&[ObjectId(1), ObjectId(2), ObjectId(3), ObjectId(9)]).unwrap();
    assert_eq!(store.retain(|id| id == ObjectId(2)).unwrap(), [ObjectId(1), ObjectId(3)]);
    drop(store);
    let (store, survivors) = open(directory.path());
    assert_eq!(survivors.objects.len(), 1);
    assert_eq!(store.len(), 1);
}

#[test]
fn many_objects_are_recorded_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = open(directory.path());
    let bytes = bytes_of(&layout());
    let ids: Vec<_> = (0..20).map(ObjectId).collect();
    for id in &ids {
        store.create(layout(), *id).unwrap();
        store.write_block(*id, 0, block(&bytes, 0)).unwrap();
    }
    store.sync(&ids).unwrap();
    drop(store);
    let (_store, survivors) = open(directory.path());
    assert_eq!(survivors.objects.len(), 20);
    assert!(survivors.objects.iter().all(|o| o.verified.contains(0)));
}

#[test]
fn bytes_that_do_not_fit_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = open(directory.path());
    assert_eq!(store.write_block(ID, 0, &[1]).unwrap_err(), PartError::Unknown(ID));
    store.create(layout(), ID).unwrap();
    for (of, length) in [(0, 1023), (0, 1025), (0, 0), (4, 16), (5, 0), (5, 17)] {
        assert_eq!(store.write_block(ID, of, &vec![1; length]).unwrap_err(), PartError::Misfit { id: ID, block: of });
    }
    for (of, esi, length) in [(0, 0, 99), (0, 0, 101), (0, 11, 99), (4, 0, 16), (5, 0, 100), (0, 11 + 256, 100)] {
        let error = store.write_symbols(ID, of, [(esi, &vec![1; length][..])]).unwrap_err();
        assert_eq!(error, PartError::Misfit { id: ID, block: of }, "esi {esi} length {length}");
    }
    assert_eq!(store.load_symbols(ID, 5).unwrap_err(), PartError::Misfit { id: ID, block: 5 });
    // The last symbol comes with its padding, or without.
    store.write_symbols(ID, 4, [(0, &[7; 100][..])]).unwrap();
    let held = store.load_symbols(ID, 4).unwrap();
    assert_eq!((&held.bytes[..17], &held.bytes[17..]), (&[7; 17][..], &[0; 83][..]));
}

#[test]
fn the_side_file_is_bounded_per_block_and_in_all() {
    let directory = tempfile::tempdir().unwrap();
    let target = TargetDir::open(linux(), directory.path()).unwrap();
    let (store, _) = PartStore::with_repair_bound(&target, 15 * 100).unwrap();
    store.create(layout(), ID).unwrap();
    let symbol = [5; 100];
    let many = || (11..60).map(|esi| (esi, &symbol[..]));
    assert_eq!(store.write_symbols(ID, 0, many()).unwrap().repair, 11, "K of them are enough");
    assert_eq!(store.write_symbols(ID, 1, many()).unwrap().repair, 4, "the bound of all");
    store.discard_symbols(ID, 0).unwrap();
    assert_eq!(store.write_symbols(ID, 1, many()).unwrap().repair, 7);
    store.remove(ID).unwrap();
    assert_eq!(store.repair_bytes.load(Ordering::Relaxed), 0);
}

#[test]
fn zeros_stay_a_hole() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = open(directory.path());
    let layout = Geometry::default().object(4 << 20).unwrap();
    store.create(layout, ID).unwrap();
    store.write_symbols(ID, 3, [(0, &[1; 1400][..])]).unwrap();
    for b in 0..16 {
        store.write_block(ID, b, &vec![0; 256 << 10]).unwrap();
    }
    assert_eq!(store.read_block(ID, 3).unwrap(), vec![0; 256 << 10]);
    let finished = store.finish(ID).unwrap();
    finished.file.sync().unwrap();
    assert!(finished.file.facts().unwrap().stored < 1 << 20);
}

#[test]
fn bytes_that_the_system_lost_are_no_longer_claimed() {
    let directory = tempfile::tempdir().unwrap();
    let bytes = bytes_of(&layout());
    let (store, _) = open(directory.path());
    store.create(layout(), ID).unwrap();
    store.write_symbols(ID, 0, [(20, &repair_symbol(0, 20)[..])]).unwrap();
    store.record(ID).unwrap();
    let recorded = store.state(ID).unwrap();
    store.write_block(ID, 1, block(&bytes, 1)).unwrap();
    store.write_symbols(ID, 0, [(21, &repair_symbol(0, 21)[..])]).unwrap();
    store.fall_back(&store.part(ID).unwrap(), &store.target.part_directory().unwrap());
    assert_eq!(store.state(ID).unwrap(), recorded);
    assert_eq!(store.repair_bytes.load(Ordering::Relaxed), 100);
    assert_claims_are_true(&store, &bytes);
}

#[test]
fn a_crash_between_install_and_removal_is_no_damage() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = open(directory.path());
    store.create(layout(), ID).unwrap();
    store.record(ID).unwrap();
    drop(store);
    let part = directory.path().join(PART_DIRECTORY);
    std::fs::rename(part.join(name(ID, DATA)), directory.path().join("installed")).unwrap();
    std::fs::write(part.join("new.17"), b"a temporary").unwrap();
    let (_store, survivors) = open(directory.path());
    assert!(survivors.objects.is_empty() && survivors.warnings.is_empty());
    assert!(!part.exists());
}

#[derive(Clone, Debug)]
enum Step {
    Block(u32),
    Source(u32, u16),
    Repair(u32, u16),
    Discard(u32),
    Record,
    Crash,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        2 => (0_u32..4).prop_map(Step::Block),
        6 => (0_u32..4, 0_u16..11).prop_map(|(b, e)| Step::Source(b, e)),
        6 => (0_u32..4, 11_u16..30).prop_map(|(b, e)| Step::Repair(b, e)),
        1 => (0_u32..4).prop_map(Step::Discard),
        3 => Just(Step::Record),
        2 => Just(Step::Crash),
    ];
    prop::collection::vec(step, 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    /// Repair slots are given out, freed and given out again; at every crash point the map tells the truth.
    #[test]
    fn no_crash_point_makes_a_map_lie(steps in steps()) {
        let directory = tempfile::tempdir().unwrap();
        let bytes = bytes_of(&layout());
        let (store, _) = open(directory.path());
        store.create(layout(), ID).unwrap();
        let mut recorded = None;
        for step in steps {
            match step {
                Step::Block(b) => store.write_block(ID, b, block(&bytes, b)).unwrap(),
                Step::Source(b, esi) => drop(store.write_symbols(ID, b, [(esi, symbol(&bytes, b, esi))]).unwrap()),
                Step::Repair(b, esi) => {
                    let repair = repair_symbol(b, esi);
                    store.write_symbols(ID, b, [(esi, &repair[..])]).unwrap();
                }
                Step::Discard(b) => store.discard_symbols(ID, b).unwrap(),
                Step::Record => {
                    store.record(ID).unwrap();
                    recorded = store.state(ID);
                }
                Step::Crash => {
                    let copy = crash(&directory);
                    let (after, survivors) = open(copy.path());
                    prop_assert_eq!(survivors.warnings, []);
                    prop_assert_eq!(survivors.objects.first(), recorded.as_ref());
                    if recorded.is_some() {
                        assert_claims_are_true(&after, &bytes);
                    }
                }
            }
            assert_claims_are_true(&store, &bytes);
        }
        let held: usize = store.state(ID).unwrap().open.values().map(|o| o.repair.len()).sum();
        prop_assert_eq!(store.repair_bytes.load(Ordering::Relaxed), held as u64 * 100);
    }
}

/// Root may write anywhere; what runs here may not.
fn as_an_ordinary_user(run: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(|| {
        let mut sets = rustix::thread::capabilities(None).unwrap();
        let all = rustix::thread::CapabilitySet::DAC_OVERRIDE | rustix::thread::CapabilitySet::DAC_READ_SEARCH;
        sets.effective.remove(all);
        rustix::thread::set_capabilities(None, sets).unwrap();
        run();
    });
    thread.join().unwrap();
}

#[test]
fn what_we_may_not_reach_for_a_while_is_not_lost() {
    as_an_ordinary_user(|| {
        let directory = tempfile::tempdir().unwrap();
        let bytes = bytes_of(&layout());
        let (store, _) = open(directory.path());
        store.create(layout(), ID).unwrap();
        store.write_block(ID, 0, block(&bytes, 0)).unwrap();
        store.record(ID).unwrap();
        store.write_block(ID, 1, block(&bytes, 1)).unwrap();
        store.try_room().unwrap();
        let set_mode = |mode| {
            let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
            std::fs::set_permissions(directory.path().join(PART_DIRECTORY), mode).unwrap();
        };
        set_mode(0o000);
        store.record(ID).unwrap_err();
        store.try_room().unwrap_err();
        set_mode(0o700);
        assert_eq!(store.state(ID).map(|state| state.verified.count()), Some(2));
        store.record(ID).unwrap();
        assert_eq!(open(crash(&directory).path()).1.objects[0].verified.count(), 2);
    });
}

#[test]
fn a_file_whose_install_was_put_off_can_be_opened_again_by_an_ordinary_user() {
    as_an_ordinary_user(|| {
        let directory = tempfile::tempdir().unwrap();
        let bytes = bytes_of(&layout());
        let (store, _) = open(directory.path());
        store.create(layout(), ID).unwrap();
        for b in 0..5 {
            store.write_block(ID, b, block(&bytes, b)).unwrap();
        }
        for mode in [0o444, 0o000] {
            store.finish(ID).unwrap().file.set_mode(mode).unwrap();
            assert_eq!(store.finish(ID).unwrap().file.read_to_end(u64::MAX).unwrap(), bytes, "{mode:o}");
        }
    });
}
