//! The library as a whole, on real directories.

use std::collections::{BTreeMap, HashSet};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::Path;

use globset::{Glob, GlobSetBuilder};
use nackcast_common::clock::Clock;
use nackcast_common::ids::ObjectIndex;
use nackcast_common::manifest::{self, Chaining, ObjectKind, ObjectRecord};
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

const BLOCK: usize = 1024;

/// A directory, its library, and the generation that was scanned last.
struct Bench {
    place: TempDir,
    library: Library,
    previous: Option<Previous>,
}

impl Bench {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(adapt: impl FnOnce(&mut LibraryConfig)) -> Self {
        let place = TempDir::new().unwrap();
        let root = place.path().join("content");
        fs::create_dir(&root).unwrap();
        let mut config = LibraryConfig {
            root,
            exclude: GlobSet::empty(),
            priorities: Vec::new(),
            geometry: Geometry::new(64, BLOCK as u32, 1).unwrap(),
            cache: place.path().join("cache"),
            channel: ChannelId([7; 16]),
            epoch: Epoch(1),
        };
        adapt(&mut config);
        Self { place, library: Library::open(config).unwrap(), previous: None }
    }

    fn root(&self) -> PathBuf {
        self.place.path().join("content")
    }

    fn path(&self, name: impl AsRef<OsStr>) -> PathBuf {
        self.root().join(name.as_ref())
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    /// Scans, and checks everything that must hold of a new generation.
    fn scan(&mut self) -> Scan {
        let scan = self.library.scan(self.previous.as_ref(), Generation(1), &|_| {}).unwrap();
        check_blocks(&scan.content);
        if let Some(previous) = &self.previous {
            check_since(&previous.manifest, scan.content.manifest());
        }
        let manifest = Arc::clone(scan.content.manifest());
        let root_hash = Digest::of(&manifest.head().generation.0.to_be_bytes());
        self.previous = Some(Previous { manifest, root_hash });
        scan
    }

    /// A scan without problems, whose content is what stands on disk.
    fn sound_scan(&mut self) -> Scan {
        let scan = self.scan();
        assert!(scan.problems.is_empty(), "{:?}", scan.problems);
        self.check_files(&scan.content);
        scan
    }

    fn check_files(&self, content: &Content) {
        let manifest = content.manifest();
        let mut on_disk = BTreeMap::new();
        for entry in walkdir::WalkDir::new(self.root()).min_depth(1) {
            let entry = entry.unwrap();
            let relative = entry.path().strip_prefix(self.root()).unwrap().as_os_str().as_bytes().to_vec();
            on_disk.insert(relative, entry.path().to_owned());
        }
        let listed: Vec<_> = manifest.entries().iter().map(|e| e.path.as_bytes().to_vec()).collect();
        assert_eq!(listed, on_disk.keys().cloned().collect::<Vec<_>>());
        for entry in manifest.entries() {
            let path = &on_disk[entry.path.as_bytes()];
            let metadata = path.symlink_metadata().unwrap();
            assert_eq!(entry.mode, metadata.permissions().mode() & 0o7777);
            match &entry.kind {
                EntryKind::Directory => assert!(metadata.is_dir()),
                EntryKind::Symlink { target } => {
                    assert_eq!(fs::read_link(path).unwrap().as_os_str().as_bytes(), &**target);
                }
                EntryKind::File { .. } => assert!(bytes_of(content, entry) == fs::read(path).unwrap(), "{path:?}"),
            }
        }
    }
}

fn read_object(content: &Content, index: ObjectIndex) -> Vec<u8> {
    let record = content.manifest().object(index).unwrap();
    let (mut whole, mut block) = (Vec::new(), Vec::new());
    for number in 0..record.layout.block_count() {
        content.read_block(index, number, &mut block).unwrap();
        whole.extend_from_slice(&block);
    }
    whole
}

fn bytes_of(content: &Content, entry: &Entry) -> Vec<u8> {
    let EntryKind::File { size, content: place, .. } = entry.kind else { panic!("no file") };
    match place {
        manifest::Content::Empty => Vec::new(),
        manifest::Content::Object(object) => read_object(content, object),
        manifest::Content::Slice { pack, offset } => {
            read_object(content, pack)[offset as usize..][..size as usize].to_vec()
        }
    }
}

/// Every block of every object can be read, and the object is what its record says.
fn check_blocks(content: &Content) {
    for (index, record) in (0..).zip(content.manifest().objects()) {
        let bytes = read_object(content, ObjectIndex(index));
        assert_eq!(Digest::of(&bytes), record.digest);
        assert!(record.kind != ObjectKind::Pack || record.layout.block_count() <= 8);
        if let Chaining::Object(list) = record.chaining {
            let before = content.manifest().index_of(list).unwrap();
            assert_eq!(before.0 + 1, index, "a hash list stands just before its owner");
            let values: Vec<_> =
                bytes.chunks(BLOCK).zip((0..).step_by(BLOCK)).flat_map(|(b, at)| hash_of(b, at)).collect();
            assert!(read_object(content, before) == values);
        }
    }
    assert!(content.read_block(ObjectIndex(u32::MAX), 0, &mut Vec::new()).is_err());
}

fn hash_of(block: &[u8], offset: u64) -> [u8; 32] {
    nackcast_common::hash::chaining_value(block, offset)
}

/// Old content never looks new, new content does, and no object holds both.
fn check_since(previous: &Manifest, manifest: &Manifest) {
    let generation = manifest.head().generation;
    let digests = |m: &Manifest| -> HashSet<Digest> {
        m.entries()
            .iter()
            .filter_map(|e| match e.kind {
                EntryKind::File { digest, size, .. } if size > 0 => Some(digest),
                _ => None,
            })
            .collect()
    };
    let old = digests(previous);
    for (object, members) in manifest.members() {
        let record = manifest.object(object).unwrap();
        let is_new = record.since == generation && generation != previous.head().generation;
        for member in members {
            let EntryKind::File { digest, .. } = manifest.entries()[member].kind else { continue };
            if generation != previous.head().generation {
                let same_bytes = previous.index_of(record.id).is_some();
                assert!(same_bytes || is_new != old.contains(&digest), "{:?}", manifest.entries()[member].path);
            }
        }
    }
}

fn packs(scan: &Scan) -> Vec<ObjectRecord> {
    scan.content.manifest().objects().iter().filter(|o| o.kind == ObjectKind::Pack).cloned().collect()
}

fn bytes(seed: u64, size: usize) -> Vec<u8> {
    let mut output = vec![0; size];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut output);
    output
}

