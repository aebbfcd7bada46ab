//! `OpenAPI` as clients ask for it: version 2 in one piece, version 3 with one document for each group and version.
//!
//! Documents are written when they are first asked for, and kept as long as the kinds stay what they are.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use api::{Kinds, openapi};
use bytes::Bytes;
use http::header::{ACCEPT, CACHE_CONTROL, ETAG, HeaderValue};
use http::{HeaderMap, Response, StatusCode};
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use crate::request::Query;
use crate::{Body, reply, request};

const PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
/// Bytes of the digest that make the hash of a document.
const HASH_BYTES: usize = 16;

/// The documents of the kinds that are served now.
#[derive(Debug, Default)]
pub(crate) struct Documents(Mutex<Option<(Arc<Kinds>, Arc<Written>)>>);

/// The documents of one set of kinds, each written once.
#[derive(Debug, Default)]
struct Written {
    version_2: OnceLock<Value>,
    protobuf: OnceLock<Bytes>,
    version_3: OnceLock<Vec<Document>>,
}

/// A document of version 3.
#[derive(Debug)]
struct Document {
    place: String,
    text: Bytes,
    hash: String,
}

impl Documents {
    /// Answers a path below `/openapi`; none for any other.
    pub(crate) fn answer(
        &self,
        kinds: &Arc<Kinds>,
        path: &str,
        headers: &HeaderMap,
        query: &Query,
    ) -> Option<Response<Body>> {
        let rest = path.strip_prefix("/openapi")?;
        let written = self.of(kinds);
        if rest == "/v2" {
            return Some(version_2(&written, kinds, headers));
        }
        let rest = rest.strip_prefix("/v3")?;
        let documents = written.version_3.get_or_init(|| version_3(kinds));
        if rest.is_empty() {
            return Some(index(documents));
        }
        let place = rest.strip_prefix('/')?;
        let document = documents.iter().find(|document| document.place == place)?;
        let mut response = reply::typed(StatusCode::OK, "application/json", document.text.clone());
        // A client that asks by hash gets what it will never need to ask for again.
        if query.get("hash") == Some(&document.hash) {
            let forever = HeaderValue::from_static("public, immutable, max-age=31536000");
            response.headers_mut().insert(CACHE_CONTROL, forever);
        }
        if let Ok(tag) = HeaderValue::from_str(&format!("\"{}\"", document.hash)) {
            response.headers_mut().insert(ETAG, tag);
        }
        Some(response)
    }

    fn of(&self, kinds: &Arc<Kinds>) -> Arc<Written> {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &*last {
            // The kinds are held, so that equal addresses mean the same kinds.
            Some((before, written)) if Arc::ptr_eq(before, kinds) => Arc::clone(written),
            _ => {
                let written = Arc::<Written>::default();
                *last = Some((Arc::clone(kinds), Arc::clone(&written)));
                written
            }
        }
    }
}

fn version_2(written: &Written, kinds: &Kinds, headers: &HeaderMap) -> Response<Body> {
    let document = written.version_2.get_or_init(|| openapi::version_2(kinds));
    if request::values(headers, ACCEPT).any(|wanted| wanted.contains("proto-openapi")) {
        let bytes = written.protobuf.get_or_init(|| Bytes::from(openapi::encode(document)));
        return reply::typed(StatusCode::OK, PROTOBUF, bytes.clone());
    }
    reply::json(StatusCode::OK, document)
}

fn version_3(kinds: &Kinds) -> Vec<Document> {
    let groups = kinds.groups();
    let pairs = groups.iter().flat_map(|(group, versions)| versions.iter().map(move |version| (*group, *version)));
    let document = |(group, version): (&str, &str)| {
        let text = openapi::version_3(kinds, group, version).to_string();
        let digest = Sha256::digest(text.as_bytes());
        let start = digest.first_chunk::<HASH_BYTES>().copied().unwrap_or_default();
        let hash = format!("{:032X}", u128::from_be_bytes(start));
        Document { place: openapi::place(group, version), text: Bytes::from(text), hash }
    };
    pairs.map(document).collect()
}

fn index(documents: &[Document]) -> Response<Body> {
    let url = |document: &Document| {
        let url = format!("/openapi/v3/{}?hash={}", document.place, document.hash);
        (document.place.clone(), json!({"serverRelativeURL": url}))
    };
    let paths: Map<String, Value> = documents.iter().map(url).collect();
    reply::json(StatusCode::OK, &json!({"paths": paths}))
}
