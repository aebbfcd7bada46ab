//! The documents of an image: index, manifest, configuration (OCI image specification 1.1, and Docker's second schema).
//! Pure.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::digest::Digest;

/// The longest document that is read: what registries take (OCI distribution: 4 MiB).
pub(super) const DOCUMENT_BYTES_MAX: u64 = 4 << 20;

/// Most layers of an image: what Docker builds (127), and what one overlay takes with names of handles.
pub(super) const LAYERS_MAX: usize = 128;

/// A part of an image by its digest.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Descriptor {
    pub(super) digest: Digest,
    pub(super) size: u64,
    pub(super) platform: Option<Platform>,
    #[serde(default)]
    pub(super) annotations: Option<BTreeMap<String, String>>,
}

/// What an image runs on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub(super) struct Platform {
    #[serde(default)]
    pub(super) os: String,
    #[serde(default)]
    pub(super) architecture: String,
    #[serde(default)]
    pub(super) variant: Option<String>,
}

/// A document that names parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Document {
    /// One image for each of several platforms.
    Index(Vec<Descriptor>),
    /// One image.
    Manifest(Manifest),
}

/// Configuration and layers, the lowest first.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct Manifest {
    pub(super) config: Descriptor,
    pub(super) layers: Vec<Descriptor>,
}

/// What an image says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct Config {
    #[serde(flatten)]
    pub(super) platform: Platform,
    #[serde(default, rename = "config")]
    pub(super) defaults: Option<Defaults>,
    pub(super) rootfs: RootFs,
}

/// What runs unless the pod says otherwise.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Defaults {
    pub(super) user: Option<String>,
    pub(super) env: Option<Vec<String>>,
    pub(super) entrypoint: Option<Vec<String>>,
    pub(super) cmd: Option<Vec<String>>,
    pub(super) working_dir: Option<String>,
    pub(super) stop_signal: Option<String>,
}

/// The layers by what they unpack to, the lowest first.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct RootFs {
    #[serde(default)]
    pub(super) diff_ids: Vec<Digest>,
}

/// Reads an index or a manifest.
pub(super) fn document(text: &[u8]) -> Result<Document, String> {
    #[derive(Deserialize)]
    struct Shape {
        #[serde(rename = "schemaVersion", default)]
        schema: u32,
        manifests: Option<Vec<Descriptor>>,
        config: Option<Descriptor>,
        layers: Option<Vec<Descriptor>>,
    }
    let shape: Shape =
        serde_json::from_slice(text).map_err(|error| format!("it is neither an index nor a manifest: {error}"))?;
    match shape {
        Shape { schema: 1, .. } => {
            Err("it is of Docker's first schema, which is not read; push or save it with a Docker of this decade"
                .to_owned())
        }
        Shape { manifests: Some(manifests), .. } => Ok(Document::Index(manifests)),
        Shape { config: Some(config), layers: Some(layers), .. } => Ok(Document::Manifest(Manifest { config, layers })),
        _ => Err("it has neither `manifests` nor `config` and `layers`".to_owned()),
    }
}

/// Reads a configuration; it must be for this machine, and have as many layers as the manifest.
pub(super) fn config(text: &[u8], layers: usize) -> Result<Config, String> {
    let config: Config =
        serde_json::from_slice(text).map_err(|error| format!("its configuration cannot be read: {error}"))?;
    if !config.platform.is_this_machines() {
        return Err(format!("it is for {}, and this machine is {}", config.platform.told(), this_machine()));
    }
    let count = config.rootfs.diff_ids.len();
    if count != layers {
        return Err(format!("its manifest has {layers} layers and its configuration {count}"));
    }
    match count {
        0 => Err("it has no layers, so there is nothing in it to run".to_owned()),
        1..=LAYERS_MAX => Ok(config),
        _ => Err(format!("it has {count} layers; more than {LAYERS_MAX} are not taken")),
    }
}

