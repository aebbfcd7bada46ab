//! PeerAuthentication documents (S-23).

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value as Json};

use super::authorization::identifier;
use super::reader::{Path, Reader};
use super::scope::labels;
use super::{dry_run_on_other_kind, first_refusing_stage};
use crate::address::parse_port;
use crate::finding::{Code, Parsed};
use crate::mesh::{Labels, Settings};
use crate::spec::{Mode, PeerAuthentication};

/// Reads one PeerAuthentication.
pub fn peer_authentication(document: &Json, settings: &Settings) -> Parsed<PeerAuthentication> {
    let mut reader = Reader::default();
    reader.findings.extend(dry_run_on_other_kind(document));
    let value = peer(&mut reader, document, settings);
    Parsed { value, findings: first_refusing_stage(reader.findings) }
}

fn peer(reader: &mut Reader, document: &Json, settings: &Settings) -> Option<PeerAuthentication> {
    let root = Path::Root;
    let document = reader.object(document, &root)?;
    reader.known_only(document, &["apiVersion", "kind", "metadata", "spec", "status"], &root);
    let id = identifier(document);
    let created = document
        .get("metadata")
        .and_then(|meta| meta.get("creationTimestamp"))
        .and_then(Json::as_str)
        .map(str::to_owned);
    let path = root.member("spec");
    let empty = Map::new();
    let spec = match Reader::member(document, "spec") {
        Some(spec) => reader.object(spec, &path)?,
        None => &empty,
    };
    reader.known_only(spec, &["selector", "mtls", "portLevelMtls"], &path);
    let selector = Reader::member(spec, "selector")
        .map(|value| labels(reader, value, &path.member("selector")))
        .unwrap_or_default();
    let mode =
        Reader::member(spec, "mtls").map_or(Some(Mode::Unset), |value| mtls(reader, value, &path.member("mtls")))?;
    let ports = port_level(reader, spec, &selector, &path.member("portLevelMtls"))?;
    if id.namespace == settings.root_namespace && !selector.is_empty() {
        let message = format!(
            "labels have no effect in the root namespace `{}`, and the whole object is ignored; move it to the namespace of the workload",
            id.namespace
        );
        reader.find(Code::RootSelectorIgnored, &path.member("selector"), message); // S-77
    }
    Some(PeerAuthentication { id: Arc::new(id), selector, mode, ports, created })
}

fn port_level(
    reader: &mut Reader,
    spec: &Map<String, Json>,
    selector: &Labels,
    path: &Path<'_>,
) -> Option<BTreeMap<u16, Mode>> {
    let mut modes = BTreeMap::new();
    let Some(value) = Reader::member(spec, "portLevelMtls") else {
        return Some(modes);
    };
    let ports = reader.object(value, path)?;
    if ports.is_empty() {
        reader.find(Code::PortLevelEmpty, path, "`portLevelMtls` has no entries; leave it out or name a port");
    } else if selector.is_empty() {
        reader.find(Code::PortLevelNeedsSelector, path, "`portLevelMtls` needs a selector with labels");
    }
    for (key, value) in ports {
        let path = path.member(key);
        let mode = mtls(reader, value, &path)?;
        match parse_port(key).filter(|port| *port != 0) {
            Some(port) => {
                modes.insert(port, mode);
            }
            None => reader.find(Code::PortLevelRange, &path, format!("`{key}` is not a workload port from 1 to 65535")),
        }
    }
    Some(modes)
}

/// `{mode: ..}`; `None` if it cannot be read, for a mode misread would be a mode guessed.
fn mtls(reader: &mut Reader, value: &Json, path: &Path<'_>) -> Option<Mode> {
    if value.is_null() {
        return Some(Mode::Unset);
    }
    let object = reader.object(value, path)?;
    reader.known_only(object, &["mode"], path);
    let Some(value) = Reader::member(object, "mode") else {
        return Some(Mode::Unset);
    };
    let path = path.member("mode");
    let mode = match reader.text(value, &path)? {
        "UNSET" => Mode::Unset,
        "DISABLE" => Mode::Disable,
        "PERMISSIVE" => Mode::Permissive,
        "STRICT" => Mode::Strict,
        other => {
            reader.find(
                Code::SchemaEnum,
                &path,
                format!("`{other}` is not a mode; one of UNSET, DISABLE, PERMISSIVE, STRICT"),
            );
            return None;
        }
    };
    Some(mode)
}
