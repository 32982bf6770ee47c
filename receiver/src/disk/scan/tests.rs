use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};

use nackcast_common::files::linux;
use nackcast_common::manifest::Mtime;

use super::*;
use crate::disk::install::Policy;
use crate::disk::testing::{BLOCK, Built, Dataset, MTIME, Place, chaining_values, path, set_mtime};

type Stamps = HashMap<DatasetPath, FileStamp>;

fn compare(place: &Place, built: &Built, depth: Depth, stamps: &Stamps) -> (Comparison, u64) {
    let progress = Progress::default();
    let options = Options {
        depth,
        mode_mask: 0o777,
        known: &|path| stamps.get(path).copied(),
        chaining: &|_| None,
        make_chaining: false,
        progress: &progress,
    };
    let comparison = scan(&place.target, &built.manifest, options).unwrap();
    (comparison, progress.bytes.load(Ordering::Relaxed))
}

/// The status of every entry that is not as it should be.
fn findings(built: &Built, comparison: &Comparison) -> Vec<(String, Status)> {
    let all = built.manifest.entries().iter().zip(&comparison.entries);
    all.filter(|(_, s)| **s != Status::Same).map(|(e, s)| (e.path.to_string(), *s)).collect()
}

fn stamps_of(built: &Built, comparison: &Comparison) -> Stamps {
    comparison.stamps.iter().map(|(i, s)| (built.manifest.entries()[*i].path.clone(), *s)).collect()
}

fn big() -> Vec<u8> {
    (0..6 * 1024 + 500_u32).map(|i| (i / 7).to_le_bytes()[0]).collect()
}

fn sample() -> Built {
    Dataset::default()
        .file(b"big", &big(), 0o644)
        .slice(b"d/small", b"small", 0o600)
        .slice(b"d/\xff", b"other", 0o644)
        .file(b"empty", b"", 0o644)
        .directory(b"dir", 0o755)
        .symlink(b"link", b"big")
        .build()
}

/// Writes and sets the time back, as damage below the file system would look.
fn flip(place: &Place, name: &str, offset: u64) {
    let file = File::options().write(true).read(true).open(place.path().join(name)).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 1], offset).unwrap();
    set_mtime(&file, MTIME);
}

#[test]
fn what_was_installed_is_the_same_and_then_costs_no_reading() {
    let (place, built) = (Place::new(), sample());
    place.install(&built, Policy::default());
    let (adopted, read) = compare(&place, &built, Depth::Quick, &Stamps::new());
    assert_eq!(findings(&built, &adopted), []);
    assert!(adopted.is_complete() && adopted.extra.is_empty());
    assert!(read > 6000);
    let stamps = stamps_of(&built, &adopted);
    assert_eq!(stamps.len(), 4);
    let (again, read) = compare(&place, &built, Depth::Quick, &stamps);
    assert!(again.is_complete() && again.stamps.is_empty());
    assert_eq!(read, 0, "stamps make reading needless");
    let (deep, read) = compare(&place, &built, Depth::Deep, &stamps);
    assert!(deep.is_complete() && deep.stamps.is_empty());
    assert!(read > 6000);
}

#[test]
fn both_depths_find_what_a_stamp_shows() {
    let (place, built) = (Place::new(), sample());
    place.install(&built, Policy::default());
    let stamps = stamps_of(&built, &compare(&place, &built, Depth::Quick, &Stamps::new()).0);
    let at = |name: &str| place.path().join(name);
    flip(&place, "big", 2 * BLOCK as u64 + 5);
    File::options().write(true).open(at("d/small")).unwrap().set_len(3).unwrap();
    std::fs::remove_file(at("empty")).unwrap();
    std::fs::remove_dir(at("dir")).unwrap();
    symlink("/etc", at("dir")).unwrap();
    std::fs::remove_file(at("link")).unwrap();
    symlink("elsewhere", at("link")).unwrap();
    std::fs::create_dir_all(at("extra/inner")).unwrap();
    std::fs::write(at("d/more"), b"").unwrap();
    for depth in [Depth::Quick, Depth::Deep] {
        let (comparison, _) = compare(&place, &built, depth, &stamps);
        let expected = [
            ("big", Status::Differs(Difference::Content)),
            ("d/small", Status::Differs(Difference::Size(3))),
            ("dir", Status::Differs(Difference::Kind(Kind::Symlink))),
            ("empty", Status::Missing),
            ("link", Status::Differs(Difference::LinkTarget)),
        ];
        assert_eq!(findings(&built, &comparison), expected.map(|(p, s)| (p.to_owned(), s)), "{depth:?}");
        let extra: Vec<_> = comparison.extra.iter().map(|e| (e.path.as_slice(), e.kind, e.in_the_way)).collect();
        assert_eq!(extra, [(&b"d/more"[..], Kind::File, false), (b"extra", Kind::Directory, false)]);
    }
}

