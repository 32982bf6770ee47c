//! A file system that runs full: a clear error that names path and need, nothing lost, and it goes on once
//! there is space.
//!
//! Runs on a tiny tmpfs in mount and user namespaces of its own, so it needs no root; where these cannot be
//! made it fails and says so. Not under the test harness: a process that makes a user namespace must have one
//! thread.
#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a test that is its own harness")]

use std::fs;
use std::path::Path;
use std::sync::Arc;

use nackcast_common::files::linux;
use nackcast_common::geometry::{Geometry, Layout};
use nackcast_common::ids::{Digest, ObjectId, ObjectIndex};
use nackcast_common::manifest::{Content, Entry, EntryKind, Mtime};
use nackcast_common::path::DatasetPath;
use nackcast_receiver::disk::DiskError;
use nackcast_receiver::disk::install::{InstallError, Installer, Policy, Source};
use nackcast_receiver::disk::part::{PartError, PartStore};
use nackcast_receiver::disk::target::TargetDir;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

const ID: ObjectId = ObjectId(1);
const SIZE: u64 = 3 << 20;
const NAME: &str = "a_full_disk_loses_nothing_and_goes_on";

fn main() {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    if arguments.iter().any(|a| a == "--list") {
        if !arguments.iter().any(|a| a == "--ignored") {
            println!("{NAME}: test");
        }
        return;
    }
    // As the harness does: other arguments are names of tests, of which one must match.
    let mut names = arguments.iter().filter(|a| !a.starts_with('-')).peekable();
    if names.peek().is_some() && !names.any(|name| NAME.contains(name.as_str())) {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    enter_namespaces();
    mount_tmpfs(directory.path(), "size=2m");
    a_full_disk_loses_nothing_and_goes_on(directory.path());
    nix::mount::umount(directory.path()).unwrap();
    println!("test {NAME} ... ok");
}

fn enter_namespaces() {
    let (user, group) = (nix::unistd::getuid(), nix::unistd::getgid());
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS)
        .expect("this test needs user and mount namespaces (kernel.unprivileged_userns_clone)");
    fs::write("/proc/self/setgroups", "deny").unwrap();
    fs::write("/proc/self/uid_map", format!("0 {user} 1")).unwrap();
    fs::write("/proc/self/gid_map", format!("0 {group} 1")).unwrap();
}

fn mount_tmpfs(at: &Path, options: &str) {
    mount(Some("tmpfs"), at, Some("tmpfs"), MsFlags::empty(), Some(options)).unwrap();
}

fn content() -> Vec<u8> {
    (0..SIZE).map(|i| u8::try_from(i / 11 % 255).unwrap() + 1).collect()
}

fn entry(name: &str) -> Entry {
    let bytes = content();
    let content = Content::Object(ObjectIndex(0));
    let kind = EntryKind::File { size: SIZE, digest: Digest::of(&bytes), content };
    Entry { path: DatasetPath::new(name.as_bytes()).unwrap(), kind, mode: 0o644, mtime: Mtime::default() }
}

/// Writes blocks until it is done or the disk is full; how many are there now.
fn write_blocks(store: &PartStore, layout: Layout, bytes: &[u8]) -> (u64, Result<(), PartError>) {
    let size = layout.geometry().block_size() as usize;
    let result = (0..).zip(bytes.chunks(size)).try_for_each(|(block, bytes)| store.write_block(ID, block, bytes));
    (store.state(ID).unwrap().verified.count(), result)
}

fn a_full_disk_loses_nothing_and_goes_on(directory: &Path) {
    let target = TargetDir::open(linux(), directory).unwrap();
    assert!(target.free_bytes().unwrap() <= 2 << 20);
    let (store, _) = PartStore::open(&target).unwrap();
    let layout = Geometry::default().object(SIZE).unwrap();
    store.create(layout, ID).unwrap();
    let bytes = content();

    let (held, result) = write_blocks(&store, layout, &bytes);
    let Err(PartError::Disk(DiskError::Full { path, needed, .. })) = &result else { panic!("{result:?}") };
    assert!(path.starts_with(directory.to_str().unwrap()) && path.ends_with(".data"), "{path}");
    assert!(*needed >= SIZE - (2 << 20) && *needed < SIZE, "{needed}");
    assert!((1..12).contains(&held), "{held}");

    // Not even the map may find space; the blocks then are still known, and recorded when it does.
    fs::write(directory.join("filler"), vec![1; 4 << 20]).unwrap_err();
    let recorded = store.record(ID);
    assert!(matches!(recorded, Ok(()) | Err(PartError::Disk(DiskError::Full { .. }))), "{recorded:?}");
    assert_eq!(store.state(ID).unwrap().verified.count(), held);
    assert!(matches!(store.try_room(), Err(DiskError::Full { .. })));
    fs::remove_file(directory.join("filler")).unwrap();

    mount(None::<&str>, directory, None::<&str>, MsFlags::MS_REMOUNT, Some("size=4m")).unwrap();
    store.try_room().unwrap();
    store.record(ID).unwrap();
    drop((store, target));
    let target = TargetDir::open(linux(), directory).unwrap();
    let (store, survivors) = PartStore::open(&target).unwrap();
    assert_eq!(survivors.objects[0].verified.count(), held, "nothing was lost");
    assert_eq!(write_blocks(&store, layout, &bytes), (12, Ok(())));
    install_when_full(&target, &store, directory);
}

/// Two entries share the object, and there is space for one.
fn install_when_full(target: &Arc<TargetDir>, store: &PartStore, directory: &Path) {
    fs::write(directory.join("copy"), b"old").unwrap();
    let object = store.finish(ID).unwrap();
    let mut installer = Installer::new(Arc::clone(target), Policy::default());
    let result = installer.stage(&entry("copy"), Source::CopyOf(&object));
    let Err(InstallError::Disk(DiskError::Full { path, needed, .. })) = &result else { panic!("{result:?}") };
    assert!(path.ends_with("/copy"), "{path}");
    assert_eq!(*needed, SIZE);
    assert_eq!(fs::read(directory.join("copy")).unwrap(), b"old");

    mount(None::<&str>, directory, None::<&str>, MsFlags::MS_REMOUNT, Some("size=8m")).unwrap();
    installer.stage(&entry("copy"), Source::CopyOf(&object)).unwrap();
    installer.stage(&entry("first"), Source::Object(&object)).unwrap();
    for outcome in installer.commit().unwrap() {
        outcome.result.unwrap();
    }
    store.remove(ID).unwrap();
    assert!(target.remove_part_directory().unwrap(), "no temporary stays");
    for name in ["copy", "first"] {
        assert_eq!(fs::read(directory.join(name)).unwrap(), content());
    }
}
