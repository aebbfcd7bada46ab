use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::tar::tests::Builder;
use super::*;

/// The parts of an image, as they lie in a layout and in an archive.
struct Sample {
    home: tempfile::TempDir,
    store: Store,
}

/// Files by their names.
type Parts = BTreeMap<String, Vec<u8>>;

impl Sample {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let data_dir = home.path().canonicalize().unwrap().join("mesh");
        std::fs::create_dir(&data_dir).unwrap();
        Self { store: Store::of(&data_dir), home }
    }

    fn folder(&self, parts: &Parts) -> PathBuf {
        let path = self.home.path().join("layout");
        drop(std::fs::remove_dir_all(&path));
        for (name, text) in parts {
            let file = path.join(name);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, text).unwrap();
        }
        path
    }

    fn archive(&self, parts: &Parts) -> PathBuf {
        let path = self.home.path().join("image.tar");
        let mut builder = Builder::default();
        for (name, text) in parts {
            builder = builder.entry(b'0', name, "", text);
        }
        std::fs::write(&path, builder.bytes()).unwrap();
        path
    }

    fn import(&self, path: &Path, name: Option<&str>) -> Result<Vec<Added>, String> {
        let name = name.map(|name| Reference::parse(name).unwrap());
        let done = import(&self.store, path, name.as_ref());
        let left: Vec<_> = std::fs::read_dir(self.home.path().join("mesh/images/staging")).unwrap().collect();
        assert!(left.is_empty(), "nothing half-made stays: {left:?}");
        done.map_err(|error| linux::error::with_causes(&error))
    }

    fn names(&self) -> Vec<String> {
        self.store.list().unwrap().into_iter().map(|image| image.name).collect()
    }

    fn layers(&self) -> usize {
        let listed = std::fs::read_dir(self.home.path().join("mesh/images/layers")).unwrap();
        listed.flatten().filter(|entry| entry.path().is_dir()).count()
    }
}

fn put(parts: &mut Parts, text: &[u8]) -> Value {
    let digest = Digest::of(text);
    parts.insert(format!("blobs/sha256/{}", digest.letters()), text.to_vec());
    json!({ "mediaType": "application/octet-stream", "digest": digest.to_string(), "size": text.len() })
}

fn config(architecture: &str, layers: &[Vec<u8>]) -> Vec<u8> {
    let ids: Vec<_> = layers.iter().map(|layer| Digest::of(layer).to_string()).collect();
    let text = json!({
        "os": "linux", "architecture": architecture, "rootfs": { "type": "layers", "diff_ids": ids },
        "config": { "Entrypoint": ["/app"], "Cmd": ["serve"], "Env": ["A=b=c", "EMPTY="], "WorkingDir": "/srv", "User": "app:log",
            "StopSignal": "SIGQUIT" },
    });
    text.to_string().into_bytes()
}

/// Adds an image to a layout; its descriptor.
fn image(parts: &mut Parts, architecture: &str, layers: &[Vec<u8>]) -> Value {
    let config = put(parts, &config(architecture, layers));
    let layers: Vec<_> = layers.iter().map(|layer| put(parts, layer)).collect();
    let manifest = json!({ "schemaVersion": 2, "config": config, "layers": layers });
    put(parts, manifest.to_string().as_bytes())
}

fn index(parts: &mut Parts, manifests: &[Value]) {
    parts.insert("index.json".into(), json!({ "schemaVersion": 2, "manifests": manifests }).to_string().into_bytes());
}

fn layer(content: &str) -> Vec<u8> {
    Builder::default().file("app", content).bytes()
}

fn with(mut descriptor: Value, key: &str, value: Value) -> Value {
    descriptor[key] = value;
    descriptor
}

fn named(descriptor: Value, name: &str) -> Value {
    with(descriptor, "annotations", json!({ "org.opencontainers.image.ref.name": name }))
}

