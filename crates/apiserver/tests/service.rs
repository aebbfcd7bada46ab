//! The server in process: every behaviour that needs no network.
#![cfg(test)]

use std::path::Path;
use std::sync::Arc;

use api::admission::{Admission, Admitted};
use apiserver::{Body, Hooks, Server, Settings};
use bytes::Bytes;
use futures_util::FutureExt as _;
use http::header::{ACCEPT, CONTENT_TYPE, WARNING};
use http::{Method, Request, Response};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::watch;

#[path = "service/applies.rs"]
mod applies;
#[path = "service/deletes.rs"]
mod deletes;
#[path = "service/discovery.rs"]
mod discovery;
#[path = "service/reads.rs"]
mod reads;
#[path = "service/watches.rs"]
mod watches;
#[path = "service/writes.rs"]
mod writes;

/// A server of its own folder.
pub(crate) struct Service {
    pub(crate) server: Server,
    _folder: TempDir,
}

/// An answer with its JSON.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) code: u16,
    pub(crate) value: Value,
    pub(crate) warnings: Vec<String>,
    /// What it says of the time it took.
    pub(crate) timing: Option<String>,
}

impl Answer {
    pub(crate) fn text(&self, pointer: &str) -> &str {
        self.value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
    }

    pub(crate) fn message(&self) -> &str {
        self.text("/message")
    }

    /// Code, reason and message of a failure.
    pub(crate) fn failure(&self) -> (u16, &str, &str) {
        assert_eq!((self.text("/kind"), self.text("/status")), ("Status", "Failure"), "{:?}", self.value);
        (self.code, self.text("/reason"), self.message())
    }
}

pub(crate) fn hooks() -> Hooks {
    Hooks {
        admit: Arc::new(|_| Admitted::default()),
        settled: watch::channel(u64::MAX).1,
        exec: Arc::new(|_| async { Err(api::Status::internal("none")) }.boxed()),
        logs: Arc::new(|_| async { Err(api::Status::internal("none")) }.boxed()),
        forward: Arc::new(|_| async { Err(api::Status::unavailable("no pods here")) }.boxed()),
        extension: Arc::new(|_| async { None }.boxed()),
    }
}

pub(crate) fn open(folder: &Path, hooks: Hooks) -> Server {
    Server::open(Settings { data_dir: folder.to_owned(), listen: "127.0.0.1:0".parse().unwrap() }, hooks).unwrap()
}

pub(crate) fn service() -> Service {
    service_with(hooks())
}

pub(crate) fn service_with(hooks: Hooks) -> Service {
    let folder = tempfile::tempdir().unwrap();
    Service { server: open(folder.path(), hooks), _folder: folder }
}

pub(crate) fn admitting(admit: impl Fn(&Admission<'_>) -> Admitted + Send + Sync + 'static) -> Service {
    service_with(Hooks { admit: Arc::new(admit), ..hooks() })
}

impl Service {
    pub(crate) async fn send(&self, request: Request<Bytes>) -> Answer {
        let response = self.server.call(request).await;
        let code = response.status().as_u16();
        let warnings =
            response.headers().get_all(WARNING).iter().map(|value| value.to_str().unwrap().to_owned()).collect();
        let timing = response.headers().get("server-timing").map(|value| value.to_str().unwrap().to_owned());
        let bytes = response.into_body().bytes().await;
        let value = serde_json::from_slice(&bytes).unwrap_or_else(|_| Value::from(String::from_utf8_lossy(&bytes)));
        Answer { code, value, warnings, timing }
    }

    pub(crate) async fn typed(&self, method: Method, path: &str, content_type: &str, body: impl Into<Bytes>) -> Answer {
        self.send(
            Request::builder().method(method).uri(path).header(CONTENT_TYPE, content_type).body(body.into()).unwrap(),
        )
        .await
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send(Request::get(path).body(Bytes::new()).unwrap()).await
    }

    pub(crate) async fn get_as(&self, path: &str, accept: &str) -> Answer {
        self.send(Request::get(path).header(ACCEPT, accept).body(Bytes::new()).unwrap()).await
    }

    pub(crate) async fn stream(&self, path: &str, accept: &str) -> Response<Body> {
        self.server.call(Request::get(path).header(ACCEPT, accept).body(Bytes::new()).unwrap()).await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Answer {
        self.typed(Method::POST, path, "application/json", body.to_string()).await
    }

    pub(crate) async fn put(&self, path: &str, body: Value) -> Answer {
        self.typed(Method::PUT, path, "application/json", body.to_string()).await
    }

    pub(crate) async fn merge(&self, path: &str, change: Value) -> Answer {
        self.typed(Method::PATCH, path, "application/merge-patch+json", change.to_string()).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        self.send(Request::delete(path).body(Bytes::new()).unwrap()).await
    }

    pub(crate) async fn delete_with(&self, path: &str, options: Value) -> Answer {
        self.typed(Method::DELETE, path, "application/json", options.to_string()).await
    }

    /// Makes a config map in `default` with one label.
    pub(crate) async fn map(&self, name: &str, label: &str) -> Answer {
        let made =
            self.post(MAPS, json!({"metadata": {"name": name, "labels": {"l": label}}, "data": {"x": "1"}})).await;
        assert_eq!(made.code, 201, "{:?}", made.value);
        made
    }

    /// Serves the kind `Widget` of `example.com` in `v1` (stored) and `v1beta1`.
    pub(crate) async fn widgets(&self) {
        let schema = json!({"openAPIV3Schema": {"type": "object", "properties": {
            "spec": {"type": "object", "properties": {"size": {"type": "integer", "minimum": 1}, "color": {"type": "string", "default": "red"}}},
            "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}});
        let version = |name: &str, storage: bool| json!({"name": name, "served": true, "storage": storage, "schema": schema, "subresources": {"status": {}}});
        let made = self.post("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", json!({
            "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "widgets.example.com"},
            "spec": {"group": "example.com", "scope": "Namespaced", "names": {"plural": "widgets", "kind": "Widget", "singular": "widget"},
                "versions": [version("v1", true), version("v1beta1", false)]}})).await;
        assert_eq!(made.code, 201, "{:?}", made.value);
    }
}

pub(crate) const MAPS: &str = "/api/v1/namespaces/default/configmaps";
pub(crate) const WIDGETS: &str = "/apis/example.com/v1/namespaces/default/widgets";

#[expect(clippy::needless_pass_by_value, reason = "callers build it in place")]
pub(crate) fn widget(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": name}, "spec": spec})
}
