//! Who asks a registry: a name and a password, or a token that they are exchanged for.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::Uri;
use http::header::{AUTHORIZATION, HeaderName, HeaderValue, WWW_AUTHENTICATE};
use serde::Deserialize;
use serde_json::Value;

use super::transport::{Answer, Transport};
use crate::images::Reference;

/// The longest answer of whoever gives tokens: they have some kilobytes.
const TOKEN_BYTES_MAX: u64 = 256 * 1024;

/// Docker's registry as its own files name it.
const HUB_OF_OLD: &str = "index.docker.io";

/// A name and a password, and what they are for.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// Host, and perhaps the begin of a path.
    registry: String,
    user: String,
    password: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Credentials").field("registry", &self.registry).finish_non_exhaustive()
    }
}

impl Credentials {
    /// Those of a secret's `.dockerconfigjson`; what cannot be read is none.
    pub fn of_docker(text: &[u8]) -> Vec<Self> {
        let file: Value = serde_json::from_slice(text).unwrap_or_default();
        let one = |(registry, entry): (&String, &Value)| {
            let field = |name: &str| entry.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
            let both = field("auth").and_then(|auth| String::from_utf8(STANDARD.decode(auth.trim()).ok()?).ok());
            let (user, password) = match (&both, field("username"), field("password")) {
                (_, Some(user), Some(password)) => (user, password),
                (Some(both), ..) => both.split_once(':')?,
                _ => return None,
            };
            let plain = registry.split_once("://").map_or(registry.as_str(), |(_, rest)| rest);
            let plain = plain.trim_end_matches('/');
            let plain = plain.strip_suffix("/v1").or_else(|| plain.strip_suffix("/v2")).unwrap_or(plain);
            let plain = plain.replacen(HUB_OF_OLD, "docker.io", 1);
            Some(Self { registry: plain, user: user.to_owned(), password: password.to_owned() })
        };
        file.get("auths").and_then(Value::as_object).into_iter().flatten().filter_map(one).collect()
    }

    /// How exactly they are for an image: the more the longer; none if they are for another.
    fn fit(&self, reference: &Reference) -> Option<usize> {
        let whole = reference.without_version();
        let rest = whole.strip_prefix(&self.registry)?;
        (rest.is_empty() || rest.starts_with('/')).then_some(self.registry.len())
    }
}

/// What is said of the asker.
pub(super) struct Access {
    credentials: Option<Credentials>,
    scope: String,
    header: Option<HeaderValue>,
}

impl Access {
    pub(super) fn new(all: &[Credentials], reference: &Reference) -> Self {
        let fitting = all.iter().filter_map(|one| Some((one.fit(reference)?, one)));
        let credentials = fitting.max_by_key(|(fit, _)| *fit).map(|(_, one)| one.clone());
        Self { credentials, scope: format!("repository:{}:pull", reference.repository()), header: None }
    }

    pub(super) fn header(&self) -> Option<(HeaderName, HeaderValue)> {
        self.header.clone().map(|value| (AUTHORIZATION, value))
    }

    /// Gets what the registry asks for; `false` if there is nothing more to say.
    pub(super) async fn answer_to(&mut self, refusal: &Answer, transport: &Transport) -> Result<bool, String> {
        let before = self.header.take();
        let asked = refusal.headers().get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok());
        let mut asked = asked.filter_map(Challenge::read);
        match asked.find(|one| matches!(one, Challenge::Bearer { .. } | Challenge::Basic)) {
            Some(Challenge::Bearer { realm, service, scope }) => {
                let token = self.token(transport, &realm, &service, &scope).await?;
                self.header = secret(&format!("Bearer {token}"));
            }
            Some(Challenge::Basic) => self.header = self.basic(),
            None => {}
        }
        Ok(self.header.is_some() && self.header != before)
    }

    fn basic(&self) -> Option<HeaderValue> {
        let credentials = self.credentials.as_ref()?;
        secret(&format!("Basic {}", STANDARD.encode(format!("{}:{}", credentials.user, credentials.password))))
    }

    async fn token(&self, transport: &Transport, realm: &str, service: &str, scope: &str) -> Result<String, String> {
        #[derive(Deserialize)]
        struct Given {
            token: Option<String>,
            access_token: Option<String>,
        }
        let scope = if scope.is_empty() { &self.scope } else { scope };
        let mark = if realm.contains('?') { '&' } else { '?' };
        let text = format!("{realm}{mark}service={}&scope={}", escaped(service), escaped(scope));
        let uri: Uri = text.parse().map_err(|error| format!("the registry names `{realm}` for tokens: {error}"))?;
        let headers = self.basic().map(|value| (AUTHORIZATION, value)).into_iter().collect();
        let answer = transport.get(&uri, headers).await?;
        let status = answer.status();
        if !status.is_success() {
            return Err(format!("`{realm}` gives no token: {status}; are the credentials of imagePullSecrets right?"));
        }
        let text = answer.whole(TOKEN_BYTES_MAX).await?;
        let given: Given =
            serde_json::from_slice(&text).map_err(|error| format!("`{realm}` gives no token: {error}"))?;
        given.token.or(given.access_token).ok_or_else(|| format!("`{realm}` gives no token"))
    }
}