#[test]
fn a_layout_is_imported_from_a_folder_and_from_an_archive() {
    let sample = Sample::new();
    let mut parts = Parts::new();
    let own = image(&mut parts, architecture(), &[layer("one"), layer("two")]);
    index(&mut parts, &[named(own.clone(), "example.com/app:1")]);
    let added = sample.import(&sample.folder(&parts), None).unwrap();
    assert_eq!((added[0].fresh, added[0].images[0].name.as_str()), (2, "example.com/app:1"));
    let digest = Digest::parse(own["digest"].as_str().unwrap()).unwrap();
    let stored = &added[0].images[0];
    assert_eq!((stored.digests.as_slice(), stored.bytes), ([digest.clone()].as_slice(), 6));
    // The same again is nothing new; packed whole it is the same.
    let path = sample.archive(&parts);
    for program in ["", "gzip", "zstd"] {
        if !program.is_empty() {
            assert!(
                std::process::Command::new(program).args(["-q", "-f", "-k"]).arg(&path).status().unwrap().success()
            );
        }
        let suffix = [("", ""), ("gzip", ".gz"), ("zstd", ".zst")].iter().find(|(name, _)| *name == program).unwrap().1;
        let packed = PathBuf::from(format!("{}{suffix}", path.display()));
        let added = sample.import(&packed, Some("other:2")).unwrap();
        assert_eq!((added[0].fresh, added[0].images[0].name.as_str()), (0, "docker.io/library/other:2"), "{program}");
    }
    assert_eq!(sample.names(), ["docker.io/library/other:2", "example.com/app:1"]);
    // By name, by digest, and not by another's.
    let find = |text: &str| sample.store.find(&Reference::parse(text).unwrap()).unwrap().map(|image| image.name);
    assert_eq!(find("other:2").as_deref(), Some("docker.io/library/other:2"));
    assert_eq!(find(&format!("example.com/app@{digest}")).as_deref(), Some("example.com/app:1"));
    assert_eq!(find(&format!("example.com/app:9@{digest}")).as_deref(), Some("example.com/app:1"));
    assert_eq!(find(&format!("example.com/none@{digest}")), None);
    assert_eq!(find("example.com/app:2"), None);
    let run = Image::of(stored, &sample.store);
    assert_eq!(
        (run.entrypoint, run.arguments, run.directory),
        (vec!["/app".into()], vec!["serve".into()], "/srv".to_owned())
    );
    assert_eq!(
        (run.id, run.user, run.stop_signal),
        (format!("example.com/app@{digest}"), "app:log".into(), Some("SIGQUIT".into()))
    );
    let environment: Vec<_> = run.environment.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert_eq!(environment, [("A", "b=c"), ("EMPTY", ""), ("PATH", PATH_DEFAULT)]);
    assert_eq!(run.root, Root::Layers(stored.layers.iter().map(|layer| sample.store.layer(layer)).collect()));
}

#[test]
fn archives_of_docker_save_of_both_kinds_are_imported() {
    let sample = Sample::new();
    // Of old: a folder for each layer, and links between those that are the same.
    let layers = [layer("one"), layer("two")];
    let text = config(architecture(), &layers);
    let name = format!("{}.json", Digest::of(&text).letters());
    let saved = json!([{ "Config": name, "RepoTags": ["app:1", "other/app:latest"], "Layers": ["a/layer.tar", "b/layer.tar"] }]);
    let archive = Builder::default()
        .entry(b'0', "x.json", "", b"no part of it")
        .pax(&[("path", &name)])
        .entry(b'0', "cut", "", &text)
        .entry(b'0', "c/layer.tar", "", &layers[0])
        .folder("a/")
        .entry(b'2', "a/layer.tar", "../c/layer.tar", b"")
        .entry(b'0', "b/layer.tar", "", &layers[1])
        .entry(b'0', "manifest.json", "", saved.to_string().as_bytes())
        .bytes();
    let path = sample.home.path().join("saved.tar");
    std::fs::write(&path, archive).unwrap();
    sample.import(&path, None).unwrap();
    assert_eq!(sample.names(), ["docker.io/library/app:1", "docker.io/other/app:latest"]);
    assert_eq!(sample.store.list().unwrap()[0].digests, []);
    // Of today: a layout, with the names in the document of the older kind.
    let mut parts = Parts::new();
    let own = image(&mut parts, architecture(), &layers);
    index(&mut parts, &[with(own, "annotations", json!({ "org.opencontainers.image.ref.name": "3" }))]);
    let config = format!("blobs/sha256/{}", Digest::of(&text).letters());
    let saved = json!([{ "Config": config, "RepoTags": ["today:3", "today:latest"], "Layers": [] }]);
    parts.insert("manifest.json".into(), saved.to_string().into_bytes());
    let added = sample.import(&sample.archive(&parts), None).unwrap();
    assert_eq!((added.len(), added[0].fresh), (1, 0));
    assert_eq!(sample.names().len(), 4);
    assert!(sample.names().contains(&"docker.io/library/today:3".to_owned()));
}

