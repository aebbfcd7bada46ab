use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use api::{Change, Key, Object, Status};
use tempfile::TempDir;

use super::history::EVENTS_MAX;
use super::{Store, Took, Work, Written};
use crate::Error;

fn folder() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.redb");
    (folder, path)
}

fn key(name: &str) -> Key {
    Key::namespaced("", "configmaps", "default", name)
}

fn put(name: &str) -> Work {
    let name = name.to_owned();
    Box::new(move |stage| {
        let object = stage.put(&key(&name), Object::named("v1", "ConfigMap", Some("default"), &name));
        Ok(Written {
            object,
            created: true,
            removed: false,
            warnings: Vec::new(),
            revision: stage.revision(),
            took: Took::default(),
        })
    })
}

fn remove(name: &str) -> Work {
    let name = name.to_owned();
    Box::new(move |stage| {
        let object = Arc::clone(stage.get(&key(&name)).ok_or_else(|| Status::not_found(&key(&name)))?);
        stage.remove(&key(&name));
        Ok(Written {
            object,
            created: false,
            removed: true,
            warnings: Vec::new(),
            revision: stage.revision(),
            took: Took::default(),
        })
    })
}

fn names(store: &Store) -> Vec<String> {
    store.state().objects.list("", "configmaps").map(|object| object.name().to_owned()).collect()
}

#[tokio::test]
async fn what_was_answered_is_there_after_a_restart_and_revisions_go_on() {
    let (_folder, path) = folder();
    let store = Store::open(&path).unwrap();
    for name in ["a", "b", "c"] {
        store.submit(put(name)).await.unwrap();
    }
    assert_eq!(store.submit(remove("b")).await.unwrap().revision, 4);
    drop(store);
    let store = Store::open(&path).unwrap();
    assert_eq!(names(&store), ["a", "c"]);
    assert_eq!(store.submit(put("d")).await.unwrap().object.revision(), 5);
}

#[tokio::test]
async fn many_writers_at_once_get_each_a_revision_of_its_own() {
    let (_folder, path) = folder();
    let store = Arc::new(Store::open(&path).unwrap());
    let writers = (0..500).map(|number| {
        let store = Arc::clone(&store);
        tokio::spawn(async move { store.submit(put(&format!("n{number}"))).await.unwrap().object.revision() })
    });
    let mut revisions: Vec<u64> =
        futures_util::future::join_all(writers).await.into_iter().map(Result::unwrap).collect();
    revisions.sort_unstable();
    assert_eq!(revisions, (1..=500).collect::<Vec<_>>());
    assert_eq!(names(&store).len(), 500);
}

#[tokio::test]
async fn a_work_that_fails_or_panics_leaves_nothing_and_others_go_on() {
    let (_folder, path) = folder();
    let store = Store::open(&path).unwrap();
    store.submit(put("a")).await.unwrap();
    let failing: Work = Box::new(|stage| {
        stage.put(&key("b"), Object::named("v1", "ConfigMap", Some("default"), "b"));
        stage.remove(&key("a"));
        Err(Status::bad_request("no"))
    });
    let panicking: Work = Box::new(|stage| {
        stage.remove(&key("a"));
        panic!("as planned");
    });
    assert_eq!(store.submit(failing).await.unwrap_err().code(), 400);
    assert_eq!(store.submit(panicking).await.unwrap_err().code(), 500);
    assert_eq!((names(&store), store.state().revision), (vec!["a".to_owned()], 1));
    assert_eq!(store.submit(put("b")).await.unwrap().revision, 2);
    let found = store.events_after(0).unwrap();
    assert_eq!(found.iter().map(|event| event.revision).collect::<Vec<_>>(), [1, 2]);
}

#[tokio::test]
async fn the_history_reaches_back_so_far_and_not_across_a_restart() {
    let (_folder, path) = folder();
    let store = Store::open(&path).unwrap();
    let many: Work = Box::new(|stage| {
        for _ in 0..=EVENTS_MAX {
            stage.put(&key("a"), Object::named("v1", "ConfigMap", Some("default"), "a"));
        }
        let object = Arc::clone(stage.get(&key("a")).unwrap());
        Ok(Written {
            object,
            created: true,
            removed: false,
            warnings: Vec::new(),
            revision: stage.revision(),
            took: Took::default(),
        })
    });
    store.submit(many).await.unwrap();
    assert_eq!(store.events_after(0).unwrap_err().code(), 410);
    assert_eq!(store.events_after(1).unwrap().first().unwrap().revision, 2);
    let last = store.state().revision;
    drop(store);
    let store = Store::open(&path).unwrap();
    assert_eq!(store.events_after(last - 1).unwrap_err().code(), 410);
    assert_eq!(store.events_after(last).unwrap(), []);
}

