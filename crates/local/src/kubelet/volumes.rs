//! The volumes of a pod: directories of the data directory that only this pod is shown, and files in memory.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use api::{Key, Object};
use serde_json::Value;

use super::plan::Surroundings;
use super::{FindHook, Hooks, plan};

/// Kinds of volumes that are served here.
const KINDS: [&str; 5] = ["configMap", "downwardAPI", "emptyDir", "projected", "secret"];

/// The volumes of one pod.
pub(super) struct Volumes {
    sources: HashMap<String, Source>,
    /// The pod's files in memory: names, and how many bytes each may hold.
    pub(super) memory: Vec<(String, u64)>,
    find: FindHook,
}

/// What is behind a volume.
#[derive(Debug)]
pub(super) enum Source {
    /// A directory of the host, or a file of it, that the pod does not write.
    Files(PathBuf),
    /// The pod's files in memory of the volume's name.
    Memory,
}

/// What an `emptyDir` may hold that names no limit: scratch files and unpacked tools; it counts as memory of the pod.
const SCRATCH_DEFAULT_BYTES: u64 = 256 << 20;

impl fmt::Debug for Volumes {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Volumes").field("sources", &self.sources).finish_non_exhaustive()
    }
}

/// Why a volume is refused, if it is.
pub(super) fn refusal(volume: &Value) -> Option<String> {
    let name = volume.get("name").and_then(Value::as_str).unwrap_or_default();
    if !is_plain(name) {
        return Some(format!("volume `{name}`: not a name of a volume"));
    }
    let kinds = volume.as_object().into_iter().flat_map(|fields| fields.keys());
    let kind = kinds.map(String::as_str).find(|field| *field != "name")?;
    (!KINDS.contains(&kind))
        .then(|| format!("volume {name}: {kind} volumes are refused on a local mesh; use one of {}", KINDS.join(", ")))
}

/// Makes the volumes of a pod that a container which runs mounts, below `directory`; the error says what is missing.
/// Those of the virtual containers alone (certificates, tokens) are not made: nobody would read them.
pub(super) fn make(
    pod: &Object,
    directory: &Path,
    around: &Surroundings<'_>,
    hooks: &Hooks,
) -> Result<Volumes, String> {
    let mut volumes = Volumes { sources: HashMap::new(), memory: Vec::new(), find: Arc::clone(&hooks.find) };
    let wanted = mounted(pod, hooks);
    for volume in pod.items_at("/spec/volumes") {
        let name = volume.get("name").and_then(Value::as_str).unwrap_or_default();
        if !wanted.contains(name) {
            continue;
        }
        if let Some(scratch) = volume.get("emptyDir") {
            let limit = scratch.get("sizeLimit").and_then(plan::bytes).unwrap_or(SCRATCH_DEFAULT_BYTES);
            volumes.memory.push((name.to_owned(), limit));
            volumes.sources.insert(name.to_owned(), Source::Memory);
            continue;
        }
        let path = directory.join(name);
        std::fs::create_dir_all(&path).map_err(|error| format!("cannot make volume {name}: {error}"))?;
        for (file, text) in volumes.files(pod, volume, around).map_err(|why| format!("volume {name}: {why}"))? {
            write(&path, &file, &text)?;
        }
        permit(&path, 0o755)?;
        volumes.sources.insert(name.to_owned(), Source::Files(path));
    }
    Ok(volumes)
}

/// Names of the volumes that containers which run mount.
fn mounted<'a>(pod: &'a Object, hooks: &Hooks) -> HashSet<&'a str> {
    let containers = pod.items_at("/spec/initContainers").iter().chain(pod.items_at("/spec/containers"));
    let runs = |container: &&Value| {
        let name = container.get("name").and_then(Value::as_str).unwrap_or_default();
        !(hooks.is_virtual)(pod.value(), name)
    };
    let mounts = |container: &'a Value| container.get("volumeMounts").and_then(Value::as_array);
    let mounts = containers.filter(runs).filter_map(mounts).flatten();
    mounts.filter_map(|mount| mount.get("name").and_then(Value::as_str)).collect()
}

type Files = Vec<(String, Vec<u8>)>;

