//! The objects of a running mesh as texts: YAML, so that they are shown and edited like files.

use anyhow::Context;
use control::bundle::Text;
use http_body_util::BodyExt;
use serde_json::Value;

use super::{ReadArguments, kubeconfig};
use crate::client::{self, Server};
use crate::exit::{Exit, ExitWith, Failure};
use crate::settings::Place;

/// What an answer can depend on: path of the list, and the name it is shown under.
const LISTS: [(&str, &str); 13] = [
    ("/api/v1/namespaces", "namespaces"),
    ("/api/v1/namespaces/istio-system/configmaps", "configmaps"),
    ("/api/v1/serviceaccounts", "serviceaccounts"),
    ("/api/v1/services", "services"),
    ("/api/v1/pods", "pods"),
    ("/apis/apps/v1/replicasets", "replicasets"),
    ("/apis/apps/v1/deployments", "deployments"),
    ("/apis/apps/v1/statefulsets", "statefulsets"),
    ("/apis/apps/v1/daemonsets", "daemonsets"),
    ("/apis/batch/v1/jobs", "jobs"),
    ("/apis/batch/v1/cronjobs", "cronjobs"),
    ("/apis/security.istio.io/v1/authorizationpolicies", "authorizationpolicies"),
    ("/apis/security.istio.io/v1/peerauthentications", "peerauthentications"),
];
/// Bytes of YAML after which a new text is begun, well below the longest that is read.
const TEXT_BYTES: usize = 4 * 1024 * 1024;

/// Every object that counts, from the mesh of this machine or from the cluster of a kubeconfig.
pub(super) fn texts(how: &ReadArguments) -> Result<Vec<Text>, Failure> {
    let runtime = client::runtime()?;
    let server = match &how.kubeconfig {
        Some(path) => kubeconfig::server(path, how.context.as_deref()).exit_with(Exit::BadInput)?,
        None => client::server(&Place::resolve(&how.place)?).exit_with(Exit::Unreachable)?,
    };
    runtime.block_on(async {
        let mut texts = Vec::new();
        for (path, name) in LISTS {
            if let Some(list) = list(&server, path).await? {
                add(&list, name, &mut texts);
            }
        }
        Ok(texts)
    })
}

/// One list; none where the server does not have the kind.
async fn list(server: &Server, path: &str) -> Result<Option<Value>, Failure> {
    let response = client::ask(server, path).await.exit_with(Exit::Unreachable)?;
    if response.status() == http::StatusCode::NOT_FOUND {
        return Ok(None);
    }
    if !response.status().is_success() {
        return Err(Failure::new(Exit::Unreachable, client::refusal(response, path).await));
    }
    let body = response.into_body().collect().await.with_context(|| format!("reading `{path}`"));
    let list = serde_json::from_slice(&body.exit_with(Exit::Unreachable)?.to_bytes());
    list.with_context(|| format!("reading `{path}`")).exit_with(Exit::Failure).map(Some)
}

/// The items of a list, a document each.
fn add(list: &Value, name: &str, texts: &mut Vec<Text>) {
    let word = |field: &str| list.get(field).and_then(Value::as_str).unwrap_or_default();
    let (api_version, kind) = (word("apiVersion"), word("kind").trim_end_matches("List"));
    let mut text = String::new();
    let mut parts = 0;
    for item in list.get("items").and_then(Value::as_array).into_iter().flatten() {
        let mut item = item.clone();
        if let Some(fields) = item.as_object_mut() {
            // Items of lists do not repeat what the list says.
            fields.shift_insert(0, "apiVersion".to_owned(), Value::from(api_version));
            fields.shift_insert(1, "kind".to_owned(), Value::from(kind));
        }
        if let Some(metadata) = item.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.shift_remove("managedFields");
        }
        text.push_str("---\n");
        text.push_str(&api::yaml::print(&item));
        if text.len() > TEXT_BYTES {
            parts += 1;
            texts.push(Text { name: format!("live/{name}-{parts}"), bytes: std::mem::take(&mut text).into_bytes() });
        }
    }
    if !text.is_empty() {
        texts.push(Text { name: format!("live/{name}"), bytes: text.into_bytes() });
    }
}