/// A header that is not told in logs.
fn secret(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// What a registry asks for.
#[derive(Debug, PartialEq, Eq)]
enum Challenge {
    Bearer { realm: String, service: String, scope: String },
    Basic,
}

impl Challenge {
    /// Reads `Bearer realm="…",service="…",scope="…"` or `Basic realm="…"`.
    fn read(text: &str) -> Option<Self> {
        let (kind, mut rest) = text.trim().split_once(' ').unwrap_or_else(|| (text.trim(), ""));
        if kind.eq_ignore_ascii_case("basic") {
            return Some(Self::Basic);
        }
        if !kind.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let (mut realm, mut service, mut scope) = (None, String::new(), String::new());
        while let Some((name, after)) = rest.split_once('=') {
            let name = name.trim_matches([',', ' ']);
            let (value, after) = match after.strip_prefix('"') {
                Some(quoted) => quoted.split_once('"')?,
                None => after.split_once(',').unwrap_or((after, "")),
            };
            match name.to_ascii_lowercase().as_str() {
                "realm" => realm = Some(value.to_owned()),
                "service" => value.clone_into(&mut service),
                "scope" => value.clone_into(&mut scope),
                _ => {}
            }
            rest = after;
        }
        Some(Self::Bearer { realm: realm?, service, scope })
    }
}

/// A word as a query has it.
fn escaped(word: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~:/,".contains(&byte);
    word.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_registry_asks_for_is_read() {
        let bearer = |realm: &str, service: &str, scope: &str| {
            Some(Challenge::Bearer { realm: realm.into(), service: service.into(), scope: scope.into() })
        };
        for (text, wanted) in [
            (
                r#"Bearer realm="https://a/t",service="r.io",scope="repository:x/y:pull,push""#,
                bearer("https://a/t", "r.io", "repository:x/y:pull,push"),
            ),
            (r#"bearer service=r, realm="https://a/t?x=1""#, bearer("https://a/t?x=1", "r", "")),
            (r#"Basic realm="Registry""#, Some(Challenge::Basic)),
            ("Basic", Some(Challenge::Basic)),
            ("Bearer service=\"r\"", None),
            ("Bearer realm=\"unfinished", None),
            ("Negotiate", None),
            ("", None),
        ] {
            assert_eq!(Challenge::read(text), wanted, "{text}");
        }
    }

    #[test]
    fn the_credentials_that_fit_best_are_taken() {
        let auth = STANDARD.encode("ann:pass:word");
        let text = format!(
            r#"{{"auths": {{"https://index.docker.io/v1/": {{"auth": "{auth}"}}, "r.io": {{"username": "all", "password": "p"}},
               "r.io/team": {{"username": "team", "password": "p"}}, "r.io:5000": {{"auth": "bad"}}, "x.io": {{}}}}}}"#
        );
        let all = Credentials::of_docker(text.as_bytes());
        let found = |name: &str| {
            let access = Access::new(&all, &Reference::parse(name).unwrap());
            access.credentials.map(|one| format!("{}/{}", one.user, one.password))
        };
        assert_eq!(found("docker.io/library/a").as_deref(), Some("ann/pass:word"));
        assert_eq!(found("r.io/a/b").as_deref(), Some("all/p"));
        assert_eq!(found("r.io/team/b").as_deref(), Some("team/p"));
        assert_eq!(found("r.io/teams/b").as_deref(), Some("all/p"));
        for name in ["r.io:5000/a", "other.io/a", "x.io/a", "r.iox/a"] {
            assert_eq!(found(name), None, "{name}");
        }
        for text in ["", "[]", r#"{"auths": []}"#, "nonsense"] {
            assert_eq!(Credentials::of_docker(text.as_bytes()), []);
        }
    }
}