/// Waits until files written so far count as settled.
fn let_settle() {
    let end = Clock::wall_ms() + u64::try_from(cache::RACY_MS).unwrap() + 20;
    while Clock::wall_ms() <= end {
        std::thread::yield_now();
    }
}

#[test]
fn files_of_interesting_sizes_read_back() {
    let mut bench = Bench::new();
    let sizes = [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 8 * BLOCK, 8 * BLOCK + 1, 9 * BLOCK, 300 * BLOCK + 5];
    for (seed, size) in (0..).zip(sizes) {
        bench.write(&format!("d/{size}"), &bytes(seed, size));
    }
    let scan = bench.sound_scan();
    assert_eq!((scan.change, scan.content.manifest().head().generation), (Change::NewGeneration, Generation(1)));
    assert_eq!(scan.content.manifest().head().parent, None);
    let lists = scan.content.manifest().objects().iter().filter(|o| o.kind == ObjectKind::Chaining).count();
    assert_eq!(lists, 4, "three files of more than 8 blocks, one with a list of more than 8 blocks");
    assert_eq!(bench.sound_scan().change, Change::None);
}

#[test]
fn every_name_that_linux_allows_is_listed() {
    let mut bench = Bench::new();
    let long = [b'x'; 255];
    for name in [&b"\xff\xfe"[..], b"new\nline", b" ", b"-rf", b"a", b"a.b", &long] {
        fs::create_dir(bench.path(OsStr::from_bytes(name))).unwrap();
        fs::write(bench.path(OsStr::from_bytes(name)).join(OsStr::from_bytes(name)), name).unwrap();
    }
    symlink("../outside", bench.path("link")).unwrap();
    symlink(OsStr::from_bytes(b"\xff"), bench.path("link2")).unwrap();
    fs::set_permissions(bench.path("a"), fs::Permissions::from_mode(0o2750)).unwrap();
    bench.sound_scan();
}

