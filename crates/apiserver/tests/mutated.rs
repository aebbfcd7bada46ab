//! Requests over seeds that are changed a little (`fuzz/mutate.rs`): each is answered, and none is our fault. The same requests
//! are fuzzed with coverage by libFuzzer: `fuzz/README.md`.
#![cfg(test)]

#[path = "../../../fuzz/mutate.rs"]
mod mutate;
#[path = "support/requests.rs"]
mod requests;

/// Changes of one seed.
const ROUNDS: u64 = 250;

const TOKENS: &[&[u8]] = &[
    b"%2f",
    b"..",
    b"&",
    b"=",
    b"?",
    b"true",
    b"\"",
    b"{",
    b"}",
    b"[",
    b"]",
    b":",
    b",",
    b"null",
    b"{\"a\": 1}",
    b"/status",
    b"/scale",
    b"?watch=1",
    b"&resourceVersion=0",
    b"generateName",
    b"\"kind\": \"Pod\"",
    b"application/yaml",
    b"name",
    b"DELETE ",
    b"PATCH ",
    b"PUT ",
    b"resourceVersionMatch=Exact",
    b"\x12\xff\xff\xff\xff\x0f",
    b"1e999",
    b"- ",
];

#[test]
fn no_parser_fails_on_mutated_input() {
    mutate::none_fails(requests::PARSERS, TOKENS, ROUNDS);
}
