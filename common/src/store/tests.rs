use std::fs;

use super::*;

fn open(dir: &Path) -> Store {
    let (store, warning) = Store::open(dir).unwrap();
    assert_eq!(warning, None);
    store
}

#[test]
fn what_was_put_is_there_after_a_reopening() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("state");
    for round in 0..5_u8 {
        let store = open(&dir);
        let table = store.tree("objects").unwrap();
        assert_eq!(table.get(b"round").unwrap(), round.checked_sub(1).map(|before| vec![before]));
        table.put(b"round", &[round]).unwrap();
        store.flush().unwrap();
        // Reopened at once: the lock of the one before may still be held for a moment.
    }
}

#[test]
fn a_table_is_an_ordered_map() {
    let temp = tempfile::tempdir().unwrap();
    is_an_ordered_map(&open(temp.path()));
    is_an_ordered_map(&MemoryStore::new().store());
}

fn is_an_ordered_map(store: &Store) {
    let (table, other) = (store.tree("a").unwrap(), store.tree("b").unwrap());
    table.put(b"x2", b"two").unwrap();
    table.put(b"x1", b"one").unwrap();
    table.put(b"y", b"why").unwrap();
    table.put(b"empty", b"").unwrap();
    let pairs: Result<Vec<_>, _> = table.iter_prefix(b"x").collect();
    assert_eq!(pairs.unwrap(), [(b"x1".to_vec(), b"one".to_vec()), (b"x2".to_vec(), b"two".to_vec())]);
    let mut batch = Batch::new();
    batch.remove(b"x1");
    batch.remove(b"not there");
    batch.put(b"z", b"zed");
    table.apply(batch).unwrap();
    let keys: Vec<_> = table.iter().map(|pair| pair.unwrap().0).collect();
    assert_eq!(keys, [b"empty".to_vec(), b"x2".to_vec(), b"y".to_vec(), b"z".to_vec()]);
    table.remove(b"y").unwrap();
    assert_eq!((table.get(b"y").unwrap(), table.get(b"empty").unwrap()), (None, Some(Vec::new())));
    assert_eq!(other.iter().count(), 0);
    table.clear().unwrap();
    assert_eq!(table.iter().count(), 0);
}

#[test]
fn a_long_value_is_refused_and_its_batch_as_a_whole() {
    let temp = tempfile::tempdir().unwrap();
    refuses_long_values(&open(temp.path()));
    refuses_long_values(&MemoryStore::new().store());
}

fn refuses_long_values(store: &Store) {
    let table = store.tree("a").unwrap();
    let long = vec![1; VALUE_LEN_MAX];
    assert!(matches!(table.put(b"k", &long), Err(StoreError::ValueTooLong(4096))));
    let mut batch = Batch::new();
    batch.put(b"k", &long);
    batch.put(b"short", b"");
    assert!(matches!(table.apply(batch), Err(StoreError::ValueTooLong(4096))));
    assert_eq!(table.iter().count(), 0);
    table.put(b"k", &long[1..]).unwrap();
}

#[test]
fn a_store_of_a_newer_version_is_refused_and_left_alone() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("state");
    let store = open(&dir);
    store.tree("a").unwrap().put(b"k", b"v").unwrap();
    let Backend::Sled(sled) = &store.0 else { panic!("on disk") };
    sled.set_version(SCHEMA_VERSION + 1);
    drop(store);
    let error = Store::open(&dir).unwrap_err();
    assert!(matches!(error, StoreError::NewerVersion { found, .. } if found == SCHEMA_VERSION + 1), "{error}");
    assert!(error.to_string().contains("update nackcast"), "{error}");
    assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 1, "nothing was moved aside");
}

#[test]
fn a_damaged_store_is_moved_aside_with_a_warning() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("state");
    for number in 1..=2 {
        let store = open(&dir);
        let table = store.tree("a").unwrap();
        (0..500_u32).for_each(|i| table.put(&i.to_be_bytes(), &[7; 100]).unwrap());
        store.flush().unwrap();
        drop((store, table));
        if number == 1 {
            fs::write(dir.join("conf"), [0xff; 64]).unwrap();
        } else {
            let len = fs::metadata(dir.join("db")).unwrap().len();
            fs::write(dir.join("db"), vec![0xa5; usize::try_from(len).unwrap()]).unwrap();
        }
        let (store, warning) = Store::open(&dir).unwrap();
        let Some(Warning::MovedAside { from, to, .. }) = warning else { panic!("no warning") };
        assert_eq!((from, to), (dir.clone(), temp.path().join(format!("state.damaged-{number}"))));
        assert_eq!(store.tree("a").unwrap().iter().count(), 0);
        drop(store);
    }
    assert!(temp.path().join("state.damaged-1/db").exists(), "the damaged store is kept");
}

#[test]
fn a_second_holder_is_told_and_the_first_goes_on() {
    let temp = tempfile::tempdir().unwrap();
    let first = open(temp.path());
    let error = Store::open(temp.path()).unwrap_err();
    assert!(matches!(error, StoreError::Locked(_)), "{error}");
    first.tree("a").unwrap().put(b"k", b"v").unwrap();
    first.flush().unwrap();
}

#[test]
fn a_place_that_cannot_be_a_directory_is_told_and_not_moved() {
    let temp = tempfile::tempdir().unwrap();
    let file = temp.path().join("file");
    fs::write(&file, b"mine").unwrap();
    let error = Store::open(&file).unwrap_err();
    assert!(matches!(error, StoreError::Io { .. }), "{error}");
    assert_eq!(fs::read(&file).unwrap(), b"mine");
}

#[test]
fn a_power_cut_leaves_what_was_flushed_and_the_first_steps_after_it() {
    let memory = MemoryStore::new();
    let table = memory.store().tree("a").unwrap();
    table.put(b"k", b"0").unwrap();
    memory.store().flush().unwrap();
    table.put(b"k", b"1").unwrap();
    let mut batch = Batch::new();
    batch.put(b"k", b"2");
    batch.put(b"l", b"2");
    table.apply(batch).unwrap();
    table.clear().unwrap();
    let after = |survive: usize| -> Vec<(Vec<u8>, Vec<u8>)> {
        let left = memory.crash(|steps| survive.min(steps));
        left.store().tree("a").unwrap().iter().map(Result::unwrap).collect()
    };
    let pair = |k: &[u8], v: &[u8]| (k.to_vec(), v.to_vec());
    assert_eq!(after(0), [pair(b"k", b"0")]);
    assert_eq!(after(1), [pair(b"k", b"1")]);
    assert_eq!(after(2), [pair(b"k", b"2"), pair(b"l", b"2")]);
    assert_eq!(after(9), []);
    assert_eq!(table.iter().count(), 0, "the running one goes on");
}
