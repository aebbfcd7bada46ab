//! The text of a kubeconfig to the server that it names. Pure: files are read by the caller.

use anyhow::{Context, Result, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use crate::client::Server;

/// What works where this does not.
const INSTEAD: &str = "pipe what kubectl prints instead: kubectl get pods,services,.. -A -o yaml | tidegate .. -";

/// Reads a kubeconfig; `read` reads the files that it names, relative to its folder.
pub(crate) fn parse(text: &str, context: Option<&str>, read: &dyn Fn(&str) -> Result<String>) -> Result<Server> {
    let documents = api::yaml::documents(text);
    let Some(document) = documents.first().filter(|document| document.fatal().is_none()) else {
        bail!("it is not YAML")
    };
    let root = &document.value;
    let context = context.map_or_else(|| word(root, "current-context"), Some);
    let context = entry(root, "contexts", "context", context.context("no context is current; give --context")?)?;
    let cluster = entry(root, "clusters", "cluster", word(context, "cluster").unwrap_or_default())?;
    let user = entry(root, "users", "user", word(context, "user").unwrap_or_default())?;
    let insecure = cluster.get("insecure-skip-tls-verify").and_then(Value::as_bool) == Some(true);
    ensure!(!insecure, "`insecure-skip-tls-verify` is not taken: name the certificate authority");
    let made = ["exec", "auth-provider"].into_iter().find(|field| user.get(field).is_some());
    if let Some(field) = made {
        bail!("credentials by `{field}` are made by another program; {INSTEAD}");
    }
    let address = word(cluster, "server").context("the cluster has no `server`")?;
    let url: http::Uri = address.parse().with_context(|| format!("`{address}`"))?;
    ensure!(url.scheme_str() == Some("https"), "`{address}` is not https");
    let file = |at: &Value, field: &str| part(at, field, read);
    let client = match (file(user, "client-certificate")?, file(user, "client-key")?) {
        (Some(certificate), Some(key)) => Some((certificate, key)),
        _ => None,
    };
    let token = match (word(user, "token"), word(user, "tokenFile")) {
        (Some(token), _) => Some(token.to_owned()),
        (None, Some(path)) => {
            let token = read(path).with_context(|| format!("reading `{path}`"))?;
            Some(token.trim().to_owned())
        }
        (None, None) => None,
    };
    ensure!(token.is_some() || client.is_some(), "the user has neither a token nor a client certificate; {INSTEAD}");
    Ok(Server {
        host: url.host().unwrap_or_default().trim_matches(['[', ']']).to_owned(),
        port: url.port_u16().unwrap_or(443),
        prefix: url.path().trim_end_matches('/').to_owned(),
        ca_pem: file(cluster, "certificate-authority")?.context("the cluster has no certificate authority")?,
        token,
        client,
    })
}

/// The named one of a list.
fn entry<'a>(root: &'a Value, list: &str, field: &str, name: &str) -> Result<&'a Value> {
    let all = root.get(list).and_then(Value::as_array).into_iter().flatten();
    let found = all.into_iter().find(|one| word(one, "name") == Some(name)).and_then(|one| one.get(field));
    found.with_context(|| format!("`{list}` has no `{name}`"))
}

/// PEM text that stands in the file itself as base64, or in a file of its own.
fn part(at: &Value, field: &str, read: &dyn Fn(&str) -> Result<String>) -> Result<Option<String>> {
    if let Some(packed) = word(at, &format!("{field}-data")) {
        let bytes = STANDARD.decode(packed).with_context(|| format!("`{field}-data`"))?;
        return Ok(Some(String::from_utf8(bytes).with_context(|| format!("`{field}-data`"))?));
    }
    let Some(path) = word(at, field) else { return Ok(None) };
    read(path).map(Some).with_context(|| format!("reading `{path}`"))
}

/// A text that says something: kubectl writes `""` for what is not set.
fn word<'a>(value: &'a Value, field: &str) -> Option<&'a str> {
    value.get(field)?.as_str().filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::parse;

    fn config(server: &str, cluster: &str, user: &str) -> String {
        format!(
            "current-context: a\ncontexts: [{{name: a, context: {{cluster: c, user: u}}}}, {{name: b, context: {{cluster: gone, user: u}}}}]\n\
             clusters: [{{name: c, cluster: {{server: \"{server}\", {cluster}}}}}]\nusers: [{{name: u, user: {{{user}}}}}]\n"
        )
    }

    #[test]
    fn what_a_kubeconfig_says() {
        let ca = "certificate-authority-data: Q0E=";
        let read = |text: &str, context| parse(text, context, &|_| Err(anyhow!("not there")));
        let server = read(&config("https://[::1]:6443/base/", ca, "token: secret"), None).unwrap();
        assert_eq!((server.host.as_str(), server.port, server.prefix.as_str()), ("::1", 6443, "/base"));
        assert_eq!((server.ca_pem.as_str(), server.token.as_deref()), ("CA", Some("secret")));
        let certificate = "client-certificate-data: Q0VSVA==, client-key-data: S0VZ";
        let server = read(&config("https://example.org", ca, certificate), Some("a")).unwrap();
        assert_eq!((server.port, server.client), (443, Some(("CERT".to_owned(), "KEY".to_owned()))));
        for (text, context, words) in [
            (config("https://x", ca, "token: t"), Some("z"), "`contexts` has no `z`"),
            (config("https://x", ca, "token: t"), Some("b"), "`clusters` has no `gone`"),
            (config("http://x", ca, "token: t"), None, "not https"),
            (config("https://x", "insecure-skip-tls-verify: true", "token: t"), None, "insecure-skip-tls-verify"),
            (config("https://x", "tls-server-name: y", "token: t"), None, "no certificate authority"),
            (config("https://x", "certificate-authority: gone", "token: t"), None, "reading `gone`"),
            (config("https://x", ca, "exec: {command: x}"), None, "another program"),
            (config("https://x", ca, "username: x"), None, "neither a token"),
            ("{".to_owned(), None, "not YAML"),
            ("a: 1".to_owned(), None, "no context is current"),
        ] {
            let error = read(&text, context).err().map(|error| format!("{error:#}")).unwrap_or_default();
            assert!(error.contains(words), "{text}: {error}");
        }
    }
}
