//! What a request asks for: its path, its query and the form of the answer that it wants.

use http::HeaderMap;
use http::header::{ACCEPT, HeaderName};

/// Query parameters of one request; the longest that kubectl sends, an `exec`, has one for each word of the command.
const PARAMETERS_MAX: usize = 1024;

/// A path below `/api` or `/apis`, taken apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) namespace: Option<String>,
    pub(crate) plural: String,
    pub(crate) name: Option<String>,
    pub(crate) subresource: Option<String>,
}

impl Place {
    /// Reads a path such as `/apis/apps/v1/namespaces/foo/deployments/x/scale`; none for any other shape.
    pub(crate) fn parse(path: &str) -> Option<Self> {
        let parts: Option<Vec<String>> = path.strip_prefix('/')?.split('/').map(part).collect();
        let parts = parts?;
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        let (group, version, rest) = match parts.as_slice() {
            ["api", version, rest @ ..] => ("", *version, rest),
            ["apis", group, version, rest @ ..] => (*group, *version, rest),
            _ => return None,
        };
        let (namespace, rest) = match rest {
            // `/namespaces/foo/status` and `/namespaces/foo/finalize` are parts of a namespace, not resources in it.
            ["namespaces", _, "status" | "finalize"] if group.is_empty() => (None, rest),
            ["namespaces", namespace, rest @ ..] if !rest.is_empty() => (Some(*namespace), rest),
            _ => (None, rest),
        };
        let (plural, name, subresource) = match rest {
            [plural] => (*plural, None, None),
            [plural, name] => (*plural, Some(*name), None),
            [plural, name, subresource] => (*plural, Some(*name), Some(*subresource)),
            _ => return None,
        };
        Some(Self {
            group: group.to_owned(),
            version: version.to_owned(),
            namespace: namespace.map(str::to_owned),
            plural: plural.to_owned(),
            name: name.map(str::to_owned),
            subresource: subresource.map(str::to_owned),
        })
    }
}

/// One decoded part of a path; none if it is empty, or would be something else once it stands in a key.
fn part(text: &str) -> Option<String> {
    let text = decode(text, false)?;
    (!text.is_empty() && !text.contains(['/', '\0']) && text != "." && text != "..").then_some(text)
}

/// The query of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    /// Reads a query; parameters that are not well encoded are dropped, as Go servers do.
    pub(crate) fn parse(text: &str) -> Self {
        let pairs = text.split('&').filter(|pair| !pair.is_empty() && !pair.contains(';')).take(PARAMETERS_MAX);
        Self(
            pairs
                .filter_map(|pair| {
                    let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                    Some((decode(name, true)?, decode(value, true)?))
                })
                .collect(),
        )
    }

    /// The first parameter of a name, if it is not empty.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(one, _)| one == name).map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
    }

    /// Every parameter of a name.
    pub(crate) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(one, _)| one == name).map(|(_, value)| value.as_str())
    }

    /// Whether a switch is on.
    pub(crate) fn is_on(&self, name: &str) -> bool {
        self.get(name).is_some_and(|value| !matches!(value, "0" | "false"))
    }

    /// A number, if it is one.
    pub(crate) fn number(&self, name: &str) -> Option<u64> {
        self.get(name)?.parse().ok()
    }
}

fn decode(text: &str, plus_is_space: bool) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let high = char::from(rest.next()?).to_digit(16)?;
                let low = char::from(rest.next()?).to_digit(16)?;
                u8::try_from(high * 16 + low).ok()?
            }
            b'+' if plus_is_space => b' ',
            byte => byte,
        });
    }
    String::from_utf8(bytes).ok()
}

/// How the answer is to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// The objects themselves, as JSON.
    Plain,
    /// Rows of a table.
    Table,
    /// Metadata only.
    Metadata,
    /// Nothing that we can write.
    None,
}

