//! Every parser of texts over seeds that are changed a little (`fuzz/mutate.rs`). The same parsers are fuzzed with coverage by
//! libFuzzer: `fuzz/README.md`.
#![cfg(test)]

#[path = "../../../fuzz/mutate.rs"]
mod mutate;
#[path = "support/parsers.rs"]
mod parsers;

/// Changes of one seed by one parser.
const ROUNDS: u64 = 11;

/// The signs that YAML, JSON, protobuf and policies are made of.
const TOKENS: &[&[u8]] = &[
    b"\n---\n",
    b"- ",
    b": ",
    b"{",
    b"}",
    b"[",
    b"]",
    b"'",
    b"\"",
    b"&a ",
    b"*a",
    b"<<: *a",
    b"!!str ",
    b"|",
    b">-",
    b"#",
    b"null",
    b"~",
    b"true",
    b"y",
    b"0x10",
    b"1e999",
    b"10.0.0.0/33",
    b"::ffff:1.2.3.4",
    b"{}",
    b"[[[[[[[[",
    b"rules:",
    b"spiffe://",
    b"\x12\xff\xff\xff\xff\x0f",
    b",",
    b"!",
    b"(",
    b")",
    b" in (",
    b"=",
    b"8-7",
    b"Ki",
    b"e-9",
];

#[test]
fn no_parser_fails_on_mutated_input() {
    assert!(parsers::seeds().len() > 60, "only {} seeds", parsers::seeds().len());
    mutate::none_fails(parsers::PARSERS, TOKENS, ROUNDS);
}