#[test]
fn a_symlink_may_be_the_root_and_old_content_stays_readable_when_it_moves_on() {
    let mut bench = Bench::with(|config| {
        let (one, link) = (config.root.join("one"), config.root.join("current"));
        fs::create_dir_all(&one).unwrap();
        fs::write(one.join("a"), bytes(1, 5000)).unwrap();
        symlink("one", &link).unwrap();
        config.root = link;
    });
    let first = bench.scan();
    fs::create_dir(bench.path("two")).unwrap();
    fs::remove_file(bench.path("current")).unwrap();
    symlink("two", bench.path("current")).unwrap();
    let second = bench.scan();
    assert_eq!(second.content.manifest().entries().len(), 0);
    check_blocks(&first.content);
}

#[test]
fn equal_files_share_their_bytes() {
    let mut bench = Bench::new();
    for name in ["a", "b", "sub/c"] {
        bench.write(name, &bytes(1, 100));
        bench.write(&format!("{name}.large"), &bytes(2, 5000));
    }
    let scan = bench.sound_scan();
    let sizes: Vec<_> = scan.content.manifest().objects().iter().map(|o| o.layout.size()).collect();
    assert_eq!(sizes, [100, 5000]);
}

#[test]
fn what_cannot_be_sent_is_a_problem_and_the_rest_goes_on() {
    let mut bench = Bench::with(|config| {
        config.exclude = GlobSetBuilder::new().add(Glob::new("*.tmp").unwrap()).build().unwrap();
    });
    bench.write("good", b"good");
    bench.write("deep/excluded.tmp/file", b"x");
    bench.write(".nackcast.part/partial", b"x");
    bench.write("sub/.nackcast.part", b"an ordinary file down here");
    let _socket = std::os::unix::net::UnixListener::bind(bench.path("socket")).unwrap();
    let scan = bench.scan();
    let problems: Vec<_> = scan.problems.iter().map(ToString::to_string).collect();
    assert_eq!(problems, ["socket is not a file, directory or symlink; left out"]);
    let listed: Vec<_> = scan.content.manifest().entries().iter().map(|e| e.path.to_string()).collect();
    assert_eq!(listed, ["deep", "good", "sub", "sub/.nackcast.part"]);
}

#[test]
fn an_unreadable_file_or_directory_is_a_problem() {
    let mut bench = Bench::new();
    bench.write("good", b"good");
    bench.write("shut", b"x");
    bench.write("closed/file", b"x");
    for name in ["shut", "closed"] {
        fs::set_permissions(bench.path(name), fs::Permissions::from_mode(0o000)).unwrap();
    }
    if fs::read(bench.path("shut")).is_ok() {
        return; // Root reads everything.
    }
    let scan = bench.scan();
    let paths: Vec<_> = scan.problems.iter().map(|p| p.path.to_str().unwrap()).collect();
    fs::set_permissions(bench.path("closed"), fs::Permissions::from_mode(0o700)).unwrap();
    assert_eq!(paths, ["closed", "shut"]);
}

#[test]
fn a_missing_root_is_an_error_that_names_it() {
    let mut bench = Bench::new();
    fs::remove_dir(bench.root()).unwrap();
    let error = bench.library.scan(None, Generation(1), &|_| {}).unwrap_err();
    assert!(error.to_string().contains("content: No such file or directory"), "{error}");
    fs::write(bench.root(), b"").unwrap();
    assert!(matches!(Library::open(bench.library.config().clone()), Err(LibraryError::Root { .. })));
}

#[test]
fn a_cache_directory_inside_the_content_is_refused() {
    let bench = Bench::new();
    let config = LibraryConfig { cache: bench.path("state"), ..bench.library.config().clone() };
    let error = Library::open(config).unwrap_err();
    assert!(matches!(error, LibraryError::CacheInside { .. }), "{error}");
}

#[test]
fn priorities_come_first_then_paths() {
    let mut bench = Bench::with(|config| {
        config.priorities = vec![(Glob::new("*.first").unwrap().compile_matcher(), 5)];
    });
    for (seed, name) in (0..).zip(["a", "b", "z.first"]) {
        bench.write(name, &bytes(seed, 2000));
        bench.write(&format!("small-{name}"), &bytes(seed, 20));
    }
    let scan = bench.sound_scan();
    let order: Vec<_> = (0..5).map(|i| scan.content.path_of(ObjectIndex(i)).unwrap().to_string()).collect();
    assert_eq!(order, ["small-z.first", "z.first", "a", "b", "small-a"]);
}

