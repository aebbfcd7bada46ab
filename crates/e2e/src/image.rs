//! Images of a test's own, made of files of this machine: the layers by `tar`, the documents by hand.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

/// An image in the making.
#[derive(Debug)]
pub struct Image {
    home: PathBuf,
    layers: Vec<PathBuf>,
    defaults: Value,
}

fn run(command: &mut Command) -> Vec<u8> {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// The SHA-256 of a file, as images write it.
pub fn digest(file: &Path) -> String {
    let said = String::from_utf8_lossy(&run(Command::new("sha256sum").arg(file))).into_owned();
    format!("sha256:{}", said.split(' ').next().unwrap_or_default())
}

/// This machine as images name it.
pub fn architecture() -> &'static str {
    if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }
}

impl Image {
    /// An image without layers, made below `home`; `defaults` is what it says of how it is run.
    pub fn new(home: &Path, defaults: Value) -> Self {
        make(home);
        Self { home: home.to_owned(), layers: Vec::new(), defaults }
    }

    /// Adds a layer that a script makes in an empty directory, where it is run as root.
    #[must_use]
    pub fn layer(mut self, script: &str) -> Self {
        let number = self.layers.len();
        let folder = self.home.join(format!("layer-{number}"));
        make(&folder);
        run(Command::new("bash").args(["-euc", script]).current_dir(&folder));
        let file = self.home.join(format!("layer-{number}.tar"));
        run(Command::new("tar").arg("-cf").arg(&file).args(["--xattrs", "-C"]).arg(&folder).arg("."));
        self.layers.push(file);
        self
    }

    /// A layer with a shell and tools in it, as an image of a distribution has: this machine's own, with their libraries.
    #[must_use]
    pub fn tools(self, names: &[&str]) -> Self {
        let names = names.join(" ");
        self.layer(&format!(
            "mkdir -p bin lib64 etc tmp; chmod 1777 tmp
             for name in {names}; do
               path=$(readlink -f \"$(type -P $name)\"); cp \"$path\" bin/$name
               for library in $(ldd \"$path\" | grep -o '/[^ ]*' || true); do mkdir -p .$(dirname $library); cp -Lu $library .$library; done
             done
             printf 'root:x:0:0:root:/root:/bin/sh\\napp:x:1000:1001:App:/srv/app:/bin/sh\\n' >etc/passwd
             printf 'root:x:0:\\napp:x:1001:\\nlog:x:4:app\\n' >etc/group"
        ))
    }

    /// Writes it as an OCI layout, its layers packed by gzip; where.
    pub fn layout(&self, name: &str) -> PathBuf {
        let folder = self.home.join("layout");
        let blobs = folder.join("blobs/sha256");
        make(&blobs);
        let put = |file: &Path| {
            let digest = digest(file);
            let to = blobs.join(digest.trim_start_matches("sha256:"));
            std::fs::copy(file, &to).unwrap_or_else(|error| panic!("{}: {error}", to.display()));
            let size = std::fs::metadata(&to).map_or(0, |found| found.len());
            json!({ "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": digest, "size": size })
        };
        let text = |text: &Value, kind: &str| {
            let file = self.home.join("document");
            write(&file, text.to_string().as_bytes());
            let mut descriptor = put(&file);
            set(&mut descriptor, "mediaType", json!(kind));
            descriptor
        };
        let ids: Vec<_> = self.layers.iter().map(|layer| digest(layer)).collect();
        let config = text(&self.config(&ids), "application/vnd.oci.image.config.v1+json");
        let layers: Vec<_> = self.layers.iter().map(|layer| put(&packed(layer))).collect();
        let kind = "application/vnd.oci.image.manifest.v1+json";
        let manifest = json!({ "schemaVersion": 2, "mediaType": kind, "config": config, "layers": layers });
        let mut manifest = text(&manifest, kind);
        set(&mut manifest, "annotations", json!({ "org.opencontainers.image.ref.name": name }));
        let index = json!({ "schemaVersion": 2, "manifests": [manifest] });
        write(&folder.join("index.json"), index.to_string().as_bytes());
        write(&folder.join("oci-layout"), br#"{"imageLayoutVersion": "1.0.0"}"#);
        folder
    }

    /// Writes it as `docker save` of old did; where.
    pub fn saved(&self, name: &str) -> PathBuf {
        let folder = self.home.join("saved");
        make(&folder);
        let mut layers = Vec::new();
        for (number, layer) in self.layers.iter().enumerate() {
            let path = format!("{number}/layer.tar");
            make(&folder.join(number.to_string()));
            std::fs::copy(layer, folder.join(&path)).unwrap_or_else(|error| panic!("{path}: {error}"));
            layers.push(path);
        }
        let ids: Vec<_> = self.layers.iter().map(|layer| digest(layer)).collect();
        write(&folder.join("config.json"), self.config(&ids).to_string().as_bytes());
        let manifest = json!([{ "Config": "config.json", "RepoTags": [name], "Layers": layers }]);
        write(&folder.join("manifest.json"), manifest.to_string().as_bytes());
        let file = self.home.join("saved.tar");
        run(Command::new("tar").arg("-cf").arg(&file).arg("-C").arg(&folder).arg("."));
        file
    }

    fn config(&self, ids: &[String]) -> Value {
        json!({
            "os": "linux", "architecture": architecture(), "config": self.defaults,
            "rootfs": { "type": "layers", "diff_ids": ids },
        })
    }
}

fn packed(layer: &Path) -> PathBuf {
    run(Command::new("gzip").args(["-k", "-f", "-n", "-1"]).arg(layer));
    layer.with_extension("tar.gz")
}

fn set(object: &mut Value, name: &str, value: Value) {
    object.as_object_mut().map(|fields| fields.insert(name.to_owned(), value));
}

fn make(folder: &Path) {
    std::fs::create_dir_all(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
}

fn write(file: &Path, text: &[u8]) {
    std::fs::write(file, text).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
}
