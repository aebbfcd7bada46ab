//! The keys of conditions (S-17).

use crate::finding::Code;
use crate::spec::Attribute;

/// Which attribute a key names, or why it does not.
pub(super) fn attribute(key: &str) -> Result<Attribute, (Code, String)> {
    Ok(match key {
        "source.ip" => Attribute::SourceIp,
        "remote.ip" => Attribute::RemoteIp,
        "source.namespace" => Attribute::Namespace,
        "source.principal" => Attribute::Principal,
        "source.serviceAccount" => Attribute::ServiceAccount,
        "source.trustDomain" => Attribute::TrustDomain,
        "destination.ip" => Attribute::DestinationIp,
        "destination.port" => Attribute::Port,
        "connection.sni" => Attribute::ServerName,
        "request.auth.principal" | "request.auth.audiences" | "request.auth.presenter" => Attribute::Http,
        "destination.namespace" => {
            return Err((Code::ReplacedAttribute, replaced(key, "the namespace of the policy")));
        }
        "destination.name" | "destination.user" => {
            return Err((
                Code::DeprecatedAttribute,
                format!("`{key}` existed only in v1alpha1; use the selector of the policy"),
            ));
        }
        _ => return prefixed(key),
    })
}

fn prefixed(key: &str) -> Result<Attribute, (Code, String)> {
    let attribute = if key.starts_with("request.headers") || key.starts_with("request.auth.claims") {
        Attribute::Http
    } else if key.starts_with("experimental.envoy.filters.") {
        Attribute::Metadata
    } else if key.starts_with("destination.labels") {
        return Err((Code::ReplacedAttribute, replaced(key, "the selector of the policy")));
    } else {
        return Err((Code::UnknownAttribute, format!("`{key}` is not a condition key")));
    };
    if is_bracketed(key) {
        Ok(attribute)
    } else {
        Err((Code::BadKeyFormat, format!("`{key}` lacks its bracketed part; write `{key}[name]`")))
    }
}

/// The attribute that an engine sees in a key, whether or not admission would take it. A key that only lacks its bracketed part
/// is known and says nothing about TCP: as with what only HTTP has, an ALLOW rule is void and a DENY rule loses the condition (P1).
pub(super) fn engine_attribute(key: &str) -> Attribute {
    match attribute(key) {
        Ok(attribute) => attribute,
        Err((Code::BadKeyFormat, _)) => Attribute::Http,
        Err(_) => Attribute::Unknown, // S-47
    }
}

/// Is it `a[b]` with both parts there.
fn is_bracketed(key: &str) -> bool {
    key.find('[').is_some_and(|open| open > 0 && key.ends_with(']') && open + 2 < key.len())
}

fn replaced(key: &str, by: &str) -> String {
    format!("`{key}` was replaced by {by}")
}

#[cfg(test)]
mod tests {
    use super::{attribute, engine_attribute};
    use crate::finding::Code;
    use crate::spec::Attribute;

    #[test]
    fn keys() {
        for (key, expected) in [
            ("source.ip", Ok(Attribute::SourceIp)),
            ("connection.sni", Ok(Attribute::ServerName)),
            ("request.headers[x]", Ok(Attribute::Http)),
            ("request.auth.claims[a][b]", Ok(Attribute::Http)),
            ("experimental.envoy.filters.a.b[c]", Ok(Attribute::Metadata)),
            ("request.headers", Err(Code::BadKeyFormat)),
            ("request.headers[]", Err(Code::BadKeyFormat)),
            ("request.headers[x", Err(Code::BadKeyFormat)),
            ("experimental.envoy.filters.a", Err(Code::BadKeyFormat)),
            ("request.auth.other", Err(Code::UnknownAttribute)),
            ("source.port", Err(Code::UnknownAttribute)),
            ("Source.ip", Err(Code::UnknownAttribute)),
            ("destination.namespace", Err(Code::ReplacedAttribute)),
            ("destination.labels[app]", Err(Code::ReplacedAttribute)),
            ("destination.name", Err(Code::DeprecatedAttribute)),
            ("destination.user", Err(Code::DeprecatedAttribute)),
        ] {
            assert_eq!(attribute(key).map_err(|(code, _)| code), expected, "{key}");
        }
    }

    #[test]
    fn keys_that_bypassed_admission() {
        for (key, expected) in [
            ("request.headers", Attribute::Http),
            ("request.auth.claims", Attribute::Http),
            ("experimental.envoy.filters.a", Attribute::Http),
            ("source.port", Attribute::Unknown),
            ("destination.labels", Attribute::Unknown),
            ("destination.labels[app]", Attribute::Unknown),
            ("destination.namespace", Attribute::Unknown),
        ] {
            assert_eq!(engine_attribute(key), expected, "{key}");
        }
    }
}
