//! What clients send, for fuzzing (`fuzz/README.md`): each parser that bytes of a connection reach before they are an object, with
//! what must hold of any input. Whole requests are fuzzed from outside (`tests/mutated.rs`).

#[cfg(test)]
#[path = "../../../fuzz/mutate.rs"]
mod mutate;

use crate::request::{Place, Query};
use crate::stream::fuzz::{self as stream, Seeds};

/// Name, what reads the bytes and asserts what must hold of any, and the seeds that it begins with.
pub type Parser = (&'static str, fn(&[u8]), fn() -> Seeds);

/// All of them.
pub const PARSERS: &[Parser] = &[
    ("api-path", path, paths),
    ("spdy", stream::frames, stream::frames_seeds),
    ("spdy-session", stream::spdy, stream::frames_seeds),
    ("websocket-session", stream::websocket, stream::messages_seeds),
    ("port-forward", stream::forwards, stream::forwards_seeds),
    ("upgrade-headers", stream::headers, stream::headers_seeds),
];

/// A path and its query: no part of a place is empty or leads elsewhere, and a place is the same when its parts are written out.
fn path(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let (path, query) = text.split_once('?').unwrap_or((&text, ""));
    let query = Query::parse(query);
    for name in ["watch", "limit", "command", "dryRun"] {
        assert!(query.get(name).is_none_or(|value| !value.is_empty()));
        assert!(query.number(name).is_none() || query.get(name).is_some());
    }
    let Some(place) = Place::parse(path) else { return };
    let whole = |part: &str| !part.is_empty() && !part.contains(['/', '\0']) && part != "." && part != "..";
    let mut written =
        if place.group.is_empty() { "/api".to_owned() } else { format!("/apis/{}", escaped(&place.group)) };
    let namespace = place.namespace.as_deref().into_iter().flat_map(|name| ["namespaces", name]);
    let parts = [place.version.as_str()].into_iter().chain(namespace).chain([place.plural.as_str()]);
    for part in parts.chain(place.name.as_deref()).chain(place.subresource.as_deref()) {
        assert!(whole(part), "{place:?}");
        written.push('/');
        written.push_str(&escaped(part));
    }
    assert_eq!(Place::parse(&written).as_ref(), Some(&place), "{written}");
}

fn escaped(part: &str) -> String {
    part.bytes().fold(String::new(), |written, byte| format!("{written}%{byte:02x}"))
}

fn paths() -> Seeds {
    [
        "/api/v1/namespaces/foo/pods/a/log?follow=true&tailLines=5&container=c",
        "/apis/apps/v1/namespaces/foo/deployments/a%2Db/scale",
        "/api/v1/namespaces/foo/finalize",
        "/api/v1/namespaces/foo/pods/a/exec?command=sh&command=-c&command=a+b%3Bc&stdin=1&x=a;b&bad=%zz",
        "/apis/security.istio.io/v1/authorizationpolicies?watch=1&limit=500&labelSelector=a%3Db",
    ]
    .map(|path| path.as_bytes().to_vec())
    .to_vec()
}

#[cfg(test)]
mod tests {
    use super::{PARSERS, mutate};

    /// Changes of one seed by one parser.
    const ROUNDS: u64 = 400;
    const TOKENS: &[&[u8]] = &[
        b"%2f",
        b"%zz",
        b"..",
        b"&",
        b"=",
        b"?",
        b";",
        b"namespaces/",
        b"\x80\x03\0\x01\0",
        b"\x80\x03\0\x06\0\0\0\x04",
        b"\0\0\0\x03\x01\0\0\x05",
        b"\x82\x85\0\0\0\0",
        b"\x88\x80\0\0\0\0",
        b"{\"Width\":1,\"Height\":",
        b"\r\n",
        b", ",
    ];

    #[test]
    fn no_parser_fails_on_mutated_input() {
        mutate::none_fails(PARSERS, TOKENS, ROUNDS);
    }
}