#[test]
fn a_rename_is_no_new_content() {
    let mut bench = Bench::new();
    for seed in 0..10 {
        bench.write(&format!("s{seed}"), &bytes(seed, 100));
        bench.write(&format!("l{seed}"), &bytes(seed, 3000));
    }
    let first = bench.sound_scan();
    fs::rename(bench.path("s3"), bench.path("zz")).unwrap();
    fs::rename(bench.path("l3"), bench.path("aa")).unwrap();
    let second = bench.sound_scan();
    assert_eq!(second.change, Change::NewGeneration);
    let ids =
        |scan: &Scan| -> BTreeMap<_, _> { scan.content.manifest().objects().iter().map(|o| (o.id, o.since)).collect() };
    assert_eq!(ids(&first), ids(&second));
    assert!(second.content.manifest().head().parent.is_some());
}

#[test]
fn survivors_of_a_pack_stay_old_and_newcomers_get_their_own() {
    let mut bench = Bench::new();
    for seed in 0..30 {
        bench.write(&format!("{seed:02}"), &bytes(seed, 1000));
    }
    let first = packs(&bench.sound_scan());
    assert_eq!(first.len(), 4, "eight files in a pack");
    bench.write("00", &bytes(100, 900)); // changed, in the first pack
    fs::remove_file(bench.path("09")).unwrap(); // gone from the second
    bench.write("new", &bytes(101, 100));
    let second = packs(&bench.sound_scan());
    let kept = second.iter().filter(|p| first.contains(p)).count();
    assert_eq!(kept, 2, "the third and fourth pack stay as they are");
    let by_since = |since| second.iter().filter(|p| p.since == Generation(since)).map(|p| p.layout.size()).sum();
    let (old, new): (u64, u64) = (by_since(1), by_since(2));
    assert_eq!((old, new), (28 * 1000, 1000));
    let third = bench.sound_scan();
    assert_eq!(third.change, Change::None);
    assert_eq!(packs(&third), second);
}

#[test]
fn many_small_generations_do_not_leave_as_many_packs() {
    let mut bench = Bench::new();
    for seed in 0..60 {
        bench.write(&format!("{seed:02}"), &bytes(seed, 100));
        let scan = bench.sound_scan();
        assert!(packs(&scan).len() <= 12, "{} packs", packs(&scan).len());
    }
}

#[test]
fn packs_with_the_bytes_of_another_object_are_cut() {
    let mut bench = Bench::new();
    // All bytes equal: any two runs of the same length are the same bytes.
    bench.write("large", &[0; 1500]);
    bench.write("s1", &[0; 700]);
    bench.write("s2", &[0; 800]);
    bench.sound_scan();
    assert_eq!(bench.sound_scan().change, Change::None);
    bench.write("x1", &[0; 300]);
    bench.write("x2", &[0; 400]);
    bench.sound_scan();
    assert_eq!(bench.sound_scan().change, Change::None);
}

#[test]
fn a_file_that_is_another_files_hash_list_is_a_problem() {
    let mut bench = Bench::new();
    bench.write("owner", &bytes(1, 40 * BLOCK));
    let first = bench.sound_scan();
    let list = read_object(&first.content, ObjectIndex(0));
    bench.write("list", &list);
    let second = bench.scan();
    assert_eq!(second.problems.len(), 1);
    assert!(matches!(second.problems[0].what, ProblemKind::Clash), "{:?}", second.problems);
    bench.write("owner", &bytes(2, 40 * BLOCK));
    bench.sound_scan();
}