/// The image for this machine among those of an index.
pub(super) fn choose(all: &[Descriptor]) -> Result<&Descriptor, String> {
    // What is for no machine at all speaks about an image: who built it, what is in it.
    let images: Vec<_> = all.iter().filter(|one| one.platform.as_ref().is_none_or(|on| on.os != "unknown")).collect();
    let fits = |one: &&&Descriptor| one.platform.as_ref().is_some_and(Platform::is_this_machines);
    // The plain one rather than one for a newer processor.
    let fitting = images.iter().filter(fits).min_by_key(|one| one.platform.as_ref().and_then(|on| on.variant.clone()));
    // One that says nothing says it in its configuration.
    let single = images.first().filter(|one| images.len() == 1 && one.platform.is_none());
    fitting.or(single).copied().ok_or_else(|| {
        let mut there: Vec<_> = images.iter().filter_map(|one| one.platform.as_ref()).map(Platform::told).collect();
        there.sort();
        there.dedup();
        let there = if there.is_empty() { "none".to_owned() } else { there.join(", ") };
        format!("it has no image for {}; it has {there}", this_machine())
    })
}

impl Platform {
    fn is_this_machines(&self) -> bool {
        // On 32-bit ARM alone a variant may be one that this machine cannot run; the kernel then says so.
        self.os == "linux" && self.architecture == architecture()
    }

    fn told(&self) -> String {
        let variant = self.variant.as_ref().map_or_else(String::new, |variant| format!("/{variant}"));
        format!("{}/{}{variant}", self.os, self.architecture)
    }
}

/// This machine as images name it.
pub(super) fn this_machine() -> String {
    format!("linux/{}", architecture())
}

/// Names of architectures as container images have them.
pub(crate) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" => "ppc64le",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn descriptor(os: &str, architecture: &str, variant: Option<&str>) -> serde_json::Value {
        let digest = Digest::of(format!("{os}{architecture}{variant:?}").as_bytes());
        json!({
            "mediaType": "x", "digest": digest.to_string(), "size": 1,
            "platform": { "os": os, "architecture": architecture, "variant": variant },
        })
    }

    fn index(manifests: &[serde_json::Value]) -> Vec<Descriptor> {
        let text = json!({ "schemaVersion": 2, "manifests": manifests }).to_string();
        let Document::Index(all) = document(text.as_bytes()).unwrap() else { panic!("an index was written") };
        all
    }

    #[test]
    fn the_image_of_this_machine_is_chosen_or_those_there_are_are_named() {
        let own = architecture();
        let other = if own == "arm64" { "amd64" } else { "arm64" };
        let all = index(&[
            descriptor("unknown", "unknown", None),
            descriptor("windows", own, None),
            descriptor("linux", other, Some("v8")),
            descriptor("linux", own, Some("v3")),
            descriptor("linux", own, None),
        ]);
        assert_eq!(choose(&all).unwrap(), &all[4]);
        let why = choose(&all[..3]).unwrap_err();
        assert_eq!(why, format!("it has no image for linux/{own}; it has linux/{other}/v8, windows/{own}"));
        assert!(choose(&[]).unwrap_err().ends_with("it has none"));
        let mut single = index(&[descriptor("linux", other, None)]);
        single[0].platform = None;
        assert_eq!(choose(&single).unwrap(), &single[0]);
    }

    #[test]
    fn documents_that_are_none_are_told() {
        for (text, why) in [
            ("", "neither an index nor a manifest"),
            ("[]", "neither an index nor a manifest"),
            ("{}", "has neither `manifests`"),
            (r#"{"schemaVersion": 1, "fsLayers": []}"#, "first schema"),
            (r#"{"manifests": [{"digest": "sha512:00", "size": 1}]}"#, "no SHA-256"),
        ] {
            let said = document(text.as_bytes()).unwrap_err();
            assert!(said.contains(why), "{text}: {said}");
        }
    }

    #[test]
    fn a_configuration_must_be_of_this_machine_and_of_its_manifest() {
        let text = |architecture: &str, layers: usize| {
            let ids = vec![Digest::of(b"").to_string(); layers];
            json!({ "os": "linux", "architecture": architecture, "rootfs": { "type": "layers", "diff_ids": ids },
                "config": { "Env": null, "Cmd": ["sh"], "WorkingDir": "" } })
            .to_string()
        };
        let own = architecture();
        let read = config(text(own, 2).as_bytes(), 2).unwrap();
        assert_eq!(read.defaults.unwrap().cmd, Some(vec!["sh".to_owned()]));
        for (text, layers, why) in [
            (text("vax", 2), 2, "it is for linux/vax"),
            (text(own, 2), 3, "3 layers and its configuration 2"),
            (text(own, 0), 0, "no layers"),
            (text(own, 200), 200, "more than 128"),
            ("{}".to_owned(), 0, "cannot be read"),
        ] {
            let said = config(text.as_bytes(), layers).unwrap_err();
            assert!(said.contains(why), "{said}");
        }
    }
}
