//! OpenAPI, as little as clients need: version 2 without content, version 3 with one document for each group and version.
//!
//! A document says of each kind that the server itself validates fields, which makes kubectl leave that to us.

use api::{Kind, Kinds};
use http::header::{ACCEPT, CACHE_CONTROL, ETAG, HeaderValue};
use http::{HeaderMap, Response, StatusCode};
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use crate::request::Query;
use crate::{Body, reply, request};

const TITLE: &str = "tidegate";
const VERSION: &str = "v1";
const PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
/// Bytes of the digest that make the hash of a document.
const HASH_BYTES: usize = 16;

/// Answers a path below `/openapi`; none for any other.
pub(crate) fn answer(kinds: &Kinds, path: &str, headers: &HeaderMap, query: &Query) -> Option<Response<Body>> {
    if path == "/openapi/v2" {
        return Some(version_2(headers));
    }
    let rest = path.strip_prefix("/openapi/v3")?;
    if rest.is_empty() {
        return Some(index(kinds));
    }
    let name = rest.strip_prefix('/')?;
    let (group, version) = versions(kinds).into_iter().find(|(group, version)| name_of(group, version) == name)?;
    let (text, hash) = document(kinds, &group, &version);
    let mut response = reply::typed(StatusCode::OK, "application/json", text);
    // A client that asks by hash gets what it will never need to ask for again.
    if query.get("hash") == Some(&hash) {
        response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("public, immutable, max-age=31536000"));
    }
    if let Ok(tag) = HeaderValue::from_str(&format!("\"{hash}\"")) {
        response.headers_mut().insert(ETAG, tag);
    }
    Some(response)
}

fn version_2(headers: &HeaderMap) -> Response<Body> {
    if request::values(headers, ACCEPT).any(|wanted| wanted.contains("proto-openapi")) {
        // Fields 1 (swagger), 2 (info: 1 title, 2 version) and 8 (paths) of the message.
        let info = [&[0x0a, length(TITLE)], TITLE.as_bytes(), &[0x12, length(VERSION)], VERSION.as_bytes()].concat();
        let text = [b"\x0a\x032.0\x12".as_slice(), &[u8::try_from(info.len()).unwrap_or_default()], &info, b"\x42\x00"]
            .concat();
        return reply::typed(StatusCode::OK, PROTOBUF, text);
    }
    reply::json(StatusCode::OK, &json!({"swagger": "2.0", "info": {"title": TITLE, "version": VERSION}, "paths": {}}))
}

fn length(text: &str) -> u8 {
    u8::try_from(text.len()).unwrap_or_default()
}

fn versions(kinds: &Kinds) -> Vec<(String, String)> {
    let pairs = kinds
        .groups()
        .into_iter()
        .flat_map(|(group, versions)| versions.into_iter().map(move |version| (group, version)));
    pairs.map(|(group, version)| (group.to_owned(), version.to_owned())).collect()
}

fn name_of(group: &str, version: &str) -> String {
    if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") }
}

fn index(kinds: &Kinds) -> Response<Body> {
    let mut paths = Map::new();
    for (group, version) in versions(kinds) {
        let (name, hash) = (name_of(&group, &version), document(kinds, &group, &version).1);
        let url = format!("/openapi/v3/{name}?hash={hash}");
        paths.insert(name, json!({"serverRelativeURL": url}));
    }
    reply::json(StatusCode::OK, &json!({"paths": paths}))
}

fn document(kinds: &Kinds, group: &str, version: &str) -> (String, String) {
    let (mut paths, mut schemas) = (Map::new(), Map::new());
    for kind in kinds.in_version(group, version).filter(|kind| kind.stored()) {
        let named = json!([{"group": group, "version": version, "kind": kind.kind}]);
        let scope = if kind.namespaced { "/namespaces/{namespace}" } else { "" };
        let path = format!("/{}{scope}/{}/{{name}}", name_of(group, version), kind.plural);
        paths.insert(path, json!({"patch": operation(&kind.kind, group, version)}));
        if let Some(mut schema) = schema(kind, version) {
            if let Some(fields) = schema.as_object_mut() {
                fields.insert("x-kubernetes-group-version-kind".to_owned(), named);
            }
            schemas.insert(schema_name(kind, version), schema);
        }
    }
    let document = json!({
        "openapi": "3.0.0", "info": {"title": TITLE, "version": VERSION}, "paths": paths, "components": {"schemas": schemas},
    });
    let text = document.to_string();
    let digest = Sha256::digest(text.as_bytes());
    let start = digest.first_chunk::<HASH_BYTES>().copied().unwrap_or_default();
    let hash = format!("{:032X}", u128::from_be_bytes(start));
    (text, hash)
}

fn operation(kind: &str, group: &str, version: &str) -> Value {
    let parameter =
        |name: &str| json!({"name": name, "in": "query", "schema": {"type": "string", "uniqueItems": true}});
    json!({
        "operationId": format!("patch{kind}"),
        "parameters": [parameter("dryRun"), parameter("fieldManager"), parameter("fieldValidation")],
        "responses": {"200": {"description": "OK"}},
        "x-kubernetes-action": "patch",
        "x-kubernetes-group-version-kind": {"group": group, "version": version, "kind": kind},
    })
}

fn schema(kind: &Kind, version: &str) -> Option<Value> {
    kind.version(version)?.schema.as_ref().map(|schema| schema.document().clone())
}

/// The group backwards, as Java packages are named.
fn schema_name(kind: &Kind, version: &str) -> String {
    let mut parts: Vec<&str> = kind.group.split('.').rev().collect();
    parts.extend([version, kind.kind.as_str()]);
    parts.join(".")
}