#[test]
fn unchanged_files_are_not_hashed_again_even_after_a_restart() {
    let mut bench = Bench::new();
    for seed in 0..20 {
        bench.write(&format!("s{seed}"), &bytes(seed, 100));
    }
    bench.write("large", &bytes(50, 40_000));
    let_settle();
    assert_eq!(bench.sound_scan().hashed_bytes, 42_000);
    assert_eq!(bench.sound_scan().hashed_bytes, 0);
    let mut again = Library::open(bench.library.config().clone()).unwrap();
    let scan = again.scan(bench.previous.as_ref(), Generation(1), &|_| {}).unwrap();
    assert_eq!((scan.hashed_bytes, scan.change), (0, Change::None));
    check_blocks(&scan.content);
    // Without the former generation only the pack is read again.
    assert_eq!(again.scan(None, Generation(1), &|_| {}).unwrap().hashed_bytes, 2000);
    // A file that is replaced is hashed, and no other.
    fs::write(bench.path("new"), bytes(51, 40_000)).unwrap();
    fs::rename(bench.path("new"), bench.path("large")).unwrap();
    assert_eq!(bench.sound_scan().hashed_bytes, 40_000);
}

#[test]
fn files_touched_while_they_are_hashed_are_not_trusted() {
    let mut bench = Bench::new();
    bench.write("a", &bytes(1, 3000));
    let_settle();
    // As if somebody wrote to it while it is hashed, or its clock is ahead of ours.
    let soon = std::time::UNIX_EPOCH + std::time::Duration::from_millis(Clock::wall_ms() + 3_600_000);
    fs::File::options().write(true).open(bench.path("a")).unwrap().set_modified(soon).unwrap();
    assert_eq!(bench.sound_scan().hashed_bytes, 3000);
    assert_eq!(bench.sound_scan().hashed_bytes, 3000, "not older than its hash");
}

#[test]
fn a_damaged_cache_is_ignored() {
    let mut bench = Bench::new();
    bench.write("a", &bytes(1, 3000));
    let_settle();
    bench.sound_scan();
    let cache = fs::read_dir(bench.place.path().join("cache")).unwrap().next().unwrap().unwrap().path();
    let sound = fs::read(&cache).unwrap();
    for damage in 0..sound.len() {
        let mut damaged = sound.clone();
        damaged[damage] ^= 0x40;
        fs::write(&cache, &damaged[..]).unwrap();
        assert_eq!(bench.sound_scan().hashed_bytes, 3000, "byte {damage}");
        fs::write(&cache, &sound[..damage]).unwrap();
        assert_eq!(bench.sound_scan().hashed_bytes, 3000, "cut at {damage}");
    }
    assert_eq!(bench.sound_scan().hashed_bytes, 0);
}

#[test]
fn a_file_that_changes_while_it_is_hashed_is_left_out() {
    for size in [500, 5000] {
        let mut bench = Bench::new();
        bench.write("steady", b"steady");
        bench.write("busy", &bytes(1, size));
        bench.sound_scan();
        let_settle();
        bench.write("busy", &bytes(2, size));
        let path = bench.path("busy");
        let number = std::sync::atomic::AtomicU64::new(0);
        let disturb = |_: Progress| {
            let number = number.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            fs::write(&path, bytes(number, size + number as usize % 7)).unwrap();
        };
        let scan = bench.library.scan(bench.previous.as_ref(), Generation(1), &disturb).unwrap();
        let problems: Vec<_> = scan.problems.iter().map(ToString::to_string).collect();
        assert_eq!(problems, ["busy changed while it was hashed; left out until the next scan"]);
        assert!(scan.content.manifest().entry(b"busy").is_none());
        assert!(scan.content.manifest().entry(b"steady").is_some());
        bench.sound_scan();
    }
}

#[test]
fn a_file_that_changed_once_while_it_was_hashed_is_hashed_again() {
    let mut bench = Bench::new();
    bench.write("a", &bytes(1, 5000));
    let path = bench.path("a");
    let once = std::sync::Once::new();
    let replace = |_: Progress| {
        once.call_once(|| {
            fs::write(path.with_extension("new"), bytes(2, 5000)).unwrap();
            fs::rename(path.with_extension("new"), &path).unwrap();
        });
    };
    let scan = bench.library.scan(None, Generation(1), &replace).unwrap();
    assert!(scan.problems.is_empty(), "{:?}", scan.problems);
    bench.check_files(&scan.content);
}

