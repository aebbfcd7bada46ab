//! One parser under libFuzzer, named by the environment: `FUZZ_PARSER=yaml fuzz/run 60`. With `FUZZ_SEEDS=FOLDER` its seeds are
//! written there instead, and with `FUZZ_LIST=1` the names of all are printed.
#![no_main]
#![allow(missing_docs, dead_code)] // of the files that are taken in, only a part is called

#[path = "../../crates/cli/src/client/server.rs"]
mod client_server;
mod kubeconfig;
#[path = "../../crates/apiserver/tests/support/requests.rs"]
mod requests;
#[path = "../../crates/control/tests/support/parsers.rs"]
mod texts;

/// Where `kubeconfig` looks for the server that it makes.
mod client {
    pub(crate) use crate::client_server::Server;
}

use std::process::exit;
use std::sync::LazyLock;

/// Name, what reads the bytes and asserts what must hold of any, and the seeds that it begins with.
type Parser = (&'static str, fn(&[u8]), fn() -> Vec<Vec<u8>>);

fn all() -> impl Iterator<Item = &'static Parser> {
    let here: [&[Parser]; 3] = [texts::PARSERS, requests::PARSERS, kubeconfig::fuzz::PARSERS];
    let crates: [&[Parser]; 4] =
        [apiserver::fuzz::PARSERS, local::fuzz::PARSERS, linux::fuzz::PARSERS, dataplane::fuzz::PARSERS];
    here.into_iter().chain(crates).flatten()
}

static PARSER: LazyLock<&Parser> = LazyLock::new(|| {
    let wanted = std::env::var("FUZZ_PARSER").expect("FUZZ_PARSER names a parser");
    let known: Vec<&str> = all().map(|(name, ..)| *name).collect();
    all().find(|(name, ..)| *name == wanted).unwrap_or_else(|| panic!("`{wanted}` is no parser; {} are", known.join(", ")))
});

fn asked_otherwise() {
    if std::env::var_os("FUZZ_LIST").is_some() {
        all().for_each(|(name, ..)| println!("{name}"));
        exit(0);
    }
    if let Some(folder) = std::env::var_os("FUZZ_SEEDS") {
        for (number, seed) in (PARSER.2)().iter().enumerate() {
            let path = std::path::Path::new(&folder).join(format!("seed-{number}"));
            std::fs::write(&path, seed).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        }
        exit(0);
    }
}

libfuzzer_sys::fuzz_target!(
    init: asked_otherwise(),
    |bytes: &[u8]| (PARSER.1)(bytes)
);
