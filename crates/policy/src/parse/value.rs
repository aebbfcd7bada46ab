//! The value lists of sources, operations and conditions, each read by the type of its attribute.

use std::sync::Arc;

use serde_json::Value as Json;

use super::reader::{Path, Reader};
use crate::address::{Block, parse_port};
use crate::finding::Code;
use crate::spec::{Attribute, Value, Values};

/// S-6: a list of service accounts has at most 16 items of at most 320 characters.
const SERVICE_ACCOUNTS_MAX: usize = 16;
const SERVICE_ACCOUNT_LENGTH_MAX: usize = 320;
const EMPTY: &str = "an empty string is not a value; remove it";

/// What beyond its type is checked of a value list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// A field of a source or operation.
    Field,
    /// The `values` or `notValues` of a condition.
    Condition,
}

/// Reads a list of strings; `None` if it is absent or empty.
pub(super) fn values(
    reader: &mut Reader,
    list: &[Json],
    attribute: Attribute,
    place: Place,
    path: &Path<'_>,
) -> Option<Values> {
    let has_empty = list.iter().any(|item| item.as_str() == Some(""));
    // A condition with an empty value is not looked at further, as in Istio.
    let check = !(has_empty && place == Place::Condition);
    if attribute == Attribute::ServiceAccount && check {
        service_accounts(reader, list, path);
    } else if has_empty {
        reader.find(Code::EmptyValue, path, EMPTY); // S-12
    }
    let read = |(index, item): (usize, &Json)| {
        let path = path.index(index);
        match reader.text(item, &path) {
            Some(text) => value(reader, text, attribute, place, check, &path),
            None => Value::Unreadable(Arc::from(item.to_string())),
        }
    };
    Values::new(list.iter().enumerate().map(read).collect())
}

fn value(reader: &mut Reader, text: &str, attribute: Attribute, place: Place, check: bool, path: &Path<'_>) -> Value {
    let kept: Arc<str> = Arc::from(text);
    match attribute {
        Attribute::Port => {
            let Some(port) = parse_port(text) else {
                if check {
                    let message =
                        format!("`{text}` is not a port; write a number from 0 to 65535 in quotes, one port an item");
                    reader.find(Code::BadPort, path, message); // S-13
                }
                return Value::Unreadable(kept);
            };
            Value::Port(port, kept)
        }
        Attribute::SourceIp | Attribute::RemoteIp | Attribute::DestinationIp => {
            let Some(block) = Block::parse(text) else {
                if check {
                    let (code, what) = if text.contains('/') {
                        (Code::BadCidr, "an address block")
                    } else {
                        (Code::BadIp, "an address")
                    };
                    reader.find(
                        code,
                        path,
                        format!("`{text}` is not {what}; write `10.0.0.1`, `10.0.0.0/8` or their IPv6 forms"),
                    ); // S-14
                }
                return Value::Unreadable(kept);
            };
            Value::Block(block, kept)
        }
        Attribute::TrustDomain => {
            if check {
                trust_domain(reader, text, place, path);
            }
            Value::Text(kept)
        }
        Attribute::Principal
        | Attribute::Namespace
        | Attribute::ServiceAccount
        | Attribute::ServerName
        | Attribute::Metadata
        | Attribute::Http
        | Attribute::Request
        | Attribute::Unknown => Value::Text(kept),
    }
}

/// S-6, S-12, S-15. As Istio, a list is told its first fault and no other.
fn service_accounts(reader: &mut Reader, list: &[Json], path: &Path<'_>) {
    if list.len() > SERVICE_ACCOUNTS_MAX {
        let message = format!(
            "{} service accounts, at most {SERVICE_ACCOUNTS_MAX} are allowed; split the source in two",
            list.len()
        );
        return reader.find(Code::SaTooMany, path, message);
    }
    let mut items = list.iter().enumerate();
    let fault = items.find_map(|(index, item)| Some((index, account_fault(item.as_str()?)?)));
    if let Some((index, (code, message))) = fault {
        reader.find(code, &path.index(index), message);
    }
}

fn account_fault(text: &str) -> Option<(Code, String)> {
    if text.is_empty() {
        return Some((Code::EmptyValue, EMPTY.to_owned()));
    }
    if text.contains('*') {
        let message = format!("`{text}`: service accounts have no wildcards; use `principals` for patterns");
        return Some((Code::SaWildcard, message));
    }
    let parts: Vec<&str> = text.split('/').collect();
    let well_formed = parts.len() <= 2 && parts.iter().all(|part| !part.is_empty());
    if well_formed && text.chars().count() <= SERVICE_ACCOUNT_LENGTH_MAX {
        return None;
    }
    let message = format!(
        "`{text}` is not a service account; write `name` or `namespace/name`, at most {SERVICE_ACCOUNT_LENGTH_MAX} characters"
    );
    Some((Code::SaFormat, message))
}

/// S-16.
fn trust_domain(reader: &mut Reader, text: &str, place: Place, path: &Path<'_>) {
    let stars = text.matches('*').count();
    if stars > 1 || (stars == 1 && !text.starts_with('*') && !text.ends_with('*')) {
        reader.find(
            Code::BadWildcard,
            path,
            format!("`{text}`: one `*` is allowed, as the first or the last character"),
        );
    }
    if place == Place::Field && text.contains('/') {
        reader.find(
            Code::TdSlash,
            path,
            format!("`{text}` is not a trust domain, it holds a `/`; use `principals` for more than the trust domain"),
        );
    }
}