#[test]
fn a_deep_scan_names_the_damaged_blocks_only() {
    let (place, built) = (Place::new(), sample());
    place.install(&built, Policy::default());
    flip(&place, "big", 2 * BLOCK as u64 + 5);
    flip(&place, "big", 6 * BLOCK as u64);
    let (comparison, _) = compare(&place, &built, Depth::Deep, &Stamps::new());
    let [(index, sound)] = comparison.sound_blocks.into_iter().collect::<Vec<_>>().try_into().unwrap();
    assert_eq!(built.manifest.object(index).unwrap().digest, Digest::of(&big()));
    assert_eq!(sound.iter().collect::<Vec<_>>(), [0, 1, 3, 4, 5]);
    // Cut in the middle of block 4, and one byte too long.
    let file = File::options().write(true).open(place.path().join("big")).unwrap();
    file.set_len(4 * BLOCK as u64 + 100).unwrap();
    let (comparison, _) = compare(&place, &built, Depth::Deep, &Stamps::new());
    assert_eq!(comparison.sound_blocks[&index].iter().collect::<Vec<_>>(), [0, 1, 3]);
    std::fs::write(place.path().join("big"), [big(), vec![1]].concat()).unwrap();
    let (comparison, _) = compare(&place, &built, Depth::Deep, &Stamps::new());
    assert_eq!(comparison.sound_blocks[&index].count(), 7);
    assert_eq!(findings(&built, &comparison)[0].1, Status::Differs(Difference::Size(big().len() as u64 + 1)));
}

#[test]
fn chaining_values_are_asked_for_and_those_of_another_object_not_believed() {
    let bytes: Vec<u8> = (0..20 * 1024 + 1_u32).map(|i| (i / 5).to_le_bytes()[0]).collect();
    let (place, built) = (Place::new(), Dataset::default().file(b"large", &bytes, 0o644).build());
    place.install(&built, Policy::default());
    let deep = |values: Arc<[ChainingValue]>| {
        let progress = Progress::default();
        let options = Options {
            depth: Depth::Deep,
            mode_mask: 0o777,
            known: &|_| None,
            chaining: &|_| Some(Arc::clone(&values)),
            make_chaining: false,
            progress: &progress,
        };
        scan(&place.target, &built.manifest, options).unwrap()
    };
    let (right, wrong) = (chaining_values(&bytes), chaining_values(&vec![7; bytes.len()]));
    assert!(deep(Arc::clone(&right)).is_complete());
    assert!(deep(Arc::clone(&wrong)).is_complete(), "then the whole file is hashed");
    flip(&place, "large", 9 * BLOCK as u64);
    let found = deep(right);
    assert_eq!(found.entries, [Status::Differs(Difference::Content)]);
    let sound = found.sound_blocks.values().next().unwrap();
    assert_eq!((0..21).filter(|b| !sound.contains(*b)).collect::<Vec<_>>(), [9]);
    assert!(deep(wrong).sound_blocks.is_empty());
}

#[test]
fn chaining_values_that_are_not_at_hand_are_made_from_sound_files() {
    let bytes: Vec<u8> = (0..20 * 1024 + 1_u32).map(|i| (i / 5).to_le_bytes()[0]).collect();
    let (place, built) = (Place::new(), Dataset::default().file(b"large", &bytes, 0o644).build());
    place.install(&built, Policy::default());
    let stamps = stamps_of(&built, &compare(&place, &built, Depth::Quick, &Stamps::new()).0);
    let made = |depth, at_hand: bool| {
        let progress = Progress::default();
        let options = Options {
            depth,
            mode_mask: 0o777,
            known: &|path| stamps.get(path).copied(),
            chaining: &|_| at_hand.then(|| chaining_values(&bytes)),
            make_chaining: true,
            progress: &progress,
        };
        let found = scan(&place.target, &built.manifest, options).unwrap();
        (found.is_complete(), found.chaining.into_values().next(), progress.bytes.into_inner())
    };
    let (size, values) = (bytes.len() as u64, chaining_values(&bytes));
    assert_eq!(made(Depth::Quick, false), (true, Some(Arc::clone(&values)), size), "though its stamp is known");
    assert_eq!(made(Depth::Deep, false), (true, Some(values), size));
    assert_eq!(made(Depth::Quick, true), (true, None, 0));
    flip(&place, "large", 9 * BLOCK as u64);
    assert_eq!(made(Depth::Deep, false), (false, None, size));
}