#[test]
fn a_file_larger_than_any_object_is_a_problem() {
    let mut bench = Bench::new();
    bench.write("good", b"good");
    let size = nackcast_common::geometry::OBJECT_SIZE_MAX + 1;
    if fs::File::create(bench.path("vast")).unwrap().set_len(size).is_err() {
        return; // Not every file system has files of that size.
    }
    let scan = bench.scan();
    assert!(matches!(scan.problems[..], [Problem { what: ProblemKind::TooLarge(_), .. }]), "{:?}", scan.problems);
    assert_eq!(scan.content.manifest().entries().len(), 1);
}

#[test]
fn a_file_with_the_name_of_our_directory_is_a_problem() {
    let mut bench = Bench::new();
    bench.write(".nackcast.part", b"x");
    let scan = bench.scan();
    assert!(matches!(scan.problems[..], [Problem { what: ProblemKind::Reserved, .. }]), "{:?}", scan.problems);
}

#[test]
fn a_block_is_never_given_out_with_other_bytes() {
    let mut bench = Bench::new();
    for (seed, name) in (0..).zip(["p0", "p1", "p2", "p3", "p4"]) {
        bench.write(name, &bytes(seed, 700));
    }
    bench.write("large", &bytes(9, 20 * BLOCK));
    let scan = bench.sound_scan();
    let content = &scan.content;
    let flip = |name: &str, at: u64| {
        let file = fs::File::options().read(true).write(true).open(bench.path(name)).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 1], at).unwrap();
    };
    let changed = |object: ObjectIndex| -> Vec<Option<String>> {
        let blocks = content.manifest().object(object).unwrap().layout.block_count();
        let read = |block| match content.read_block(object, block, &mut Vec::new()) {
            Ok(()) => None,
            Err(BlockError::Changed { path }) => Some(path.to_string()),
            Err(other) => panic!("{other}"),
        };
        (0..blocks).map(read).collect()
    };
    let object_of = |name: &[u8]| match content.manifest().entry(name).unwrap().kind {
        EntryKind::File {
            content: manifest::Content::Object(object) | manifest::Content::Slice { pack: object, .. },
            ..
        } => object,
        _ => panic!("no bytes"),
    };
    let (large, pack) = (object_of(b"large"), object_of(b"p0"));
    flip("large", 3000);
    let expected: Vec<_> = (0..20).map(|block| (block == 2).then(|| "large".to_owned())).collect();
    assert_eq!(changed(large), expected);
    flip("p2", 10); // Byte 1410 of the pack, in its second block.
    assert_eq!(changed(pack), [None, Some("p2".to_owned()), None, None]);
    fs::write(bench.path("p3"), b"short").unwrap();
    fs::remove_file(bench.path("p4")).unwrap();
    assert_eq!(changed(pack), [None, Some("p2".into()), Some("p3".into()), Some("p4".into())].map(|p| p));
    fs::remove_file(bench.path("large")).unwrap();
    flip("p2", 10);
    assert_eq!(changed(pack)[1], None);
}

#[test]
fn several_threads_may_read_and_descriptors_are_bounded() {
    let mut bench = Bench::new();
    for seed in 0..100 {
        bench.write(&format!("{seed}"), &bytes(seed, 3 * BLOCK));
    }
    let scan = bench.sound_scan();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| check_blocks(&scan.content));
        }
    });
    let root = bench.root().canonicalize().unwrap();
    let targets = fs::read_dir("/proc/self/fd").unwrap().filter_map(|fd| fs::read_link(fd.unwrap().path()).ok());
    let open = targets.filter(|target| target.starts_with(&root) && *target != root).count();
    assert!((1..=64).contains(&open), "{open} files are open");
}

#[test]
fn another_geometry_or_epoch_is_a_new_generation_of_old_content() {
    let mut bench = Bench::new();
    bench.write("small", &bytes(1, 100));
    bench.write("large", &bytes(2, 9000));
    bench.sound_scan();
    bench.library.set_epoch(Epoch(2));
    let second = bench.sound_scan();
    assert_eq!((second.change, second.content.manifest().head().epoch), (Change::NewGeneration, Epoch(2)));
    let config = LibraryConfig { geometry: Geometry::new(128, 2048, 1).unwrap(), ..bench.library.config().clone() };
    bench.library = Library::open(config).unwrap();
    let third = bench.library.scan(bench.previous.as_ref(), Generation(1), &|_| {}).unwrap();
    assert_eq!(third.change, Change::NewGeneration);
    assert!(third.content.manifest().objects().iter().all(|o| o.since == Generation(1)));
}

