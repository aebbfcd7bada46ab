//! The volumes of a pod: directories of the data directory that only this pod is shown, and files in memory.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::io::Write;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use api::{Key, Object};
use linux::error::with_causes;
use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};
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

/// What of the volumes of a pod outlives this process.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Kept {
    sources: HashMap<String, Source>,
    memory: Vec<(String, u64)>,
}

/// What is behind a volume.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum Source {
    /// A directory of the host, or a file of it, that the pod does not write.
    Files(PathBuf),
    /// The pod's files in memory of the volume's name.
    Memory,
}

/// What an `emptyDir` may hold that names no limit: scratch files and unpacked tools; it counts as memory of the pod.
pub(super) const SCRATCH_DEFAULT_BYTES: u64 = 256 << 20;

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
    let data_dir = around.data_dir;
    let wanted = mounted(pod, hooks);
    let group = pod.at("/spec/securityContext/fsGroup").as_u64().and_then(|group| u32::try_from(group).ok());
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
        make_directory(data_dir, &path, 0o755)?;
        for file in volumes.files(pod, volume, around).map_err(|why| format!("volume {name}: {why}"))? {
            write(data_dir, &path, &file, group)?;
        }
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

/// A file of a volume.
#[derive(Debug, Clone)]
struct Content {
    path: String,
    text: Vec<u8>,
    mode: u32,
}

type Files = Vec<Content>;

/// The mode of files that say none (Kubernetes).
const MODE_DEFAULT: u32 = 0o644;

/// The mode that a volume or an item of it gives to files.
fn mode(of: &Value, name: &str) -> Option<u32> {
    u32::try_from(of.get(name)?.as_u64()?).ok().map(|mode| mode & 0o777)
}

impl Volumes {
    /// What is to be recorded of them.
    pub(super) fn kept(&self) -> Kept {
        Kept { sources: self.sources.clone(), memory: self.memory.clone() }
    }

