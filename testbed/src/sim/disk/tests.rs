use rand::SeedableRng;
use rand::rngs::Xoshiro256PlusPlus;

use super::*;

const MANY: u64 = 200;

fn disk() -> Disk {
    Disk::new(Settings { seed: 1, capacity: 1 << 20, privileged: false })
}

fn root(disk: &Disk) -> Handle {
    disk.open_directory(Path::new("/")).unwrap()
}

fn put(directory: &Handle, name: &[u8], bytes: &[u8]) -> Handle {
    let file = directory.open(name, How::WriteOrMake).unwrap();
    file.write_all_at(bytes, 0).unwrap();
    file
}

fn get(directory: &Handle, name: &[u8]) -> Result<Vec<u8>, Errno> {
    directory.open(name, How::Read)?.read_to_end(u64::MAX)
}

/// What stands at a name after each of many crashes of the same moment.
fn after_crashes(disk: &Disk, name: &[u8]) -> Vec<Result<Vec<u8>, Errno>> {
    (0..MANY).map(|seed| get(&root(&disk.crash(seed)), name)).collect()
}

#[test]
fn bytes_come_back_with_holes_and_cuts() {
    let disk = disk();
    let file = root(&disk).open(b"a", How::Make).unwrap();
    file.write_all_at(&[7; 10_000], 3000).unwrap();
    let mut expected = [vec![0; 3000], vec![7; 10_000]].concat();
    assert_eq!(file.read_to_end(u64::MAX).unwrap(), expected);
    let before = disk.used();
    file.punch_hole(4000, 6000).unwrap();
    expected[4000..10_000].fill(0);
    assert_eq!(file.read_to_end(u64::MAX).unwrap(), expected);
    assert_eq!(disk.used(), before - PAGE, "one page lies wholly in the hole");
    file.set_len(3100).unwrap();
    file.set_len(5000).unwrap();
    expected.truncate(5000);
    expected[3100..].fill(0);
    assert_eq!(file.read_to_end(u64::MAX).unwrap(), expected);
    drop(file);
    root(&disk).remove(b"a").unwrap();
    assert_eq!(disk.used(), PAGE, "the root is left");
}

#[test]
fn a_file_lives_as_long_as_it_is_open() {
    let disk = disk();
    let file = root(&disk).open(b"a", How::Make).unwrap();
    file.write_all_at(b"still here", 0).unwrap();
    root(&disk).remove(b"a").unwrap();
    assert_eq!(file.read_to_end(100).unwrap(), b"still here");
    assert_eq!(file.facts().unwrap().links, 0);
    assert!(disk.used() > PAGE);
    drop(file);
    assert_eq!(disk.used(), PAGE);
}

#[test]
fn what_was_synced_survives_and_all_else_may() {
    let disk = disk();
    let directory = root(&disk);
    put(&directory, b"safe", &[1; 9000]).sync().unwrap();
    directory.sync().unwrap();
    put(&directory, b"safe", &[2; 9000]);
    put(&directory, b"unsynced", b"x");
    put(&directory, b"no name", b"x").sync().unwrap();
    let safe = after_crashes(&disk, b"safe");
    assert!(safe.iter().all(|bytes| bytes.as_ref().unwrap().len() == 9000));
    let torn = |bytes: &Vec<u8>| bytes.contains(&1) && bytes.contains(&2);
    assert!(safe.iter().flatten().any(torn), "pages are torn apart");
    assert!(safe.iter().flatten().all(|bytes| bytes.chunks(4096).all(|page| !torn(&page.to_vec()))), "but not within");
    for name in [&b"unsynced"[..], b"no name"] {
        let found = after_crashes(&disk, name);
        assert!(found.contains(&Err(Errno::NOENT)) && found.contains(&Ok(b"x".to_vec())), "{name:?}");
    }
    // A name may come before its bytes, but not if they were synced.
    let found = after_crashes(&disk, b"unsynced");
    assert!(found.contains(&Ok(Vec::new())) && found.contains(&Ok(vec![0])));
    assert!(after_crashes(&disk, b"no name").iter().flatten().all(|bytes| bytes == b"x"));
    assert_eq!(get(&directory, b"safe").unwrap(), [2; 9000], "the running system goes on");
}

#[test]
fn a_rename_is_two_names_and_a_sync_of_the_file_system_is_everything() {
    let disk = disk();
    let directory = root(&disk);
    put(&directory, b"a", b"new").sync().unwrap();
    put(&directory, b"b", b"old").sync().unwrap();
    directory.sync().unwrap();
    directory.rename(b"a", &*directory, b"b").unwrap();
    let shown: BTreeSet<_> = (0..MANY)
        .map(|seed| {
            let after = root(&disk.crash(seed));
            (get(&after, b"a").is_ok(), get(&after, b"b").unwrap())
        })
        .collect();
    assert_eq!(shown.len(), 4);
    directory.sync_file_system().unwrap();
    assert!(after_crashes(&disk, b"b").iter().all(|b| *b == Ok(b"new".to_vec())));
    assert!(after_crashes(&disk, b"a").iter().all(|a| *a == Err(Errno::NOENT)));
}

#[test]
fn a_full_disk_takes_no_more_and_then_goes_on() {
    let disk = disk();
    disk.set_capacity(5 * PAGE);
    let file = root(&disk).open(b"a", How::Make).unwrap();
    assert_eq!(file.write_at(&[1; 20_000], 100).unwrap(), 3 * 4096 - 100, "as much as there is room for");
    assert_eq!(file.write_at(&[1], 3 * PAGE).unwrap_err(), Errno::NOSPC);
    assert_eq!(root(&disk).make_directory(b"d", 0o700).unwrap_err(), Errno::NOSPC);
    file.write_all_at(&[2; 4096], 0).unwrap();
    assert_eq!(root(&disk).free_bytes().unwrap(), 0);
    file.punch_hole(0, PAGE).unwrap();
    file.write_all_at(&[1], 3 * PAGE).unwrap();
}

