//! Which path is whose.

use std::sync::Arc;

use api::Status;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use serde_json::json;

use crate::authn::User;
use crate::request::{Place, Query};
use crate::server::Inner;
use crate::{Body, discovery, reply, resource};

/// The version that the server gives itself: clients choose their behaviour by its number, and all of 1.20 to 1.37 accept this one.
const VERSION: &str = "v1.32.0+tidegate";

/// A request with its path and query taken apart.
#[derive(Debug)]
pub(crate) struct Ask {
    pub(crate) request: Request<Bytes>,
    pub(crate) query: Query,
}

/// Answers one request.
pub(crate) async fn answer(inner: &Arc<Inner>, request: Request<Bytes>, user: User) -> Response<Body> {
    let path = request.uri().path().trim_end_matches('/').to_owned();
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    match path.as_str() {
        "/version" if reads => return version(),
        "/healthz" | "/livez" | "/readyz" if reads => return reply::text(StatusCode::OK, "ok"),
        _ => {}
    }
    if user == User::Anonymous {
        return reply::status(&Status::unauthorized());
    }
    if path.starts_with("/tidegate/") {
        return (inner.hooks.extension)(request).await.unwrap_or_else(reply::no_such_path);
    }
    let query = Query::parse(request.uri().query().unwrap_or_default());
    let kinds = inner.kinds.of(&inner.store.state().objects);
    if reads {
        let found = discovery::answer(&kinds, &path, request.headers(), inner.address())
            .or_else(|| inner.documents.answer(&kinds, &path, request.headers(), &query));
        if let Some(response) = found {
            return response;
        }
    }
    let ask = Ask { request, query };
    match Place::parse(&path) {
        Some(place) => {
            resource::answer(inner, &kinds, place, ask).await.unwrap_or_else(|status| reply::status(&status))
        }
        None => reply::no_such_path(),
    }
}

fn version() -> Response<Body> {
    reply::json(
        StatusCode::OK,
        &json!({
            "major": "1", "minor": "32", "gitVersion": VERSION, "gitCommit": "", "gitTreeState": "", "buildDate": "",
            "goVersion": "", "compiler": "", "platform": "linux/amd64",
        }),
    )
}