    /// Volumes that were made before; what is in them stays as it is.
    pub(super) fn again(kept: Kept, hooks: &Hooks) -> Self {
        Self { sources: kept.sources, memory: kept.memory, find: Arc::clone(&hooks.find) }
    }

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
        let of = |source: &Value| mode(source, "defaultMode").unwrap_or(MODE_DEFAULT);
        if let Some(source) = volume.get("configMap") {
            return self.keys(pod, "configmaps", source, "name", of(source));
        }
        if let Some(source) = volume.get("secret") {
            return self.keys(pod, "secrets", source, "secretName", of(source));
        }
        if let Some(source) = volume.get("downwardAPI") {
            return Ok(downward(pod, source, around, of(source)));
        }
        let projected = volume.get("projected").unwrap_or(&Value::Null);
        let mode = of(projected);
        let mut files = Files::new();
        for source in projected.get("sources").and_then(Value::as_array).into_iter().flatten() {
            if let Some(source) = source.get("configMap") {
                files.extend(self.keys(pod, "configmaps", source, "name", mode)?);
            } else if let Some(source) = source.get("secret") {
                files.extend(self.keys(pod, "secrets", source, "name", mode)?);
            } else if let Some(source) = source.get("downwardAPI") {
                files.extend(downward(pod, source, around, mode));
            } else if let Some(source) = source.get("serviceAccountToken") {
                // Pods cannot reach the API server, so that there is nothing the token could be good for.
                let path = source.get("path").and_then(Value::as_str).unwrap_or("token").to_owned();
                files.push(Content { path, text: Vec::new(), mode });
            }
        }
        Ok(files)
    }

    /// The entries of a config map or secret, all or those listed; none if it is optional and absent.
    fn keys(&self, pod: &Object, plural: &str, source: &Value, name: &str, default: u32) -> Result<Files, String> {
        let name = source.get(name).and_then(Value::as_str).unwrap_or_default();
        let optional = source.get("optional") == Some(&Value::Bool(true));
        let kind = plural.trim_end_matches('s');
        let Some(object) = self.object(pod, plural, name) else {
            return if optional { Ok(Files::new()) } else { Err(format!("{kind} \"{name}\" not found")) };
        };
        let all = entries(&object);
        let Some(items) = source.get("items").and_then(Value::as_array) else {
            return Ok(all.into_iter().map(|(path, text)| Content { path, text, mode: default }).collect());
        };
        let mut files = Files::new();
        for item in items {
            let text = |name: &str| item.get(name).and_then(Value::as_str).unwrap_or_default();
            match all.iter().find(|(known, _)| known == text("key")) {
                Some((_, bytes)) => files.push(Content {
                    path: text("path").to_owned(),
                    text: bytes.clone(),
                    mode: mode(item, "mode").unwrap_or(default),
                }),
                None if optional => {}
                None => return Err(format!("{kind} \"{name}\" has no key \"{}\"", text("key"))),
            }
        }
        Ok(files)
    }

    /// The variables that whole config maps and secrets give (`envFrom`); names that no variable can have are left out.
    pub(super) fn variables(&self, pod: &Object, from: &Value) -> Result<Vec<(String, String)>, String> {
        let prefix = from.get("prefix").and_then(Value::as_str).unwrap_or_default();
        let mut found = Vec::new();
        for (source, plural) in [("configMapRef", "configmaps"), ("secretRef", "secrets")] {
            let Some(source) = from.get(source) else { continue };
            let files = self.keys(pod, plural, source, "name", MODE_DEFAULT)?;
            let pairs = files
                .into_iter()
                .map(|file| (format!("{prefix}{}", file.path), String::from_utf8_lossy(&file.text).into_owned()));
            found
                .extend(pairs.filter(|(name, value)| !name.is_empty() && !name.contains('=') && !value.contains('\0')));
        }
        Ok(found)
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

fn entries(object: &Object) -> Vec<(String, Vec<u8>)> {
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
pub(super) fn decoded(text: &str) -> Vec<u8> {
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

fn downward(pod: &Object, source: &Value, around: &Surroundings<'_>, default: u32) -> Files {
    let items = source.get("items").and_then(Value::as_array);
    let item = |item: &Value| {
        let path = item.get("path")?.as_str()?.to_owned();
        let name = item.pointer("/fieldRef/fieldPath").and_then(Value::as_str);
        let text = name.map_or_else(String::new, |name| field(pod, name, around)).into_bytes();
        Some(Content { path, text, mode: mode(item, "mode").unwrap_or(default) })
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

/// Makes a directory of ours below the data directory, which is a user's: nobody but root may write on the way to it, so
/// that nothing else can be put in its place and shown to a pod.
fn make_directory(data_dir: &Path, path: &Path, mode: u32) -> Result<(), String> {
    let below =
        path.strip_prefix(data_dir).map_err(|_| format!("`{}` is not in the data directory", path.display()))?;
    let folder = linux::files::make_directories(data_dir, below, Mode::RWXU, false);
    let folder = folder.map_err(|error| with_causes(&error))?;
    rustix::fs::fchmod(&folder, Mode::from_raw_mode(mode))
        .map_err(|error| format!("cannot set the mode of `{}`: {error}", path.display()))
}

/// Writes a file below a volume's directory; one with steps up is refused, as no valid object has it.
fn write(data_dir: &Path, directory: &Path, file: &Content, group: Option<u32>) -> Result<(), String> {
    let name = Path::new(&file.path);
    if file.path.is_empty() || !name.components().all(|part| matches!(part, Component::Normal(_))) {
        return Err(format!("`{}` leads out of the volume", file.path));
    }
    let path = directory.join(name);
    // Directories on the way, from the outermost: each may be read by any user of the pod.
    let folders: Vec<&Path> = name.ancestors().skip(1).filter(|part| !part.as_os_str().is_empty()).collect();
    for folder in folders.into_iter().rev() {
        make_directory(data_dir, &directory.join(folder), 0o755)?;
    }
    let failed = |error: std::io::Error| format!("cannot write `{}`: {error}", path.display());
    let opened = linux::files::open_to_write(&path, OFlags::TRUNC, Mode::RUSR | Mode::WUSR);
    let mut written = opened.map_err(|error| with_causes(&error))?;
    written.write_all(&file.text).map_err(failed)?;
    // The group of a pod's volumes may read what their owner may, as in Kubernetes.
    let mode = if group.is_some() { file.mode | ((file.mode & 0o400) >> 3) } else { file.mode };
    let group = group.map(rustix::fs::Gid::from_raw);
    let done = rustix::fs::fchown(&written, None, group)
        .and_then(|()| rustix::fs::fchmod(&written, Mode::from_raw_mode(mode)));
    done.map_err(|error| failed(error.into()))
}
