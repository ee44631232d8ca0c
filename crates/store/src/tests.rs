use crate::log::{FILE_HEADER, replay};
use crate::state::State;
use crate::{Condition, Durability, Revision, Store, StoreError, Txn};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

type Model = BTreeMap<String, Vec<u8>>;
type Writes = Vec<(u8, Option<Vec<u8>>)>;

fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    (dir, store)
}

fn put(store: &Store, key: &str, value: &str) -> Revision {
    store.commit(Txn::new().put(key, value)).unwrap()
}

fn live(state: &State) -> Model {
    state.entries.iter().map(|(key, entry)| (key.clone(), entry.value.clone())).collect()
}

#[test]
fn entries_know_their_history() {
    let (_dir, store) = store();
    assert_eq!(store.revision(), Revision(0));
    put(&store, "a/1", "one");
    put(&store, "a/2", "two");
    let third = store.commit(Txn::new().put("a/1", "uno").delete("a/2").put("b", "x")).unwrap();
    assert_eq!(third, Revision(3));
    let entry = store.get("a/1").unwrap();
    assert_eq!((entry.created, entry.modified, entry.version), (Revision(1), Revision(3), 2));
    assert_eq!(entry.value, b"uno");
    assert!(store.get("a/2").is_none());
    let keys = |revision| store.range_at("a/", revision).unwrap().into_iter().map(|e| e.key).collect::<Vec<_>>();
    assert_eq!(keys(Revision(0)), Vec::<String>::new());
    assert_eq!(keys(Revision(2)), ["a/1", "a/2"]);
    assert_eq!(keys(Revision(3)), ["a/1"]);
    assert_eq!(store.get_at("a/1", Revision(2)).unwrap().unwrap().value, b"one");
    assert!(matches!(store.range_at("", Revision(4)), Err(StoreError::Future { .. })));
}

#[test]
fn nothing_to_change_makes_no_revision() {
    let (_dir, store) = store();
    put(&store, "a", "1");
    assert_eq!(store.commit(Txn::new().delete("b")).unwrap(), Revision(1));
    assert_eq!(store.revision(), Revision(1));
}

#[test]
fn failed_condition_changes_nothing() {
    let (_dir, store) = store();
    let first = put(&store, "a", "1");
    let check = |key: &str, condition: Condition, holds: bool| {
        let result = store.commit(Txn::new().require(key, condition).put("a", "1"));
        match result {
            Ok(_) => assert!(holds, "{key} {condition:?}"),
            Err(StoreError::ConditionFailed { key: named }) => assert!(!holds && named == key),
            Err(other) => panic!("{other}"),
        }
    };
    check("a", Condition::Absent, false);
    check("a", Condition::ModifiedAt(Revision(7)), false);
    check("b", Condition::Exists, false);
    assert_eq!(store.revision(), first);
    check("a", Condition::ModifiedAt(first), true);
    check("a", Condition::Exists, true);
    check("b", Condition::Absent, true);
}

#[test]
fn bad_transactions_are_refused() {
    let (_dir, store) = store();
    let refuse = |txn| store.commit(txn).unwrap_err();
    assert!(matches!(refuse(Txn::new().put("", "x")), StoreError::KeyLength { length: 0 }));
    assert!(matches!(refuse(Txn::new().put("k".repeat(5000), "x")), StoreError::KeyLength { .. }));
    assert!(matches!(refuse(Txn::new().put("a", "x").delete("a")), StoreError::DuplicateKey { .. }));
    assert!(matches!(refuse(Txn::new().put("a", vec![0; crate::MAX_VALUE + 1])), StoreError::TooLong { .. }));
    assert!(matches!(refuse(Txn::new().put("a", "x").lease(crate::LeaseId(9))), StoreError::LeaseNotFound(_)));
    assert_eq!(store.revision(), Revision(0));
    store.commit(Txn::new().put("a", vec![0; crate::MAX_VALUE])).unwrap();
}

#[test]
fn second_opener_is_refused_and_named_the_folder() {
    let (dir, store) = store();
    let error = Store::open(dir.path()).unwrap_err();
    assert!(matches!(error, StoreError::Locked { .. }));
    assert!(error.to_string().contains(&dir.path().display().to_string()));
    drop(store);
    Store::open(dir.path()).unwrap();
}

#[test]
fn reopening_finds_all_and_goes_on() {
    let (dir, store) = store();
    put(&store, "a", "1");
    store.commit(Txn::new().put("b", "2").durability(Durability::Disk)).unwrap();
    store.commit(Txn::new().delete("a")).unwrap();
    let before = store.range("");
    drop(store);
    let store = Store::open(dir.path()).unwrap();
    assert_eq!(store.range(""), before);
    assert_eq!(store.cut_bytes(), 0);
    assert_eq!(put(&store, "c", "3"), Revision(4));
}