#[test]
fn mode_and_time_alone_need_no_data() {
    let (place, built) = (Place::new(), sample());
    place.install(&built, Policy::default());
    let old = stamps_of(&built, &compare(&place, &built, Depth::Quick, &Stamps::new()).0);
    let at = |name: &str| place.path().join(name);
    std::fs::set_permissions(at("d/small"), std::fs::Permissions::from_mode(0o640)).unwrap();
    let big_file = File::options().write(true).open(at("big")).unwrap();
    set_mtime(&big_file, Mtime { seconds: -5, nanos: 1 });
    std::fs::set_permissions(at("dir"), std::fs::Permissions::from_mode(0o700)).unwrap();
    let (comparison, _) = compare(&place, &built, Depth::Quick, &old);
    let expected = ["big", "d/small", "dir"].map(|p| (p.to_owned(), Status::MetadataDiffers));
    assert_eq!(findings(&built, &comparison), expected);
    assert_eq!(comparison.stamps.len(), 2, "what is to be fixed has a stamp");
    let mut installer = place.installer(Policy::default());
    for (index, stamp) in &comparison.stamps {
        installer.fix_metadata(&built.manifest.entries()[*index], Some(stamp)).unwrap();
    }
    installer.finish_directories(&built.manifest).unwrap();
    assert!(compare(&place, &built, Depth::Quick, &Stamps::new()).0.is_complete());
}

#[test]
fn a_stamp_of_a_former_generation_is_not_believed() {
    let (place, first) = (Place::new(), Dataset::default().file(b"a", b"old", 0o644).build());
    place.install(&first, Policy::default());
    let stamps = stamps_of(&first, &compare(&place, &first, Depth::Quick, &Stamps::new()).0);
    let second = Dataset::default().file(b"a", b"new", 0o644).build();
    let (comparison, _) = compare(&place, &second, Depth::Quick, &stamps);
    assert_eq!(comparison.entries, [Status::Differs(Difference::Content)]);
}

#[test]
fn what_is_in_the_way_of_entries_is_named() {
    let place = Place::new();
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("x"), b"x").unwrap();
    symlink(outside.path(), place.path().join("d")).unwrap();
    std::fs::write(place.path().join("f"), b"").unwrap();
    let built =
        Dataset::default().file(b"d-1", b"x", 0o644).file(b"d/x", b"x", 0o644).file(b"f/y", b"y", 0o644).build();
    let (comparison, _) = compare(&place, &built, Depth::Deep, &Stamps::new());
    assert_eq!(comparison.entries, [Status::Missing; 3], "nothing is read through a link");
    let extra: Vec<_> = comparison.extra.iter().map(|e| (e.path.as_slice(), e.kind, e.in_the_way)).collect();
    assert_eq!(extra, [(&b"d"[..], Kind::Symlink, true), (b"f", Kind::File, true)]);
}

#[test]
fn unreadable_things_are_told_from_missing_ones() {
    std::thread::spawn(|| {
        let mut sets = rustix::thread::capabilities(None).unwrap();
        let all = rustix::thread::CapabilitySet::DAC_OVERRIDE | rustix::thread::CapabilitySet::DAC_READ_SEARCH;
        sets.effective.remove(all);
        let (place, built) = (Place::new(), sample());
        place.install(&built, Policy::default());
        let mode = |name: &str, mode| {
            let permissions = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(place.path().join(name), permissions).unwrap();
        };
        mode("big", 0o000);
        mode("d", 0o000);
        // Rayon's threads have their own rights: a pool of one that gives them up.
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(1)
            .start_handler(move |_| rustix::thread::set_capabilities(None, sets).unwrap())
            .build()
            .unwrap();
        let (comparison, _) = pool.install(|| compare(&place, &built, Depth::Deep, &Stamps::new()));
        let expected = ["big", "d/small", "d/\\xff"].map(|p| (p.to_owned(), Status::Unreadable(Errno::ACCESS)));
        assert_eq!(findings(&built, &comparison), expected);
        mode("d", 0o755);
    })
    .join()
    .unwrap();
}

