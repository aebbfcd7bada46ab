//! AuthorizationPolicy documents (S-5 to S-22).

use std::sync::Arc;

use serde_json::{Map, Value as Json};

use super::condition;
use super::meaning;
use super::reader::{Path, Reader};
use super::scope::scope;
use super::value::{Place, values};
use super::{DRY_RUN, first_refusing_stage};
use crate::finding::{Code, Parsed};
use crate::mesh::{PolicyId, Settings};
use crate::spec::{Action, Attribute, AuthorizationPolicy, Entry, Match, Rule};

/// S-5: at most this many rules in a policy, and sources in a rule.
const RULES_MAX: usize = 512;
const SOURCES_MAX: usize = 512;
type Object = Map<String, Json>;

const SOURCE: &[(&str, &str, Attribute)] = &[
    ("principals", "notPrincipals", Attribute::Principal),
    ("requestPrincipals", "notRequestPrincipals", Attribute::Http),
    ("namespaces", "notNamespaces", Attribute::Namespace),
    ("serviceAccounts", "notServiceAccounts", Attribute::ServiceAccount),
    ("ipBlocks", "notIpBlocks", Attribute::SourceIp),
    ("remoteIpBlocks", "notRemoteIpBlocks", Attribute::RemoteIp),
    ("trustDomains", "notTrustDomains", Attribute::TrustDomain),
];
const OPERATION: &[(&str, &str, Attribute)] = &[
    ("hosts", "notHosts", Attribute::Http),
    ("ports", "notPorts", Attribute::Port),
    ("methods", "notMethods", Attribute::Http),
    ("paths", "notPaths", Attribute::Http),
];
/// S-8: fields whose presence `serviceAccounts` excludes.
const EXCLUDED_BY_ACCOUNTS: &[&str] = &["principals", "notPrincipals", "namespaces", "notNamespaces"];

/// Reads one AuthorizationPolicy.
pub fn authorization_policy(document: &Json, settings: &Settings) -> Parsed<AuthorizationPolicy> {
    let mut reader = Reader::default();
    let value = policy(&mut reader, document);
    if let Some(policy) = &value {
        meaning::findings(&mut reader, policy, settings);
    }
    Parsed { value, findings: first_refusing_stage(reader.findings) }
}

fn policy(reader: &mut Reader, document: &Json) -> Option<AuthorizationPolicy> {
    let root = Path::Root;
    let document = reader.object(document, &root)?;
    reader.known_only(document, &["apiVersion", "kind", "metadata", "spec", "status"], &root);
    let id = identifier(document);
    let path = root.member("spec");
    let empty = Object::new();
    let spec = match Reader::member(document, "spec") {
        Some(spec) => reader.object(spec, &path)?,
        None => &empty,
    };
    reader.known_only(spec, &["selector", "targetRef", "targetRefs", "action", "provider", "rules"], &path);
    // A word that is no action makes the policy unreadable, and the rest of it is looked at all the same.
    let known = action(reader, spec, &path);
    let action = known.unwrap_or_default();
    let trial = trial(reader, document, action);
    let scope = scope(reader, spec, &path);
    let provider = provider(reader, spec, action, &path);
    let rules = reader.list_member(spec, "rules", &path);
    let rules_path = path.member("rules");
    reader.at_most(rules.len(), RULES_MAX, &rules_path);
    if rules.is_empty() && matches!(action, Action::Deny | Action::Custom) {
        let message = format!("{} without rules matches nothing; add rules, `- {{}}` for everything", action.word());
        reader.find(Code::RulesRequired, &rules_path, message); // S-9
    }
    let rules =
        rules.iter().enumerate().map(|(index, item)| rule(reader, item, action, &rules_path.index(index))).collect();
    known?;
    Some(AuthorizationPolicy { id: Arc::new(id), scope, action, provider, trial, rules })
}

pub(super) fn identifier(document: &Object) -> PolicyId {
    let text = |name: &str| document.get("metadata").and_then(|meta| meta.get(name)).and_then(Json::as_str);
    PolicyId::new(text("namespace").unwrap_or("default"), text("name").unwrap_or_default())
}

fn action(reader: &mut Reader, spec: &Object, path: &Path<'_>) -> Option<Action> {
    let Some(value) = Reader::member(spec, "action") else {
        return Some(Action::Allow);
    };
    let path = path.member("action");
    let text = reader.text(value, &path)?;
    let known =
        [Action::Allow, Action::Deny, Action::Audit, Action::Custom].into_iter().find(|action| action.word() == text);
    if known.is_none() {
        reader.find(Code::SchemaEnum, &path, format!("`{text}` is not an action; one of ALLOW, DENY, AUDIT, CUSTOM"));
    }
    known
}

