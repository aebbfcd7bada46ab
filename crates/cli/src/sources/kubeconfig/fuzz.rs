//! Kubeconfigs, for fuzzing (`fuzz/README.md`): a file of other programs, often from elsewhere, with what must hold of any.

use anyhow::anyhow;

use super::parse::parse;

/// What a parser begins with.
type Seeds = Vec<Vec<u8>>;
/// Name, what reads the bytes and asserts what must hold of any, and the seeds that it begins with.
pub(crate) type Parser = (&'static str, fn(&[u8]), fn() -> Seeds);

/// All of them.
pub(crate) const PARSERS: &[Parser] = &[("kubeconfig", kubeconfig, kubeconfigs)];

/// A server that is trusted by a named authority and gets credentials of ours, or a reason; files are only read where they are named.
fn kubeconfig(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    for context in [None, Some("a"), Some("b")] {
        let read = |named: &str| {
            assert!(!named.is_empty());
            if named.contains("pem") { Ok("PEM".to_owned()) } else { Err(anyhow!("not there")) }
        };
        match parse(&text, context, &read) {
            Ok(server) => {
                assert!(server.token.is_some() || server.client.is_some());
                assert!(!server.ca_pem.is_empty() && !server.host.is_empty() && !server.prefix.ends_with('/'));
            }
            Err(why) => assert!(!format!("{why:#}").is_empty()),
        }
    }
}

fn kubeconfigs() -> Seeds {
    let config = |cluster: &str, user: &str| {
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: a\ncontexts:\n- name: a\n  context: {{cluster: c, user: u, namespace: n}}\n\
             - name: b\n  context: {{cluster: gone, user: u}}\nclusters:\n- name: c\n  cluster: {{{cluster}}}\nusers:\n- name: u\n  \
             user: {{{user}}}\n"
        )
        .into_bytes()
    };
    let ca = "certificate-authority-data: Q0E=";
    vec![
        config(&format!("server: 'https://[::1]:6443/base/', {ca}"), "token: secret"),
        config(
            "server: https://example.org, certificate-authority: ca.pem",
            "client-certificate: c.pem, client-key: k.pem",
        ),
        config(&format!("server: https://x, {ca}"), "client-certificate-data: Q0VSVA==, client-key-data: S0VZ"),
        config(&format!("server: https://x, {ca}"), "exec: {command: x}, tokenFile: t.pem"),
        config(&format!("server: http://x, insecure-skip-tls-verify: true, {ca}"), "username: x, tokenFile: gone"),
    ]
}
