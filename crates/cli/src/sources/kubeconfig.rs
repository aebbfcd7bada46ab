//! The server that a kubeconfig names, with its credentials: CA, token, client certificate.
//!
//! Not here: credentials that another program would have to make, and servers that are to be trusted unseen.

#[cfg(test)]
mod fuzz;
mod parse;

use std::path::Path;

use anyhow::{Context, Result};

use crate::client::Server;

/// The server of a context, or of the current one.
pub(super) fn server(path: &Path, context: Option<&str>) -> Result<Server> {
    let shown = || format!("--kubeconfig {}", path.display());
    let folder = path.parent().unwrap_or_else(|| Path::new("."));
    let text = text(path).with_context(shown)?;
    parse::parse(&text, context, &|named| self::text(&folder.join(named))).with_context(shown)
}

/// A file of text, no longer than any that is read.
fn text(path: &Path) -> Result<String> {
    String::from_utf8(super::file(path)?).context("not UTF-8")
}

#[cfg(test)]
#[path = "../../../../fuzz/mutate.rs"]
mod mutate;

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{fuzz, mutate, server};

    /// Changes of one seed.
    const ROUNDS: u64 = 400;
    const TOKENS: &[&[u8]] = &[
        b": ",
        b"{",
        b"}",
        b"- ",
        b"&a ",
        b"*a",
        b"null",
        b"https://",
        b"[::1]",
        b"name: a",
        b"Q0E=",
        b"#",
        b"'",
        b", ",
    ];

    #[test]
    fn no_parser_fails_on_mutated_input() {
        mutate::none_fails(fuzz::PARSERS, TOKENS, ROUNDS);
    }

    #[test]
    fn what_is_no_file_is_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config");
        let text = "current-context: a\ncontexts: [{name: a, context: {cluster: c, user: u}}]\nusers: [{name: u, user: {token: t}}]\n\
                    clusters: [{name: c, cluster: {server: 'https://x', certificate-authority: /dev/zero}}]\n";
        std::fs::write(&path, text).unwrap();
        for (path, words) in [(path.as_path(), "reading `/dev/zero`"), (Path::new("/dev/zero"), "neither a file")] {
            let error = server(path, None).err().map(|error| format!("{error:#}")).unwrap_or_default();
            assert!(error.contains(words) && error.contains("neither a file nor a directory"), "{error}");
        }
    }
}