#[test]
fn watch_brings_past_and_present() {
    let (_dir, store) = store();
    put(&store, "a/1", "one");
    let (entries, revision) = store.list("a/");
    assert_eq!((entries.len(), revision), (1, Revision(1)));
    put(&store, "a/1", "uno");
    let watch = store.watch("a/", revision).unwrap();
    put(&store, "b", "not ours");
    store.commit(Txn::new().delete("a/1")).unwrap();
    let change = watch.recv().unwrap().unwrap();
    assert_eq!((change.revision, change.value.unwrap().value.as_slice()), (Revision(2), &b"uno"[..]));
    assert_eq!(change.previous.unwrap().value, b"one");
    let change = watch.recv().unwrap().unwrap();
    assert_eq!((change.revision, change.value), (Revision(4), None));
    assert_eq!(watch.recv_timeout(Duration::from_millis(1)).unwrap(), None);
    drop(store);
    assert_eq!(watch.recv().unwrap(), None);
}

#[test]
fn slow_watch_is_told() {
    let (_dir, store) = store();
    let watch = store.watch("", Revision(0)).unwrap();
    let keys: Vec<String> = (0..4096).map(|n| format!("k{n}")).collect();
    for round in 0..5 {
        let txn = keys.iter().fold(Txn::new(), |txn, key| txn.put(key.clone(), format!("{round}")));
        store.commit(txn).unwrap();
    }
    let delivered = (0..4 * 4096).map(|_| watch.recv().unwrap().unwrap().revision).max().unwrap();
    assert_eq!(delivered, Revision(4));
    assert!(matches!(watch.recv(), Err(StoreError::Lagged { seen: Revision(4) })));
}

#[test]
fn subscription_is_called_until_dropped() {
    let (_dir, store) = store();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let theirs = Arc::clone(&seen);
    let subscription = store.subscribe("a", Box::new(move |change| theirs.lock().unwrap().push(change.revision.0)));
    put(&store, "a", "1");
    put(&store, "b", "1");
    put(&store, "a2", "1");
    drop(subscription);
    put(&store, "a", "2");
    assert_eq!(*seen.lock().unwrap(), [1, 3]);
}

#[test]
fn lease_takes_its_keys_along() {
    let (dir, store) = store();
    store.tick(1000).unwrap();
    let lease = store.grant(500).unwrap();
    store.commit(Txn::new().put("a", "1").put("b", "1").lease(lease)).unwrap();
    put(&store, "b", "released from the lease");
    put(&store, "c", "never had one");
    assert_eq!(store.tick(1400).unwrap(), 0);
    store.keep_alive(lease).unwrap();
    assert_eq!(store.tick(1899).unwrap(), 0);
    drop(store);
    // the time counts anew after opening
    let store = Store::open(dir.path()).unwrap();
    assert_eq!(store.tick(10).unwrap(), 0);
    assert_eq!(store.tick(510).unwrap(), 1);
    assert!(store.get("a").is_none());
    assert!(store.get("b").is_some() && store.get("c").is_some());
    assert!(matches!(store.keep_alive(lease), Err(StoreError::LeaseNotFound(_))));
    assert_ne!(store.grant(1).unwrap(), lease);
}

#[test]
fn compaction_keeps_what_lives() {
    let (dir, store) = store();
    let log = dir.path().join("store.log");
    let lease = store.grant(1000).unwrap();
    store.commit(Txn::new().put("leased", "x").lease(lease)).unwrap();
    let big = vec![7_u8; 512 << 10];
    let mut longest = 0;
    for _ in 0..40 {
        store.commit(Txn::new().put("big", big.clone())).unwrap();
        longest = longest.max(log.metadata().unwrap().len());
    }
    assert!(longest < 6 << 20, "{longest}");
    assert!(
        matches!(store.range_at("", Revision(1)), Err(StoreError::Compacted { .. })),
        "history is bounded by bytes"
    );
    let before = store.range("");
    drop(store);
    let store = Store::open(dir.path()).unwrap();
    assert_eq!(store.range(""), before);
    assert_eq!(store.revision(), Revision(41));
    store.compact().unwrap();
    assert_eq!(put(&store, "after", "1"), Revision(42));
    store.revoke(lease).unwrap();
    drop(store);
    let store = Store::open(dir.path()).unwrap();
    assert!(store.get("leased").is_none() && store.get("after").is_some());
    assert!(!dir.path().join("store.log.new").exists());
}

#[test]
fn foreign_and_future_files_are_refused() {
    let check = |bytes: &[u8], expect: fn(&StoreError) -> bool| {
        let error = replay(Path::new("store.log"), bytes).unwrap_err();
        assert!(expect(&error), "{error}");
    };
    check(b"", |e| matches!(e, StoreError::NotAStore { .. }));
    check(&[b'x'; 100], |e| matches!(e, StoreError::NotAStore { .. }));
    let (dir, store) = store();
    drop(store);
    let mut bytes = std::fs::read(dir.path().join("store.log")).unwrap();
    bytes[8] = 2;
    check(&bytes, |e| matches!(e, StoreError::Corrupt { offset: 0, .. }));
    let sum = crc32c::crc32c(&bytes[..24]);
    bytes[24..28].copy_from_slice(&sum.to_le_bytes());
    check(&bytes, |e| matches!(e, StoreError::Format { found: 2, known: 1, .. }));
}

