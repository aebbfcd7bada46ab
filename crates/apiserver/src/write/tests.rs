use std::sync::Arc;

use api::{Key, Object, Write};
use bytes::Bytes;
use futures_util::FutureExt as _;
use http::{Method, Request};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::watch;

use crate::{Admitted, Hooks, Server, Settings};

fn hooks() -> Hooks {
    Hooks {
        admit: Arc::new(|_| Admitted::default()),
        settled: watch::channel(u64::MAX).1,
        exec: Arc::new(|_| async { Err(api::Status::internal("none")) }.boxed()),
        logs: Arc::new(|_| async { Err(api::Status::internal("none")) }.boxed()),
        extension: Arc::new(|_| async { None }.boxed()),
    }
}

fn open(folder: &TempDir, hooks: Hooks) -> Server {
    Server::open(Settings { data_dir: folder.path().to_owned(), listen: "127.0.0.1:0".parse().unwrap() }, hooks)
        .unwrap()
}

async fn call(server: &Server, method: Method, path: &str, body: Value) -> (u16, Value) {
    let body = if body.is_null() { Bytes::new() } else { Bytes::from(body.to_string()) };
    let request = Request::builder().method(method).uri(path).body(body).unwrap();
    let response = server.call(request).await;
    let code = response.status().as_u16();
    (code, serde_json::from_slice(&response.into_body().bytes().await).unwrap_or_default())
}

#[tokio::test]
async fn objects_are_made_read_and_removed_and_survive_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let server = open(&folder, hooks());
    let maps = "/api/v1/namespaces/default/configmaps";
    let (code, made) = call(
        &server,
        Method::POST,
        maps,
        json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "a"}, "data": {"x": "1"}}),
    )
    .await;
    assert_eq!((code, made["data"]["x"].as_str()), (201, Some("1")), "{made}");
    drop(server);
    let server = open(&folder, hooks());
    assert_eq!(call(&server, Method::GET, &format!("{maps}/a"), Value::Null).await, (200, made));
    let (code, status) = call(&server, Method::DELETE, &format!("{maps}/a"), Value::Null).await;
    assert_eq!((code, status["status"].as_str()), (200, Some("Success")));
    assert_eq!(call(&server, Method::GET, &format!("{maps}/a"), Value::Null).await.0, 404);
}

#[tokio::test]
async fn the_feed_tells_what_is_and_then_what_happens() {
    let folder = tempfile::tempdir().unwrap();
    let server = open(&folder, hooks());
    let mut feed = server.subscribe();
    let first = feed.next().await.unwrap();
    assert_eq!(
        first.events.iter().map(|event| event.key.name.as_str()).collect::<Vec<_>>(),
        ["default", "kube-system"]
    );
    let made = server.write(Write::Create(Object::named("v1", "ConfigMap", Some("default"), "a"))).await.unwrap();
    let batch = feed.next().await.unwrap();
    assert_eq!((batch.revision, batch.events.len()), (made.revision(), 1));
    assert_eq!(batch.events[0].key, Key::namespaced("", "configmaps", "default", "a"));
}
