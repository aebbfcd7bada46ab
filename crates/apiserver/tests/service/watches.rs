//! Watching: history, bookmarks, selections, initial lists.

use std::time::Duration;

use api::{Object, Write};
use apiserver::Body;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::{MAPS, Service, service};

const PLAIN: &str = "application/json";
const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
/// A watch answers at once; on a busy machine a little later.
const PATIENCE: Duration = Duration::from_secs(10);

struct Events {
    body: Body,
    lines: Vec<Value>,
}

impl Events {
    async fn of(service: &Service, query: &str, accept: &str) -> Self {
        let response = timeout(PATIENCE, service.stream(&format!("{MAPS}?watch=true&{query}"), accept)).await.unwrap();
        assert_eq!(response.status(), 200);
        Self { body: response.into_body(), lines: Vec::new() }
    }

    /// The next event; none at the end of the watch.
    async fn next(&mut self) -> Option<Value> {
        while self.lines.is_empty() {
            let piece = timeout(PATIENCE, self.body.next()).await.expect("an event")?;
            self.lines = serde_json::Deserializer::from_slice(&piece).into_iter().map(Result::unwrap).collect();
            self.lines.reverse();
        }
        self.lines.pop()
    }

    /// Type and name of the next event.
    async fn told(&mut self) -> String {
        match self.next().await {
            Some(event) => format!(
                "{} {}",
                event["type"].as_str().unwrap(),
                event["object"]["metadata"]["name"].as_str().unwrap_or("-")
            ),
            None => "end".to_owned(),
        }
    }
}

#[tokio::test]
async fn what_happened_since_a_revision_is_told_and_then_what_happens() {
    let service = service();
    let since = service.map("a", "1").await.text("/metadata/resourceVersion").to_owned();
    service.map("b", "1").await;
    service.merge(&format!("{MAPS}/a"), json!({"data": {"x": "2"}})).await;
    service.delete(&format!("{MAPS}/b")).await;
    let mut events = Events::of(&service, &format!("resourceVersion={since}"), PLAIN).await;
    assert_eq!([events.told().await, events.told().await], ["ADDED b", "MODIFIED a"]);
    let deleted = events.next().await.unwrap();
    assert_eq!(
        (deleted["type"].as_str(), deleted["object"]["metadata"]["name"].as_str()),
        (Some("DELETED"), Some("b"))
    );
    let last = service.get(MAPS).await.text("/metadata/resourceVersion").to_owned();
    assert_eq!(deleted["object"]["metadata"]["resourceVersion"], json!(last), "the revision at which it went");
    service.map("c", "1").await;
    assert_eq!(events.told().await, "ADDED c");
}

#[tokio::test]
async fn without_a_revision_what_is_there_comes_first() {
    let service = service();
    service.map("a", "1").await;
    for query in ["", "resourceVersion=0"] {
        let mut events = Events::of(&service, query, PLAIN).await;
        assert_eq!(events.told().await, "ADDED a", "{query}");
    }
    let mut events = Events::of(&service, "timeoutSeconds=1&fieldSelector=metadata.name%3Dother", PLAIN).await;
    assert_eq!(events.told().await, "end");
}

#[tokio::test]
async fn objects_enter_and_leave_a_selection() {
    let service = service();
    let mut events = Events::of(&service, "labelSelector=l%3D1&resourceVersion=2", PLAIN).await;
    service.map("other", "2").await;
    service.map("a", "2").await;
    for (label, x) in [("1", "1"), ("1", "2"), ("2", "3"), ("2", "4"), ("1", "5")] {
        service.merge(&format!("{MAPS}/a"), json!({"metadata": {"labels": {"l": label}}, "data": {"x": x}})).await;
    }
    service.delete(&format!("{MAPS}/a")).await;
    let told =
        [events.told().await, events.told().await, events.told().await, events.told().await, events.told().await];
    assert_eq!(told, ["ADDED a", "MODIFIED a", "DELETED a", "ADDED a", "DELETED a"]);
}

#[tokio::test]
async fn a_watch_list_tells_where_the_beginning_ends() {
    let service = service();
    service.map("a", "1").await;
    let query = "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&resourceVersion=";
    let mut events = Events::of(&service, query, PLAIN).await;
    assert_eq!(events.told().await, "ADDED a");
    let mark = events.next().await.unwrap();
    assert_eq!(
        (mark["type"].as_str(), &mark["object"]["metadata"]["annotations"]),
        (Some("BOOKMARK"), &json!({"k8s.io/initial-events-end": "true"}))
    );
    assert_eq!(
        (mark["object"]["kind"].as_str(), mark["object"]["apiVersion"].as_str()),
        (Some("ConfigMap"), Some("v1"))
    );
    service.map("b", "1").await;
    assert_eq!(events.told().await, "ADDED b");
    let wrong = service.get(&format!("{MAPS}?watch=1&sendInitialEvents=true")).await;
    assert_eq!(wrong.failure().0, 400);
}

#[tokio::test]
async fn a_revision_that_is_too_old_is_an_event_of_its_own() {
    let service = service();
    let folder = tempfile::tempdir().unwrap();
    let server = crate::open(folder.path(), crate::hooks());
    server.write(Write::Create(Object::named("v1", "ConfigMap", Some("default"), "a"))).await.unwrap();
    drop(server);
    let again = Service { server: crate::open(folder.path(), crate::hooks()), _folder: folder };
    let mut events = Events::of(&again, "resourceVersion=1", PLAIN).await;
    let event = events.next().await.unwrap();
    assert_eq!(
        (event["type"].as_str(), &event["object"]["code"], &event["object"]["reason"]),
        (Some("ERROR"), &json!(410), &json!("Expired"))
    );
    assert_eq!(event["object"]["message"], json!("too old resource version: 1 (4)"));
    assert_eq!(events.told().await, "end");
    assert_eq!(service.get(&format!("{MAPS}?watch=1&resourceVersion=x")).await.failure().0, 400);
}

#[tokio::test]
async fn tables_have_headings_in_the_first_event_only() {
    let service = service();
    service.map("a", "1").await;
    let mut events = Events::of(&service, "", TABLE).await;
    let first = events.next().await.unwrap();
    service.map("b", "1").await;
    let second = events.next().await.unwrap();
    assert_eq!(
        (first["object"]["kind"].as_str(), first["object"]["columnDefinitions"].is_array()),
        (Some("Table"), true)
    );
    assert_eq!(
        (second["object"]["rows"][0]["cells"][0].as_str(), second["object"]["columnDefinitions"].is_null()),
        (Some("b"), true)
    );
}

#[tokio::test]
async fn a_watch_ends_with_the_server() {
    let service = service();
    let mut events = Events::of(&service, "resourceVersion=2", PLAIN).await;
    service.map("a", "1").await;
    assert_eq!(events.told().await, "ADDED a");
    drop(events);
    service.map("b", "1").await;
}