#[test]
fn commits_from_many_threads_all_arrive() {
    let (dir, store) = store();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let store = store.clone();
            scope.spawn(move || {
                for n in 0..25 {
                    let txn = Txn::new().put(format!("{thread}/{n}"), "x").durability(Durability::Disk);
                    store.commit(txn).unwrap();
                }
            });
        }
    });
    drop(store);
    let store = Store::open(dir.path()).unwrap();
    assert_eq!((store.range("").len(), store.revision()), (100, Revision(100)));
}

fn transactions() -> impl Strategy<Value = Vec<Writes>> {
    let write = (0..6_u8, proptest::option::weighted(0.7, proptest::collection::vec(any::<u8>(), 0..40)));
    proptest::collection::vec(proptest::collection::vec(write, 1..4), 1..12)
}

/// Runs transactions; returns the log's bytes and, after each acknowledged one, the log's length and the expected content.
fn record(dir: &Path, transactions: &[Writes]) -> (Vec<u8>, Vec<(usize, Model)>) {
    let store = Store::open(dir).unwrap();
    let log = dir.join("store.log");
    let length = || usize::try_from(log.metadata().unwrap().len()).unwrap();
    let mut model = Model::new();
    let mut points = vec![(length(), model.clone())];
    for writes in transactions {
        let writes: BTreeMap<_, _> = writes.iter().cloned().collect();
        let mut txn = Txn::new();
        for (key, value) in writes {
            let key = format!("key/{key}");
            txn = match value {
                Some(value) => {
                    model.insert(key.clone(), value.clone());
                    txn.put(key, value)
                }
                None => {
                    model.remove(&key);
                    txn.delete(key)
                }
            };
        }
        store.commit(txn).unwrap();
        points.push((length(), model.clone()));
    }
    (std::fs::read(&log).unwrap(), points)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_crash_leaves_a_whole_prefix(transactions in transactions(), flip in any::<(u16, u8)>()) {
        let dir = tempfile::tempdir().unwrap();
        let (bytes, points) = record(dir.path(), &transactions);
        let path = Path::new("store.log");
        let first = points[0].0;
        for cut in FILE_HEADER..=bytes.len() {
            let (state, good) = replay(path, &bytes[..cut]).unwrap();
            let expected = points.iter().rev().find(|(length, _)| *length <= cut);
            let empty = Model::new();
            prop_assert_eq!(&live(&state), expected.map_or(&empty, |(_, model)| model));
            prop_assert!(good <= cut);
        }
        // one flipped bit: in the last record it looks like a torn write, before that it is damage with an address
        let at = first + usize::from(flip.0) % (bytes.len() - first).max(1);
        if at < bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 1 << (flip.1 % 8);
            let lengths: Vec<usize> = { let mut l: Vec<usize> = points.iter().map(|(n, _)| *n).collect(); l.dedup(); l };
            let start = *lengths.iter().rev().find(|n| **n <= at).unwrap();
            let last = lengths[lengths.len() - 2];
            match replay(path, &bad) {
                Ok((state, good)) => {
                    prop_assert_eq!(start, last);
                    prop_assert_eq!(good, last);
                    prop_assert_eq!(&live(&state), &points.iter().rev().find(|(n, _)| *n == last).unwrap().1);
                }
                Err(StoreError::Corrupt { offset, .. }) => {
                    prop_assert!(start < last);
                    prop_assert_eq!(offset, start as u64);
                }
                Err(other) => prop_assert!(false, "{}", other),
            }
        }
        // and for real, with the file cut and opened again
        let cut = first + usize::from(flip.0) % (bytes.len() - first + 1);
        std::fs::write(dir.path().join("store.log"), &bytes[..cut]).unwrap();
        let store = Store::open(dir.path()).unwrap();
        let expected = points.iter().rev().find(|(length, _)| *length <= cut).unwrap();
        prop_assert_eq!(store.cut_bytes(), (cut - expected.0) as u64);
        let found: Model = store.range("").into_iter().map(|e| (e.key, e.value)).collect();
        prop_assert_eq!(&found, &expected.1);
        put(&store, "goes on", "1");
    }

    #[test]
    fn no_bytes_make_replay_panic(tail in proptest::collection::vec(any::<u8>(), 0..400)) {
        let dir = tempfile::tempdir().unwrap();
        let (mut bytes, _) = record(dir.path(), &[]);
        bytes.extend(tail);
        let _ = replay(Path::new("store.log"), &bytes);
    }
}