/// S-18.
fn trial(reader: &mut Reader, document: &Object, action: Action) -> bool {
    let annotation = document.get("metadata").and_then(|meta| meta.get("annotations")).and_then(|all| all.get(DRY_RUN));
    let Some(annotation) = annotation else {
        return false;
    };
    let metadata = Path::Root.member("metadata");
    let annotations = metadata.member("annotations");
    let path = annotations.member(DRY_RUN);
    if !matches!(action, Action::Allow | Action::Deny) {
        let message =
            format!("dry run exists for ALLOW and DENY only, not for {}; remove the annotation", action.word());
        reader.find(Code::DryRunAction, &path, message);
    }
    match annotation.as_str() {
        Some("1" | "t" | "T" | "TRUE" | "true" | "True") => true,
        Some("0" | "f" | "F" | "FALSE" | "false" | "False") => false,
        other => {
            let found = other.map_or_else(|| annotation.to_string(), str::to_owned);
            if matches!(action, Action::Allow | Action::Deny) {
                reader.find(
                    Code::DryRunValue,
                    &path,
                    format!("`{found}` is not a boolean; write \"true\" or \"false\""),
                );
            }
            false
        }
    }
}

/// S-10, first half.
fn provider(reader: &mut Reader, spec: &Object, action: Action, path: &Path<'_>) -> Option<String> {
    let path = path.member("provider");
    let provider = Reader::member(spec, "provider").and_then(|value| reader.object(value, &path));
    let name = provider.and_then(|provider| {
        reader.known_only(provider, &["name"], &path);
        reader.text_member(provider, "name", &path)
    });
    match (action, provider) {
        (Action::Custom, _) if name.unwrap_or_default().is_empty() => {
            reader.find(Code::ProviderRequired, &path, "CUSTOM needs `provider.name`");
        }
        (Action::Allow | Action::Deny | Action::Audit, Some(_)) => {
            reader.find(Code::ProviderForbidden, &path, format!("only CUSTOM has a provider, not {}", action.word()));
        }
        (Action::Custom | Action::Allow | Action::Deny | Action::Audit, _) => {}
    }
    name.map(str::to_owned)
}

fn rule(reader: &mut Reader, item: &Json, action: Action, path: &Path<'_>) -> Rule {
    let Some(object) = reader.object(item, path) else {
        return Rule::default();
    };
    reader.known_only(object, &["from", "to", "when"], path);
    let from = reader.list_member(object, "from", path);
    reader.at_most(from.len(), SOURCES_MAX, &path.member("from"));
    let to = reader.list_member(object, "to", path);
    let when = reader.list_member(object, "when", path);
    let (from_path, to_path, when_path) = (path.member("from"), path.member("to"), path.member("when"));
    let rule = Rule {
        from: from
            .iter()
            .enumerate()
            .map(|(index, item)| source(reader, item, action, &from_path.index(index)))
            .collect(),
        to: to.iter().enumerate().map(|(index, item)| operation(reader, item, &to_path.index(index))).collect(),
        when: when
            .iter()
            .enumerate()
            .map(|(index, item)| condition(reader, item, action, &when_path.index(index)))
            .collect(),
    };
    if action == Action::Deny && is_http_only_deny(&rule) {
        reader.find(Code::DenyHttpOnly, path, "the DENY rule has HTTP fields only; on TCP they are ignored and the rule denies more than is written; add `ports`");
    }
    rule
}

/// W2 (S-21), with its blind spots.
fn is_http_only_deny(rule: &Rule) -> bool {
    let l4_source = |found: &Match| {
        matches!(
            found.attribute,
            Attribute::Principal
                | Attribute::Namespace
                | Attribute::ServiceAccount
                | Attribute::SourceIp
                | Attribute::RemoteIp
        )
    };
    let any = |entries: &[Entry], wanted: &dyn Fn(&Match) -> bool| {
        entries.iter().flat_map(|entry| &entry.matches).any(wanted)
    };
    if rule.to.is_empty() {
        !rule.from.is_empty() && !any(&rule.from, &l4_source)
    } else {
        !any(&rule.to, &|found| found.attribute == Attribute::Port)
    }
}

