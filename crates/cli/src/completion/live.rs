//! Names from the mesh that runs. Whatever goes wrong gives no names: somebody is typing.

use std::collections::BTreeSet;
use std::time::Duration;

use http_body_util::BodyExt;
use serde_json::Value;

use super::words::Kind;
use crate::args::DataDirArgument;
use crate::client;
use crate::settings::Place;

/// How long somebody who has pressed Tab is kept waiting: a mesh on this machine answers in milliseconds.
const ANSWER_MAX: Duration = Duration::from_millis(500);

/// All names of a kind, sorted; workloads as `NAME.NAMESPACE`, policies as `NAMESPACE/NAME`.
pub(super) fn names(place: &DataDirArgument, kind: Kind) -> Vec<String> {
    let Ok(place) = Place::resolve(place) else { return Vec::new() };
    let Ok(runtime) = client::runtime() else { return Vec::new() };
    let lists: &[&str] = match kind {
        Kind::Workload => &["/apis/apps/v1/deployments", "/api/v1/pods"],
        Kind::Policy => &["/apis/security.istio.io/v1/authorizationpolicies"],
        Kind::Namespace => &["/api/v1/namespaces"],
        Kind::Image => &[crate::mesh::IMAGES_PATH],
    };
    let all = async {
        let mut names = BTreeSet::new();
        for path in lists {
            let Ok(items) = list(&place, path).await else { continue };
            names.extend(items.iter().filter_map(|item| name(item, kind)));
        }
        names
    };
    runtime.block_on(async { tokio::time::timeout(ANSWER_MAX, all).await }).unwrap_or_default().into_iter().collect()
}

async fn list(place: &Place, path: &str) -> anyhow::Result<Vec<Value>> {
    let body = client::get(place, path).await?.into_body().collect().await?.to_bytes();
    let mut list: Value = serde_json::from_slice(&body)?;
    let items = if path == crate::mesh::IMAGES_PATH { "images" } else { "items" };
    Ok(list.get_mut(items).and_then(Value::as_array_mut).map(std::mem::take).unwrap_or_default())
}

fn name(item: &Value, kind: Kind) -> Option<String> {
    if kind == Kind::Image {
        return Some(item.get("name")?.as_str()?.to_owned());
    }
    let name = item.pointer("/metadata/name")?.as_str()?;
    let namespace = item.pointer("/metadata/namespace").and_then(Value::as_str).unwrap_or_default();
    match kind {
        Kind::Namespace | Kind::Image => Some(name.to_owned()),
        Kind::Policy => Some(format!("{namespace}/{name}")),
        // Of a pod that belongs to a Deployment nobody types the name.
        Kind::Workload if item.pointer("/metadata/ownerReferences/0").is_some() => None,
        Kind::Workload => Some(format!("{name}.{namespace}")),
    }
}