impl Volumes {
    /// What is behind a mount of a volume, or of a part of it.
    pub(super) fn source(&self, name: &str, part: &str) -> Result<Source, String> {
        let path = match self.sources.get(name).ok_or_else(|| format!("no volume is named `{name}`"))? {
            Source::Files(path) => path,
            Source::Memory if part.is_empty() => return Ok(Source::Memory),
            // What a pod writes into a shared directory must not lead out of it.
            Source::Memory => {
                return Err(format!("volume {name}: subPath of an emptyDir is refused on a local mesh"));
            }
        };
        if part.is_empty() {
            return Ok(Source::Files(path.clone()));
        }
        if !Path::new(part).components().all(|part| matches!(part, Component::Normal(_))) {
            return Err(format!("volume {name}: subPath `{part}` leads out of the volume"));
        }
        Ok(Source::Files(path.join(part)))
    }

    fn files(&self, pod: &Object, volume: &Value, around: &Surroundings<'_>) -> Result<Files, String> {
        if let Some(source) = volume.get("configMap") {
            return self.keys(pod, "configmaps", source, "name");
        }
        if let Some(source) = volume.get("secret") {
            return self.keys(pod, "secrets", source, "secretName");
        }
        if let Some(source) = volume.get("downwardAPI") {
            return Ok(downward(pod, source, around));
        }
        let sources = volume.pointer("/projected/sources").and_then(Value::as_array);
        let mut files = Files::new();
        for source in sources.into_iter().flatten() {
            if let Some(source) = source.get("configMap") {
                files.extend(self.keys(pod, "configmaps", source, "name")?);
            } else if let Some(source) = source.get("secret") {
                files.extend(self.keys(pod, "secrets", source, "name")?);
            } else if let Some(source) = source.get("downwardAPI") {
                files.extend(downward(pod, source, around));
            } else if let Some(source) = source.get("serviceAccountToken") {
                // Pods cannot reach the API server, so that there is nothing the token could be good for.
                let path = source.get("path").and_then(Value::as_str).unwrap_or("token");
                files.push((path.to_owned(), Vec::new()));
            }
        }
        Ok(files)
    }

    /// The entries of a config map or secret, all or those listed; none if it is optional and absent.
    fn keys(&self, pod: &Object, plural: &str, source: &Value, name: &str) -> Result<Files, String> {
        let name = source.get(name).and_then(Value::as_str).unwrap_or_default();
        let optional = source.get("optional") == Some(&Value::Bool(true));
        let Some(object) = self.object(pod, plural, name) else {
            let kind = plural.trim_end_matches('s');
            return if optional { Ok(Files::new()) } else { Err(format!("{kind} \"{name}\" not found")) };
        };
        let all = entries(&object);
        let Some(items) = source.get("items").and_then(Value::as_array) else { return Ok(all) };
        let item = |item: &Value| {
            let (key, path) = (item.get("key")?.as_str()?, item.get("path")?.as_str()?);
            let (_, text) = all.iter().find(|(known, _)| known == key)?;
            Some((path.to_owned(), text.clone()))
        };
        Ok(items.iter().filter_map(item).collect())
    }

    fn object(&self, pod: &Object, plural: &str, name: &str) -> Option<Arc<Object>> {
        (self.find)(&Key::namespaced("", plural, pod.namespace().unwrap_or("default"), name))
    }

    /// The value of an environment variable that comes from elsewhere; none if it is optional and absent.
    pub(super) fn variable(
        &self,
        pod: &Object,
        from: &Value,
        around: &Surroundings<'_>,
    ) -> Result<Option<String>, String> {
        if let Some(path) = from.pointer("/fieldRef/fieldPath").and_then(Value::as_str) {
            return Ok(Some(field(pod, path, around)));
        }
        for (source, plural) in [("configMapKeyRef", "configmaps"), ("secretKeyRef", "secrets")] {
            let Some(source) = from.get(source) else { continue };
            let text = |name: &str| source.get(name).and_then(Value::as_str).unwrap_or_default();
            let object = self.object(pod, plural, text("name"));
            let value = object.and_then(|object| entries(&object).into_iter().find(|(key, _)| key == text("key")));
            let optional = source.get("optional") == Some(&Value::Bool(true));
            return match value {
                Some((_, value)) => Ok(Some(String::from_utf8_lossy(&value).into_owned())),
                None if optional => Ok(None),
                None => {
                    Err(format!("{} \"{}\" has no key \"{}\"", plural.trim_end_matches('s'), text("name"), text("key")))
                }
            };
        }
        // Resources are not bounded yet: what a container asks about itself is unbounded.
        Ok(from.get("resourceFieldRef").map(|_| "0".to_owned()))
    }
}