#[test]
fn a_failed_write_back_is_told_once_and_the_bytes_are_lost() {
    let disk = disk();
    let directory = root(&disk);
    put(&directory, b"a", b"old").sync().unwrap();
    directory.sync().unwrap();
    let file = put(&directory, b"a", b"new");
    disk.set_faults(Faults { write_back_error: 1.0, ..Faults::default() });
    assert_eq!(file.sync().unwrap_err(), Errno::IO);
    disk.set_faults(Faults::default());
    file.sync().unwrap();
    assert!(after_crashes(&disk, b"a").iter().all(|a| *a == Ok(b"old".to_vec())));
    // The file system was told of by nobody yet; a handle opened now is told, and the next one is not.
    assert_eq!(root(&disk).sync_file_system().unwrap_err(), Errno::IO);
    root(&disk).sync_file_system().unwrap();
    assert_eq!(directory.sync_file_system().unwrap_err(), Errno::IO, "it was open when it happened");
}

#[test]
fn whose_a_loss_is_only_the_file_is_told() {
    let disk = disk();
    let file = put(&root(&disk), b"a", b"new");
    disk.set_faults(Faults { write_back_error: 1.0, ..Faults::default() });
    assert!(!disk.has_untold_loss(b"/a"));
    assert_eq!(root(&disk).sync_file_system().unwrap_err(), Errno::IO);
    assert!(disk.has_untold_loss(b"/a"));
    assert_eq!(file.sync().unwrap_err(), Errno::IO);
    assert!(!disk.has_untold_loss(b"/a"));
}

#[test]
fn a_lying_disk_loses_what_it_promised() {
    let disk = disk();
    disk.set_faults(Faults { lying_sync: 1.0, ..Faults::default() });
    let directory = root(&disk);
    put(&directory, b"a", b"x").sync().unwrap();
    directory.sync().unwrap();
    assert!(after_crashes(&disk, b"a").contains(&Err(Errno::NOENT)));
}

#[test]
fn bytes_that_write_themselves_back_may_be_of_any_moment() {
    let shown: BTreeSet<_> = (0..MANY)
        .map(|seed| {
            let disk = Disk::new(Settings { seed, capacity: 1 << 20, privileged: false });
            let directory = root(&disk);
            put(&directory, b"a", b"1").sync().unwrap();
            directory.sync().unwrap();
            disk.set_faults(Faults { write_back: 0.5, ..Faults::default() });
            put(&directory, b"a", b"2");
            put(&directory, b"a", b"3");
            get(&root(&disk.crash(seed)), b"a").unwrap()
        })
        .collect();
    assert_eq!(shown, [b"1".to_vec(), b"2".to_vec(), b"3".to_vec()].into());
}

#[test]
fn bits_rot_at_rest() {
    let disk = disk();
    let directory = root(&disk);
    put(&directory, b"a", &[0; 8192]).sync().unwrap();
    let flipped = disk.rot(&mut Xoshiro256PlusPlus::seed_from_u64(5), 3);
    let bytes = get(&directory, b"a").unwrap();
    assert_eq!(bytes.iter().map(|b| b.count_ones()).sum::<u32>(), 3);
    assert!(flipped.iter().all(|(_, offset)| bytes[usize::try_from(*offset).unwrap()] != 0));
}

#[test]
fn nothing_leads_out_and_modes_count() {
    let disk = disk();
    let directory = root(&disk);
    directory.make_directory(b"d", 0o755).unwrap();
    directory.make_symlink(b"d/../l", b"/").unwrap_err();
    directory.make_symlink(b"l", b"/").unwrap();
    let inner = directory.open(b"d", How::Directory).unwrap();
    for how in [How::Directory, How::Read, How::Write, How::WriteOrMake, How::Make, How::Place] {
        assert_eq!(directory.open(b"l/x", how).unwrap_err(), Errno::LOOP, "{how:?}");
        assert_eq!(inner.open(b"../x", how).unwrap_err(), Errno::XDEV, "{how:?}");
        assert_eq!(inner.open(b"/x", how).unwrap_err(), Errno::XDEV, "{how:?}");
    }
    put(&inner, b"a", b"x").set_mode(0o444).unwrap();
    assert_eq!(inner.open(b"a", How::Write).unwrap_err(), Errno::ACCESS);
    assert_eq!(get(&inner, b"a").unwrap(), b"x");
    directory.open(b"d", How::Place).unwrap().set_mode(0o500).unwrap();
    assert_eq!(inner.remove(b"a").unwrap_err(), Errno::ACCESS);
    assert_eq!(directory.remove_directory(b"d").unwrap_err(), Errno::NOTEMPTY);
}

#[test]
fn a_lock_is_held_until_its_handle_goes() {
    let disk = disk();
    let (first, second) = (root(&disk), root(&disk));
    first.lock().unwrap();
    first.lock().unwrap();
    assert_eq!(second.lock().unwrap_err(), Errno::WOULDBLOCK);
    drop(first);
    second.lock().unwrap();
    root(&disk.crash(0)).lock().unwrap();
}

#[test]
fn without_power_nothing_changes() {
    let disk = disk();
    let directory = root(&disk);
    put(&directory, b"a", b"x");
    disk.stop_after(Some(1));
    directory.make_directory(b"d", 0o700).unwrap();
    assert_eq!(directory.remove(b"a").unwrap_err(), Errno::IO);
    disk.stop_after(None);
    assert_eq!(directory.names().unwrap().len(), 2);
}