#[test]
fn long_hash_lists_lie_in_the_cache_directory_and_go_when_unused() {
    let mut bench = Bench::new();
    // Sparse, but with a mark, so that blocks differ in place: 33,000 blocks have a list of 1,056,000 bytes.
    let file = fs::File::create(bench.path("huge")).unwrap();
    file.set_len(33_000 * BLOCK as u64).unwrap();
    file.write_all_at(b"mark", 20_000 * BLOCK as u64).unwrap();
    let scan = bench.sound_scan();
    let lists = |bench: &Bench| -> Vec<PathBuf> {
        let cache = fs::read_dir(bench.place.path().join("cache")).unwrap().map(|item| item.unwrap().path());
        cache.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("list-")).collect()
    };
    assert_eq!(lists(&bench).len(), 1);
    // A damaged list is told apart from a changed file.
    let list = fs::File::options().write(true).open(&lists(&bench)[0]).unwrap();
    list.write_all_at(b"damage", 32 * 100).unwrap();
    let owner = scan.content.manifest().entry(b"huge").unwrap();
    let EntryKind::File { content: manifest::Content::Object(object), .. } = owner.kind else { panic!() };
    assert!(scan.content.read_block(object, 99, &mut Vec::new()).is_ok());
    let damaged = scan.content.read_block(object, 100, &mut Vec::new());
    assert!(matches!(damaged, Err(BlockError::HashList { .. })), "{damaged:?}");
    let scan = bench.sound_scan();
    fs::remove_file(bench.path("huge")).unwrap();
    bench.sound_scan();
    assert!(lists(&bench).is_empty());
    let list = (0..).zip(scan.content.manifest().objects()).find(|(_, o)| o.kind == ObjectKind::Chaining);
    read_object(&scan.content, ObjectIndex(list.unwrap().0));
}

#[derive(Clone, Debug)]
enum Edit {
    Write { name: usize, seed: u64, size: usize },
    Remove { name: usize },
    Rename { from: usize, to: usize },
    Touch { name: usize },
}

const NAMES: [&[u8]; 12] =
    [b"a", b"a.b", b"d/a", b"d/b", b"d/e/f", b"\xff", b"d\n", b"z1", b"z2", b"z3", b"q/r/s/t", b"d-"];

fn edit() -> impl Strategy<Value = Edit> {
    let size = prop_oneof![0..60_usize, 900..1100_usize, 1..12_000_usize, Just(BLOCK), Just(9 * BLOCK)];
    let name = || 0..NAMES.len();
    prop_oneof![
        // Few seeds, one of them all zeros: equal files, and objects of equal bytes, are likely.
        6 => (name(), 0..3_u64, size).prop_map(|(name, seed, size)| Edit::Write { name, seed, size }),
        2 => name().prop_map(|name| Edit::Remove { name }),
        2 => (name(), name()).prop_map(|(from, to)| Edit::Rename { from, to }),
        1 => name().prop_map(|name| Edit::Touch { name }),
    ]
}

fn apply(root: &Path, edit: &Edit) {
    let path = |name: usize| root.join(OsStr::from_bytes(NAMES[name]));
    match *edit {
        Edit::Write { name, seed, size } => {
            fs::create_dir_all(path(name).parent().unwrap()).unwrap();
            fs::write(path(name), if seed == 0 { vec![0; size] } else { bytes(seed, size) }).unwrap();
        }
        Edit::Remove { name } => drop(fs::remove_file(path(name))),
        Edit::Rename { from, to } => {
            fs::create_dir_all(path(to).parent().unwrap()).unwrap();
            drop(fs::rename(path(from), path(to)));
        }
        Edit::Touch { name } => drop(fs::set_permissions(path(name), fs::Permissions::from_mode(0o640))),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]
    #[test]
    fn every_file_of_every_generation_can_be_put_together_from_blocks(
        rounds in prop::collection::vec(prop::collection::vec(edit(), 0..8), 1..6)
    ) {
        let mut bench = Bench::new();
        for edits in rounds {
            edits.iter().for_each(|edit| apply(&bench.root(), edit));
            bench.sound_scan();
            prop_assert_eq!(bench.sound_scan().change, Change::None);
        }
    }
}