#[test]
fn of_several_platforms_this_machines_is_taken() {
    let sample = Sample::new();
    let other = if architecture() == "arm64" { "amd64" } else { "arm64" };
    let on = |descriptor: Value, architecture: &str| {
        with(descriptor, "platform", json!({ "os": "linux", "architecture": architecture }))
    };
    let mut parts = Parts::new();
    let (own, foreign) =
        (image(&mut parts, architecture(), &[layer("own")]), image(&mut parts, other, &[layer("foreign")]));
    let note = with(
        json!({ "digest": Digest::of(b"note").to_string(), "size": 4 }),
        "platform",
        json!({ "os": "unknown", "architecture": "unknown" }),
    );
    let all = [on(foreign.clone(), other), note, on(own, architecture())];
    // An index in the layout's index, as builders write it.
    let inner = put(&mut parts, json!({ "schemaVersion": 2, "manifests": all }).to_string().as_bytes());
    index(&mut parts, &[named(inner, "example.com/inner:1")]);
    let added = sample.import(&sample.folder(&parts), None).unwrap();
    assert_eq!(added[0].images[0].digests.len(), 2, "it is known by the index and by the manifest");
    // The platforms in the layout's own index.
    index(&mut parts, &all);
    sample.import(&sample.folder(&parts), Some("flat")).unwrap();
    let ids: Vec<_> = sample.store.list().unwrap().into_iter().map(|image| image.id).collect();
    assert_eq!(ids[0], ids[1]);
    assert_eq!(sample.layers(), 1, "of the other nothing was unpacked");
    // None for this machine.
    for descriptors in [vec![on(foreign.clone(), other)], vec![foreign]] {
        index(&mut parts, &descriptors);
        let why = sample.import(&sample.folder(&parts), Some("none")).unwrap_err();
        assert!(why.contains(&format!("linux/{other}")) && why.contains(&format!("linux/{}", architecture())), "{why}");
    }
}

#[test]
fn what_is_not_an_image_is_refused_and_leaves_nothing() {
    let sample = Sample::new();
    let mut parts = Parts::new();
    let own = image(&mut parts, architecture(), &[layer("one"), layer("two")]);
    index(&mut parts, std::slice::from_ref(&own));
    let refused = |parts: &Parts, name: Option<&str>| sample.import(&sample.folder(parts), name).unwrap_err();
    assert!(refused(&parts, None).contains("--name"), "it has no name");
    index(&mut parts, &[named(own.clone(), "latest")]);
    assert!(refused(&parts, None).contains("--name"), "a tag alone is none");
    index(&mut parts, &[named(own.clone(), "a:1"), named(own.clone(), "b:1")]);
    assert!(refused(&parts, Some("c")).contains("2 images"));
    index(&mut parts, &[]);
    assert!(refused(&parts, None).contains("no image in it"));
    index(&mut parts, &[own]);
    let is_blob = |(name, text): &(&String, &Vec<u8>), part: &[u8]| {
        name.starts_with("blobs") && text.windows(part.len()).any(|window| window == part)
    };
    let blob = |part: &[u8]| parts.iter().find(|one| is_blob(one, part)).unwrap().0.clone();
    for (part, text, why) in [
        // Each part by itself: changed, cut off, missing, longer than its promise.
        (b"diff_ids".as_slice(), Some(b"{}".to_vec()), "was promised"),
        (b"\"layers\":[".as_slice(), Some(b"{}".to_vec()), "was promised"),
        (b"two", Some(layer("TWO")), "was promised"),
        (b"two", Some(layer("two")[..700].to_vec()), "middle of"),
        (b"two", Some([layer("two"), vec![0; 9]].concat()), "longer than its manifest says"),
        (b"two", None, "is not in it"),
        (b"diff_ids", None, "is not in it"),
        (b"\"layers\":[", None, "is not in it"),
    ] {
        let name = blob(part);
        let mut broken = parts.clone();
        broken.remove(&name);
        broken.extend(text.map(|text| (name, text)));
        let said = refused(&broken, Some("broken"));
        assert!(said.contains(why), "{why}: {said}");
        assert_eq!((sample.names(), sample.layers()), (Vec::new(), 0), "{why}");
    }
    for (text, why) in [
        (b"".as_slice(), "neither an OCI layout"),
        (&[7; 600], "check sum"),
        (&Builder::default().file("bin/sh", "x").bytes(), "docker export"),
        (&Builder::default().file("index.json", "[]").bytes(), "neither an index"),
        (&Builder::default().file("index.json", &"x".repeat(5 << 20)).bytes(), "longer than"),
        (&Builder::default().file("manifest.json", "{}").bytes(), "manifest.json"),
        (&Builder::default().entry(b'2', "index.json", "index.json", b"").bytes(), "link to a link"),
    ] {
        let path = sample.home.path().join("odd.tar");
        std::fs::write(&path, text).unwrap();
        let said = sample.import(&path, Some("odd")).unwrap_err();
        assert!(said.contains(why), "{why}: {said}");
    }
    assert!(sample.import(Path::new("/nonexistent/x"), None).unwrap_err().contains("No such file"));
    assert!(sample.import(Path::new("/dev/null"), None).unwrap_err().contains("image import -"));
    // A link in a layout could lead to any file of the machine.
    let folder = sample.folder(&parts);
    std::fs::rename(folder.join("index.json"), sample.home.path().join("elsewhere")).unwrap();
    std::os::unix::fs::symlink(sample.home.path().join("elsewhere"), folder.join("index.json")).unwrap();
    assert!(sample.import(&folder, Some("link")).unwrap_err().contains("is a link"));
}