#[tokio::test]
async fn the_history_is_bounded_in_memory_and_keeps_the_last_event() {
    let (_folder, path) = folder();
    let store = Store::open(&path).unwrap();
    let large = |bytes: usize| -> Work {
        Box::new(move |stage| {
            let mut object = Object::named("v1", "ConfigMap", Some("default"), "a");
            object.set("/data", serde_json::json!({"text": "x".repeat(bytes)}));
            let object = stage.put(&key("a"), object);
            let revision = stage.revision();
            let took = Took::default();
            Ok(Written { object, created: true, removed: false, warnings: Vec::new(), revision, took })
        })
    };
    // Each holds what was before and what is after.
    for _ in 0..50 {
        store.submit(large(1 << 20)).await.unwrap();
    }
    let kept = (0..50).filter(|revision| store.events_after(*revision).is_ok()).count();
    assert!((20..=24).contains(&kept), "{kept} of 50 events of 2 MiB in 48 MiB");
    store.submit(large(60 << 20)).await.unwrap();
    assert_eq!(store.events_after(50).unwrap().len(), 1);
    assert_eq!(store.events_after(49).unwrap_err().code(), 410);
    store.submit(put("small")).await.unwrap();
    assert_eq!(store.events_after(51).unwrap().len(), 1);
}

#[tokio::test]
async fn a_feed_that_is_too_slow_is_led_from_what_it_knows_to_what_is() {
    let (_folder, path) = folder();
    let store = Store::open(&path).unwrap();
    for name in ["goes", "stays", "changes"] {
        store.submit(put(name)).await.unwrap();
    }
    let mut feed = store.feed();
    assert_eq!(feed.next().await.unwrap().events.len(), 3);
    store.submit(remove("goes")).await.unwrap();
    store.submit(put("changes")).await.unwrap();
    store.submit(put("comes")).await.unwrap();
    let many: Work = Box::new(|stage| {
        for _ in 0..EVENTS_MAX {
            stage.put(&key("busy"), Object::named("v1", "ConfigMap", Some("default"), "busy"));
        }
        let object = Arc::clone(stage.get(&key("busy")).unwrap());
        Ok(Written {
            object,
            created: true,
            removed: false,
            warnings: Vec::new(),
            revision: stage.revision(),
            took: Took::default(),
        })
    });
    store.submit(many).await.unwrap();
    let batch = feed.next().await.unwrap();
    let told: Vec<(&str, bool, bool)> = batch
        .events
        .iter()
        .map(|event| {
            (event.key.name.as_str(), event.change.before().is_some(), matches!(event.change, Change::Put { .. }))
        })
        .collect();
    assert_eq!(told, [("goes", true, false), ("changes", true, true), ("comes", false, true), ("busy", false, true)]);
    assert_eq!(batch.revision, store.state().revision);
    store.submit(put("last")).await.unwrap();
    assert_eq!(feed.next().await.unwrap().events.len(), 1);
    drop(store);
    assert!(feed.next().await.is_none(), "the feed ends with the store");
}

#[test]
fn files_that_cannot_be_used_are_named_and_left_alone() {
    let (_folder, path) = folder();
    drop(Store::open(&path).unwrap());
    let good = fs::read(&path).unwrap();
    let mut flipped = good.clone();
    let middle = flipped.len() / 2;
    for byte in &mut flipped {
        *byte = !*byte;
    }
    let cut = good[..middle].to_vec();
    for (name, bytes) in
        [("empty", Vec::new()), ("text", b"not a store".repeat(1000)), ("flipped", flipped), ("cut", cut)]
    {
        fs::write(&path, &bytes).unwrap();
        let error = Store::open(&path).unwrap_err();
        assert!(matches!(error, Error::CorruptStore { .. } | Error::OpenStore { .. }), "{name}: {error:?}");
        let text = error.to_string();
        assert!(text.contains("store.redb") && text.contains("; "), "names the file and the next step: {text}");
        assert!(fs::read(&path).unwrap() == bytes, "{name}: left as it was");
    }
    fs::write(&path, &good).unwrap();
    let held = Store::open(&path).unwrap();
    assert!(matches!(Store::open(&path).unwrap_err(), Error::LockedStore { .. }));
    drop(held);
    drop(Store::open(&path).unwrap());
}