fn entries(object: &Object) -> Files {
    let listed = |name: &'static str| object.value().get(name).and_then(Value::as_object);
    let secret = object.kind() == "Secret";
    let text = |(key, value): (&String, &Value)| {
        let value = value.as_str().unwrap_or_default();
        let bytes = if secret { decoded(value) } else { value.as_bytes().to_vec() };
        (key.clone(), bytes)
    };
    let plain = listed("data").into_iter().flatten().map(text);
    let binary = listed("binaryData").into_iter().flatten();
    plain.chain(binary.map(|(key, value)| (key.clone(), decoded(value.as_str().unwrap_or_default())))).collect()
}

/// Base64 as Kubernetes writes it; what is not base64 yields what comes before the fault.
fn decoded(text: &str) -> Vec<u8> {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut held) = (0_u32, 0_u32);
    for byte in text.bytes() {
        let Some(value) = ALPHABET.iter().position(|&known| known == byte) else { break };
        bits = (bits << 6) | u32::try_from(value).unwrap_or(0);
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push(u8::try_from((bits >> held) & 0xff).unwrap_or(0));
        }
    }
    bytes
}

fn downward(pod: &Object, source: &Value, around: &Surroundings<'_>) -> Files {
    let items = source.get("items").and_then(Value::as_array);
    let item = |item: &Value| {
        let path = item.get("path")?.as_str()?.to_owned();
        let text = item
            .pointer("/fieldRef/fieldPath")
            .and_then(Value::as_str)
            .map_or_else(String::new, |name| field(pod, name, around));
        Some((path, text.into_bytes()))
    };
    items.into_iter().flatten().filter_map(item).collect()
}

/// A field of the pod as the downward API gives it.
fn field(pod: &Object, path: &str, around: &Surroundings<'_>) -> String {
    let listed = |pairs: Vec<(&str, &str)>| {
        pairs.iter().map(|(key, value)| format!("{key}={value:?}")).collect::<Vec<_>>().join("\n")
    };
    let one = |start: &str| path.strip_prefix(start).and_then(|rest| rest.strip_suffix("']"));
    if let Some(name) = one("metadata.labels['") {
        return pod.label(name).unwrap_or_default().to_owned();
    }
    if let Some(name) = one("metadata.annotations['") {
        return pod.annotation(name).unwrap_or_default().to_owned();
    }
    match path {
        "metadata.labels" => listed(pod.labels().collect()),
        "metadata.annotations" => listed(pod.annotations().collect()),
        "metadata.name" => pod.name().to_owned(),
        "metadata.namespace" => pod.namespace().unwrap_or("default").to_owned(),
        "metadata.uid" => pod.uid().to_owned(),
        "spec.nodeName" => crate::controllers::NODE_NAME.to_owned(),
        "spec.serviceAccountName" => pod.str_at("/spec/serviceAccountName").to_owned(),
        "status.hostIP" => around.host.to_owned(),
        "status.podIP" => around.addresses.first().cloned().unwrap_or_default(),
        "status.podIPs" => around.addresses.join(","),
        _ => String::new(),
    }
}

fn is_plain(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

/// Writes a file below a volume's directory; names with steps up are left out, as no valid object has them.
fn write(directory: &Path, name: &str, text: &[u8]) -> Result<(), String> {
    if !Path::new(name).components().all(|part| matches!(part, Component::Normal(_))) {
        return Err(format!("`{name}` leads out of the volume"));
    }
    let path = directory.join(name);
    let failed = |error: std::io::Error| format!("cannot write `{}`: {error}", path.display());
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(failed)?;
    }
    std::fs::write(&path, text).map_err(failed)?;
    permit(&path, 0o644)
}

fn permit(path: &Path, mode: u32) -> Result<(), String> {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
        .map_err(|error| format!("cannot set the mode of `{}`: {error}", path.display()))
}