#[test]
fn layers_stay_while_an_image_or_a_container_has_them() {
    let sample = Sample::new();
    let add = |name: &str, layers: &[Vec<u8>]| {
        let mut parts = Parts::new();
        let own = image(&mut parts, architecture(), layers);
        index(&mut parts, &[named(own, name)]);
        sample.import(&sample.folder(&parts), None).unwrap().remove(0).images.remove(0)
    };
    let one = add("a/one:1", &[layer("shared"), layer("one")]);
    let two = add("a/two:1", &[layer("shared"), layer("two"), layer("shared")]);
    assert_eq!(sample.layers(), 3);
    let Root::Layers(stacked) = Image::of(&two, &sample.store).root else { panic!("it has layers") };
    assert_eq!(
        stacked,
        [sample.store.layer(&two.layers[1]), sample.store.layer(&two.layers[2])],
        "no layer comes twice"
    );
    let forget = |name: &str| {
        let writer = sample.store.write().unwrap();
        let known = writer.forget(&Reference::parse(name).unwrap()).unwrap();
        (known, writer.sweep().unwrap())
    };
    let held = hold(&sample.store.layer(&one.layers[1])).unwrap();
    assert_eq!(forget("a/one:1"), (true, 0), "a container runs on it");
    assert_eq!(forget("a/one:1"), (false, 0));
    drop(held);
    assert_eq!(forget("a/none:1"), (false, 1), "the next who writes removes it");
    assert!(hold(&sample.store.layer(&one.layers[1])).unwrap_err().to_string().contains("was removed"));
    assert_eq!(forget("a/two:1"), (true, 2));
    assert_eq!((sample.layers(), sample.names()), (0, Vec::new()));
    // What a killed import left goes with the next.
    std::fs::create_dir_all(sample.home.path().join("mesh/images/staging/left/over")).unwrap();
    drop(sample.store.write().unwrap());
    assert_eq!(std::fs::read_dir(sample.home.path().join("mesh/images/staging")).unwrap().count(), 0);
}

#[test]
fn what_somebody_else_has_put_in_the_place_of_the_store_is_not_used() {
    let sample = Sample::new();
    let mut parts = Parts::new();
    let own = image(&mut parts, architecture(), &[layer("one")]);
    index(&mut parts, &[named(own, "a/b:1")]);
    let stored = sample.import(&sample.folder(&parts), None).unwrap().remove(0).images.remove(0);
    let images = sample.home.path().join("mesh/images");
    for name in ["names", "layers"] {
        let folder = images.join(name);
        linux::files::give(&folder, 12345, 12345).unwrap();
        let refused = match name {
            "names" => sample.store.list().unwrap_err(),
            _ => hold(&sample.store.layer(&stored.layers[0])).unwrap_err(),
        };
        assert!(linux::error::with_causes(&refused).contains("belongs to user 12345"), "{name}");
        assert!(sample.store.write().is_err());
        linux::files::give(&folder, 0, 0).unwrap();
        let aside = sample.home.path().join("aside");
        std::fs::rename(&folder, &aside).unwrap();
        std::os::unix::fs::symlink(&aside, &folder).unwrap();
        assert!(sample.store.write().is_err() && sample.store.list().is_err() == (name == "names"));
        std::fs::remove_file(&folder).unwrap();
        std::fs::rename(&aside, &folder).unwrap();
    }
    assert_eq!(sample.names(), ["docker.io/a/b:1"]);
}