fn source(reader: &mut Reader, item: &Json, action: Action, path: &Path<'_>) -> Entry {
    let Some(object) = reader.object(item, path) else {
        return Entry::default();
    };
    reader.known_only(object, &["source"], path);
    if Reader::member(object, "source").is_none() {
        reader.find(Code::FromSourceNil, path, "a `from` entry needs a `source`"); // S-11
        return Entry::default();
    }
    let Some(source) = reader.object_member(object, "source", path) else {
        return Entry::default();
    };
    let path = path.member("source");
    let entry = fields(reader, source, SOURCE, &path);
    if entry.matches.is_empty() {
        reader.find(Code::FromSourceEmpty, &path, "a `source` needs at least one non-empty list"); // S-11
    }
    let present = |name: &&&str| Reader::member(source, name).is_some();
    let accounts = ["serviceAccounts", "notServiceAccounts"].iter().any(|name| Reader::member(source, name).is_some());
    if let Some(excluded) = EXCLUDED_BY_ACCOUNTS.iter().find(present).filter(|_| accounts) {
        reader.find(
            Code::SaExclusive,
            &path,
            format!("`serviceAccounts` and `{excluded}` exclude one another; use two `from` entries or one field"),
        );
    }
    if action == Action::Custom {
        for found in entry.matches.iter().filter(|found| is_identity(found)) {
            reader.find(
                Code::CustomUnsupportedField,
                &path.member(&found.written),
                format!("CUSTOM cannot look at `{}`", found.written),
            ); // S-10
        }
    }
    entry
}

/// S-10: identity in the wide sense, request identity included.
fn is_identity(found: &Match) -> bool {
    matches!(
        found.attribute,
        Attribute::Principal
            | Attribute::Namespace
            | Attribute::ServiceAccount
            | Attribute::TrustDomain
            | Attribute::Http
            | Attribute::Request
    )
}

fn operation(reader: &mut Reader, item: &Json, path: &Path<'_>) -> Entry {
    let Some(object) = reader.object(item, path) else {
        return Entry::default();
    };
    reader.known_only(object, &["operation"], path);
    if Reader::member(object, "operation").is_none() {
        reader.find(Code::ToOperationNil, path, "a `to` entry needs an `operation`"); // S-11
        return Entry::default();
    }
    let Some(operation) = reader.object_member(object, "operation", path) else {
        return Entry::default();
    };
    let path = path.member("operation");
    let entry = fields(reader, operation, OPERATION, &path);
    if entry.matches.is_empty() {
        reader.find(Code::ToOperationEmpty, &path, "an `operation` needs at least one non-empty list"); // S-11
    }
    entry
}

fn fields(reader: &mut Reader, object: &Object, known: &[(&str, &str, Attribute)], path: &Path<'_>) -> Entry {
    let names: Vec<&str> = known.iter().flat_map(|(name, twin, _)| [*name, *twin]).collect();
    reader.known_only(object, &names, path);
    let mut matches = Vec::new();
    for (name, twin, attribute) in known {
        let mut read = |name: &str| {
            let list = reader.list_member(object, name, path);
            values(reader, list, *attribute, Place::Field, &path.member(name))
        };
        let (wanted, unwanted) = (read(name), read(twin));
        // The name that is really written, so that a message does not speak of a field that is not there.
        let written = if wanted.is_none() { twin } else { name };
        if wanted.is_some() || unwanted.is_some() {
            matches.push(Match { attribute: *attribute, written: Arc::from(*written), wanted, unwanted });
        }
    }
    Entry { matches }
}

/// S-17, and S-10, second half.
fn condition(reader: &mut Reader, item: &Json, action: Action, path: &Path<'_>) -> Entry {
    let Some(object) = reader.object(item, path) else {
        return Entry::default();
    };
    reader.known_only(object, &["key", "values", "notValues"], path);
    let key_path = path.member("key");
    if Reader::member(object, "key").is_none() {
        reader.find(Code::SchemaRequired, &key_path, "a condition needs a `key`");
        return Entry::default();
    }
    let Some(key) = reader.text_member(object, "key", path) else {
        return Entry::default();
    };
    let attribute = condition::engine_attribute(key);
    let mut read = |name: &str| {
        let list = reader.list_member(object, name, path);
        let read = values(reader, list, attribute, Place::Condition, &path.member(name));
        (read, list.iter().any(|item| item.as_str() == Some("")))
    };
    let (wanted, wanted_empty) = read("values");
    let (unwanted, unwanted_empty) = read("notValues");
    if key.is_empty() {
        reader.find(Code::KeyEmpty, &key_path, "the key of a condition is empty");
    } else if wanted.is_none() && unwanted.is_none() {
        reader.find(Code::ValuesMissing, path, format!("the condition on `{key}` needs `values` or `notValues`"));
    } else if let Err((code, message)) = condition::attribute(key)
        && !(wanted_empty && unwanted_empty)
    {
        reader.find(code, &key_path, message);
    }
    let no_identity = matches!(
        attribute,
        Attribute::Principal | Attribute::Namespace | Attribute::ServiceAccount | Attribute::TrustDomain
    );
    if action == Action::Custom && (no_identity || key.starts_with("request.auth.")) {
        reader.find(Code::CustomUnsupportedField, &key_path, format!("CUSTOM cannot look at `{key}`"));
    }
    if wanted.is_none() && unwanted.is_none() && attribute != Attribute::Unknown {
        return Entry::default();
    }
    Entry { matches: vec![Match { attribute, written: Arc::from(key), wanted, unwanted }] }
}