#[test]
fn damage_anywhere_in_the_file_is_found_or_harmless() {
    let (_folder, path) = folder();
    let store = Store::open(&path).unwrap();
    for number in 0..50 {
        store.submit_blocking(put(&format!("n{number}"))).unwrap();
    }
    drop(store);
    let good = fs::read(&path).unwrap();
    let mut found = 0;
    for page in 0..good.len() / 4096 {
        let mut bad = good.clone();
        bad.iter_mut().skip(page * 4096 + 64).take(64).for_each(|byte| *byte ^= 0x5a);
        fs::write(&path, &bad).unwrap();
        match Store::open(&path) {
            Ok(store) => assert_eq!(names(&store).len(), 50, "page {page}"),
            Err(Error::CorruptStore { .. } | Error::OpenStore { .. } | Error::NewerStore { .. }) => found += 1,
            Err(error) => panic!("page {page}: {error:?}"),
        }
    }
    assert!(found > 0, "some pages matter");
}

/// A store as it is when it was closed and as it is after a kill, with what is in it.
fn closed_and_killed() -> ([Vec<u8>; 2], BTreeMap<String, String>, u64) {
    let (_folder, path) = folder();
    let store = Store::open(&path).unwrap();
    for number in 0..40 {
        store.submit_blocking(put(&format!("n{number}"))).unwrap();
    }
    let killed = fs::read(&path).unwrap();
    let (objects, revision) = (texts(&store), store.state().revision);
    drop(store);
    ([fs::read(&path).unwrap(), killed], objects, revision)
}

fn texts(store: &Store) -> BTreeMap<String, String> {
    let state = store.state();
    state.objects.list("", "configmaps").map(|one| (one.name().to_owned(), one.value().to_string())).collect()
}

#[test]
fn a_torn_file_is_refused_as_it_is_or_holds_all_that_was_answered() {
    let (files, objects, revision) = closed_and_killed();
    let (_folder, path) = folder();
    for (good, state) in files.iter().zip(["closed", "killed"]) {
        let (mut refused, mut whole) = (0, 0);
        let mut look = |bytes: &[u8], what: &str| {
            fs::write(&path, bytes).unwrap();
            match Store::open(&path) {
                Ok(store) => {
                    assert_eq!(store.state().revision, revision, "{state}: {what}");
                    assert_eq!(texts(&store), objects, "{state}: {what}");
                    whole += 1;
                }
                Err(error) => {
                    assert!(fs::read(&path).unwrap() == bytes, "{state}, {what}: left as it was");
                    let text = error.to_string();
                    assert!(text.contains("store.redb") && text.contains("; "), "{state}, {what}: {text}");
                    refused += 1;
                }
            }
        };
        look(good, "as it was");
        for place in (0..good.len()).step_by(509) {
            let mut bad = good.clone();
            bad[place] ^= 1 << (place % 8);
            look(&bad, &format!("a bit of byte {place} flipped"));
        }
        for length in (0..good.len()).step_by(4096 * 3 + 1) {
            look(&good[..length], &format!("cut to {length} bytes"));
        }
        assert!(whole > 0 && refused > 0, "{state}: {refused} refused, {whole} whole");
    }
}

#[test]
fn a_store_of_a_newer_program_is_refused_and_not_written() {
    let (_folder, path) = folder();
    drop(Store::open(&path).unwrap());
    let database = redb::Database::open(&path).unwrap();
    let transaction = database.begin_write().unwrap();
    transaction.open_table(redb::TableDefinition::<&str, u64>::new("counters")).unwrap().insert("format", 2).unwrap();
    transaction.commit().unwrap();
    // As it is after a kill, to be repaired by whoever opens it, and as it is when it was closed.
    let killed = path.with_extension("killed");
    fs::copy(&path, &killed).unwrap();
    assert!(matches!(redb::ReadOnlyDatabase::open(&killed), Err(redb::DatabaseError::RepairAborted)));
    drop(database);
    for file in [killed, path] {
        let before = fs::read(&file).unwrap();
        let error = Store::open(&file).unwrap_err();
        assert!(matches!(error, Error::NewerStore { found: 2, known: 1, .. }), "{error:?}");
        assert!(error.to_string().contains("run the newer program"), "{error}");
        assert!(fs::read(&file).unwrap() == before, "{} was written", file.display());
    }
}
