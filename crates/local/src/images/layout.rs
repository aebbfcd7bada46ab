//! Which images there are in what is imported, under which names, and of which parts: OCI layouts, and archives of
//! `docker save` of both kinds.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::digest::Digest;
use super::input::Input;
use super::layer::mismatch;
use super::manifest::{self, Descriptor, Document, Manifest};
use super::reference::Reference;

/// Names of images in an index: containerd's and Docker's own, and the standard's, which may be a tag alone.
const NAMES: [&str; 2] = ["io.containerd.image.name", "org.opencontainers.image.ref.name"];

/// Indexes below one another: an archive's own, and one of platforms.
const INDEXES_DEEP_MAX: usize = 3;

/// An image that is to be unpacked.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub(super) names: Vec<Reference>,
    /// By which digests a reference may name it.
    pub(super) digests: Vec<Digest>,
    /// Its configuration.
    pub(super) config: Vec<u8>,
    /// Its layers, the lowest first.
    pub(super) layers: Vec<Part>,
}

/// A layer as it is packed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Part {
    /// Where it is.
    pub(super) path: PathBuf,
    /// What it must be, if that is said.
    pub(super) promised: Option<(Digest, u64)>,
}

/// All images, with the names that they bear.
pub(super) fn images(input: &Input) -> Result<Vec<Found>, String> {
    let saved = input.document(Path::new("manifest.json"))?;
    let saved = saved.map(|text| read_saved(&text)).transpose()?;
    match (input.document(Path::new("index.json"))?, saved) {
        (Some(index), saved) => of_layout(input, &index, &saved.unwrap_or_default()),
        (None, Some(saved)) => saved.iter().map(|one| of_saved(input, one)).collect(),
        (None, None) => Err(
            "it is neither an OCI layout (`index.json`) nor an archive of `docker save` (`manifest.json`); a root file system alone (`docker export`) is no image"
                .to_owned(),
        ),
    }
}

/// One image of an archive of `docker save`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: PathBuf,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<PathBuf>,
}

fn read_saved(text: &[u8]) -> Result<Vec<Saved>, String> {
    serde_json::from_slice(text).map_err(|error| format!("its `manifest.json` cannot be read: {error}"))
}

fn of_saved(input: &Input, saved: &Saved) -> Result<Found, String> {
    let config = input.document(&saved.config)?.ok_or_else(|| absent(&saved.config))?;
    let own = Digest::of(&config);
    // Its name is what it must be.
    let promised = saved.config.file_stem().and_then(|name| Digest::parse(&format!("sha256:{}", name.to_str()?)));
    if let Some(promised) = promised.filter(|promised| *promised != own) {
        return Err(mismatch("the configuration", &promised, &own));
    }
    let layers = saved.layers.iter().map(|path| Part { path: path.clone(), promised: None }).collect();
    Ok(Found { names: tags(saved)?, digests: Vec::new(), config, layers })
}

fn tags(saved: &Saved) -> Result<Vec<Reference>, String> {
    saved.repo_tags.iter().flatten().map(|name| Reference::parse(name)).collect()
}

fn of_layout(input: &Input, index: &[u8], saved: &[Saved]) -> Result<Vec<Found>, String> {
    let Document::Index(all) = manifest::document(index)? else {
        return Err("its `index.json` is not an index".to_owned());
    };
    // Those of one name are one image, for several platforms.
    let mut named: BTreeMap<Option<Reference>, Vec<Descriptor>> = BTreeMap::new();
    for descriptor in all {
        named.entry(name(&descriptor)?).or_default().push(descriptor);
    }
    let mut found = Vec::new();
    for (name, group) in named {
        let images = if name.is_none() && group.iter().all(|one| one.platform.is_none()) {
            group.iter().map(|one| image(input, one)).collect::<Result<Vec<_>, _>>()?
        } else {
            let shown = name.as_ref().map_or_else(String::new, |name| format!("`{name}`: "));
            vec![image(input, manifest::choose(&group).map_err(|why| format!("{shown}{why}"))?)?]
        };
        for mut image in images {
            image.names.extend(name.clone());
            name_as_saved(&mut image, saved)?;
            found.push(image);
        }
    }
    Ok(found)
}

/// Docker writes all tags of an image into the document of its older kind.
fn name_as_saved(image: &mut Found, saved: &[Saved]) -> Result<(), String> {
    let own = Digest::of(&image.config);
    let is_own = |one: &&Saved| one.config.file_name().is_some_and(|name| name == own.letters());
    for name in saved.iter().filter(is_own).map(tags).collect::<Result<Vec<_>, _>>()?.concat() {
        if !image.names.contains(&name) {
            image.names.push(name);
        }
    }
    Ok(())
}

/// The whole name that an index gives to an image; a tag alone is none.
fn name(descriptor: &Descriptor) -> Result<Option<Reference>, String> {
    let said = |key: &str| descriptor.annotations.as_ref()?.get(key).filter(|name| name.contains(['/', ':']));
    NAMES.iter().find_map(|key| said(key)).map(|name| Reference::parse(name)).transpose()
}

/// The image of a descriptor, for this machine.
fn image(input: &Input, descriptor: &Descriptor) -> Result<Found, String> {
    let mut digests = Vec::new();
    let mut at = descriptor.clone();
    for _ in 0..INDEXES_DEEP_MAX {
        let text = blob(input, &at)?;
        digests.push(at.digest.clone());
        match manifest::document(&text)? {
            Document::Index(all) => at = manifest::choose(&all)?.clone(),
            Document::Manifest(manifest) => return of_manifest(input, &manifest, digests),
        }
    }
    Err(format!("it has more than {INDEXES_DEEP_MAX} indexes below one another"))
}

fn of_manifest(input: &Input, manifest: &Manifest, digests: Vec<Digest>) -> Result<Found, String> {
    let config = blob(input, &manifest.config)?;
    let layers = manifest.layers.iter().map(part).collect();
    Ok(Found { names: Vec::new(), digests, config, layers })
}

/// A layer of a layout.
pub(super) fn part(descriptor: &Descriptor) -> Part {
    Part { path: path(&descriptor.digest), promised: Some((descriptor.digest.clone(), descriptor.size)) }
}

fn path(digest: &Digest) -> PathBuf {
    Path::new("blobs/sha256").join(digest.letters())
}

/// A document that must be what its digest says.
fn blob(input: &Input, descriptor: &Descriptor) -> Result<Vec<u8>, String> {
    let path = path(&descriptor.digest);
    let text = input.document(&path)?.ok_or_else(|| absent(&path))?;
    let own = Digest::of(&text);
    if own == descriptor.digest { Ok(text) } else { Err(mismatch("a document", &descriptor.digest, &own)) }
}

pub(super) fn absent(path: &Path) -> String {
    format!("`{}` is not in it: it was cut off, or only a part was copied", path.display())
}