/// The first of the wanted forms that we can write.
pub(crate) fn form(headers: &HeaderMap) -> Form {
    let wanted: Vec<&str> = values(headers, ACCEPT).collect();
    if wanted.is_empty() {
        return Form::Plain;
    }
    let forms = wanted.into_iter().filter_map(|wanted| {
        let mut parts = wanted.split(';').map(str::trim);
        let json = matches!(parts.next()?, "application/json" | "application/*" | "*/*" | "text/html" | "text/*");
        let parameter = |name: &str| {
            wanted
                .split(';')
                .filter_map(|part| part.trim().split_once('='))
                .find(|(one, _)| *one == name)
                .map(|(_, value)| value)
        };
        match parameter("as") {
            _ if !json => None,
            None => Some(Form::Plain),
            Some("Table") if matches!(parameter("v"), Some("v1" | "v1beta1")) => Some(Form::Table),
            Some("PartialObjectMetadata" | "PartialObjectMetadataList") if parameter("v") == Some("v1") => {
                Some(Form::Metadata)
            }
            Some(_) => None,
        }
    });
    forms.into_iter().next().unwrap_or(Form::None)
}

/// The comma-separated values of a header.
pub(crate) fn values(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &str> {
    headers
        .get_all(name)
        .into_iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::{Form, Place, Query, form};
    use http::HeaderMap;
    use http::header::ACCEPT;

    fn place(path: &str) -> Option<[String; 6]> {
        let Place { group, version, namespace, plural, name, subresource } = Place::parse(path)?;
        let or = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        Some([group, version, or(namespace), plural, or(name), or(subresource)])
    }

    #[test]
    fn paths() {
        for (path, expected) in [
            ("/api/v1/namespaces", Some(["", "v1", "-", "namespaces", "-", "-"])),
            ("/api/v1/namespaces/foo", Some(["", "v1", "-", "namespaces", "foo", "-"])),
            ("/api/v1/namespaces/foo/finalize", Some(["", "v1", "-", "namespaces", "foo", "finalize"])),
            ("/api/v1/namespaces/foo/pods", Some(["", "v1", "foo", "pods", "-", "-"])),
            ("/api/v1/namespaces/foo/pods/a/log", Some(["", "v1", "foo", "pods", "a", "log"])),
            ("/apis/apps/v1/deployments", Some(["apps", "v1", "-", "deployments", "-", "-"])),
            (
                "/apis/apps/v1/namespaces/foo/deployments/a%2Db/scale",
                Some(["apps", "v1", "foo", "deployments", "a-b", "scale"]),
            ),
            ("/apis/apps/v1", None),
            ("/apis/apps/v1/", None),
            ("/api/v1/namespaces//pods", None),
            ("/api/v1/namespaces/a%2fb/pods", None),
            ("/api/v1/namespaces/../pods", None),
            ("/api/v1/namespaces/%2e%2e/pods", None),
            ("/api/v1/namespaces/%zz/pods", None),
            ("/api/v1/namespaces/foo/pods/a/log/more", None),
            ("/healthz", None),
        ] {
            assert_eq!(place(path), expected.map(|parts| parts.map(str::to_owned)), "{path}");
        }
    }

    #[test]
    fn queries() {
        let query =
            Query::parse("command=sh&command=-c&command=a+b%3Bc&watch=1&x=a;b&bad=%zz&limit=5&empty=&off=false");
        assert_eq!(query.all("command").collect::<Vec<_>>(), ["sh", "-c", "a b;c"]);
        assert!(query.is_on("watch") && !query.is_on("off") && !query.is_on("empty"));
        assert_eq!((query.get("x"), query.get("bad"), query.get("empty")), (None, None, None));
        assert_eq!(query.number("limit"), Some(5));
    }

    #[test]
    fn forms() {
        for (accept, expected) in [
            ("", Form::Plain),
            ("application/json", Form::Plain),
            ("application/vnd.kubernetes.protobuf,application/json", Form::Plain),
            (
                "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json",
                Form::Table,
            ),
            ("application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1", Form::Metadata),
            ("application/json;as=Other;v=v1, */*", Form::Plain),
            ("application/vnd.kubernetes.protobuf", Form::None),
        ] {
            let mut headers = HeaderMap::new();
            if !accept.is_empty() {
                headers.insert(ACCEPT, accept.parse().unwrap());
            }
            assert_eq!(form(&headers), expected, "{accept}");
        }
    }
}