#[test]
fn a_scan_can_be_ended() {
    let (place, built) = (Place::new(), sample());
    place.install(&built, Policy::default());
    let progress = Progress::default();
    progress.cancel.store(true, Ordering::Relaxed);
    let options = Options {
        depth: Depth::Deep,
        mode_mask: 0o777,
        known: &|_| None,
        chaining: &|_| None,
        make_chaining: false,
        progress: &progress,
    };
    assert_eq!(scan(&place.target, &built.manifest, options).unwrap_err(), ScanError::Cancelled);
}

#[test]
fn large_files_are_hashed_by_subtrees() {
    let directory = tempfile::tempdir().unwrap();
    for size in [0, 1, 1 << 20, (1 << 20) + 1, (5 << 20) - 3] {
        let bytes: Vec<u8> = (0..size).map(|i: u32| (i / 3).to_le_bytes()[0]).collect();
        std::fs::write(directory.path().join("f"), &bytes).unwrap();
        let file = linux().open_directory(directory.path()).unwrap().open(b"f", How::Read).unwrap();
        for parallel in [true, false] {
            let hashing = Hashing { file: &file, parallel, progress: &Progress::default() };
            assert_eq!(hashing.digest(size.into()).unwrap(), Digest::of(&bytes), "size {size}");
        }
    }
}

#[test]
fn a_damaged_file_seeds_its_own_repair() {
    use crate::disk::seed::{BlockCheck, seed};
    let (place, built) = (Place::new(), sample());
    place.install(&built, Policy::default());
    flip(&place, "big", 3 * BLOCK as u64);
    let local = place.target.open_file(&path(b"big")).unwrap();
    let bytes = big();
    let object = built.manifest.objects().iter().find(|o| o.digest == Digest::of(&bytes)).unwrap();
    let values = chaining_values(&bytes);
    let check = BlockCheck::Chaining(&values);
    let held = seed(&place.store, object.id, object.layout, check, &local).unwrap();
    assert_eq!(held.iter().collect::<Vec<_>>(), [0, 1, 2, 4, 5, 6]);
    assert_eq!(place.store.read_block(object.id, 6).unwrap(), bytes[6 * BLOCK..]);
    // An object of one block, and a file that is shorter than it.
    let layout = crate::disk::testing::geometry().object(5).unwrap();
    let small = place.target.open_file(&path(b"d/small")).unwrap();
    let digest = Digest::of(b"small");
    let id = nackcast_common::ids::ObjectId(1);
    assert_eq!(seed(&place.store, id, layout, BlockCheck::Digest(&digest), &small).unwrap().count(), 1);
    let empty = place.target.open_file(&path(b"empty")).unwrap();
    let id = nackcast_common::ids::ObjectId(2);
    assert!(seed(&place.store, id, layout, BlockCheck::Digest(&digest), &empty).unwrap().is_empty());
}

#[test]
fn a_quick_scan_of_many_files_takes_this_long() {
    let place = Place::in_memory();
    let mut dataset = Dataset::default();
    for directory in 0..100 {
        std::fs::create_dir(place.path().join(format!("{directory:03}"))).unwrap();
        for file in 0..1000 {
            let name = format!("{directory:03}/{file:04}");
            let open = File::create(place.path().join(&name)).unwrap();
            set_mtime(&open, MTIME);
            dataset = dataset.file(name, b"", 0o644);
        }
    }
    let built = dataset.build();
    let start = nackcast_common::clock::Clock::start();
    let (first, _) = compare(&place, &built, Depth::Quick, &Stamps::new());
    let stamps = stamps_of(&built, &first);
    println!("100,000 files without stamps: {:?}", start.now());
    let start = nackcast_common::clock::Clock::start();
    let (second, _) = compare(&place, &built, Depth::Quick, &stamps);
    println!("100,000 files with stamps: {:?}", start.now());
    assert!(second.is_complete() || second.entries.iter().all(|s| *s != Status::Missing));
}
