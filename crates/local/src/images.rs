//! Images: which there are, how they come here, and what runs for a name.
//!
//! A name is looked up in the catalogue first (`catalogue`: names for which the host's own programs stand in), then among
//! the images that were imported or pulled (`store`). Nothing is ever put in an image's place without saying so.

mod catalogue;
mod digest;
mod input;
mod layer;
mod layout;
mod manifest;
mod reference;
mod registry;
mod store;
mod tar;

use std::path::{Path, PathBuf};

pub use digest::Digest;
pub use reference::Reference;
pub use registry::{Credentials, TRUSTED_VARIABLE, Turn, pull};
pub use store::{Added, Defaults, Store, Stored, Writer};

pub(crate) use manifest::architecture;
pub(crate) use store::hold;

use crate::Error;
use crate::runtime::spec::Root;

/// PATH in an image that says none, as container runtimes have it.
const PATH_DEFAULT: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What runs for an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// What a pod's status names as its image's id.
    pub id: String,
    /// What runs if the pod names no command.
    pub entrypoint: Vec<String>,
    /// What the entrypoint gets if the pod names no arguments.
    pub arguments: Vec<String>,
    /// The environment of every program in it.
    pub environment: Vec<(String, String)>,
    /// Where the program starts.
    pub directory: String,
    /// `USER[:GROUP]`, by names or numbers; empty for root.
    pub user: String,
    /// What asks the program to end, if not `SIGTERM`.
    pub stop_signal: Option<String>,
    /// Its entrypoint says when it serves.
    pub tells_ready: bool,
    /// What is to be known of it, a sentence for the pod's events.
    pub told: String,
    /// Its files.
    pub root: Root,
}

/// The image of the catalogue that a reference names, if it knows one; `written` is the name as the pod has it.
pub fn in_catalogue(reference: &Reference, written: &str) -> Option<Image> {
    catalogue::find(reference, written)
}

/// What to do about an image that is not here and that no registry is named for.
pub(crate) fn absent(written: &str) -> String {
    format!(
        "image \"{written}\" is not here, and its name has no registry to pull it from: import it (tidegate image import FILE --name {written}), \
         write the registry into the name, or use one of the catalogue: {}",
        catalogue::names()
    )
}

impl Image {
    /// What runs for an image that is here.
    pub fn of(stored: &Stored, store: &Store) -> Self {
        let mut environment: Vec<(String, String)> = Vec::new();
        for variable in &stored.defaults.environment {
            let (name, value) = variable.split_once('=').unwrap_or((variable, ""));
            if !name.is_empty() {
                environment.push((name.to_owned(), value.to_owned()));
            }
        }
        if !environment.iter().any(|(name, _)| name == "PATH") {
            environment.push(("PATH".to_owned(), PATH_DEFAULT.to_owned()));
        }
        let by_digest = |digest: &Digest| {
            let name =
                Reference::parse(&stored.name).map_or_else(|_| stored.name.clone(), |name| name.without_version());
            format!("{name}@{digest}")
        };
        let mut layers: Vec<PathBuf> = Vec::new();
        for (at, layer) in stored.layers.iter().enumerate() {
            // Of a layer that comes twice the upper one has all that the lower one has.
            if !stored.layers.iter().skip(at + 1).any(|above| above == layer) {
                layers.push(store.layer(layer));
            }
        }
        Self {
            id: stored.digests.first().map_or_else(|| stored.id.to_string(), by_digest),
            entrypoint: stored.defaults.entrypoint.clone(),
            arguments: stored.defaults.command.clone(),
            environment,
            directory: Some(stored.defaults.directory.clone())
                .filter(|path| !path.is_empty())
                .unwrap_or_else(|| "/".to_owned()),
            user: stored.defaults.user.clone(),
            stop_signal: stored.defaults.stop_signal.clone(),
            tells_ready: false,
            told: String::new(),
            root: Root::Layers(layers),
        }
    }
}

/// Imports what is at `path` (`-`: what comes on standard input): an OCI layout or an archive of images, each under the
/// names that it bears or, if it is one, under `name`.
pub fn import(store: &Store, path: &Path, name: Option<&Reference>) -> Result<Vec<Added>, Error> {
    let writer = store.write()?;
    let added = import_with(&writer, path, name);
    // Also what an image left that was not taken in the end.
    writer.sweep()?;
    added
}

fn import_with(writer: &Writer, path: &Path, name: Option<&Reference>) -> Result<Vec<Added>, Error> {
    let refused = |why: String| Error::Image { what: path.display().to_string(), why };
    let mut budget = writer.budget()?;
    let input = input::Input::open(path, &writer.staging(), &mut budget).map_err(refused)?;
    let mut found = layout::images(&input).map_err(refused)?;
    if let Some(name) = name {
        let count = found.len();
        match found.as_mut_slice() {
            [single] => single.names = vec![name.clone()],
            _ => {
                return Err(refused(format!(
                    "it has {count} images, so that --name would be that of all; leave it out"
                )));
            }
        }
    }
    if found.iter().any(|image| image.names.is_empty()) {
        return Err(refused("it does not say how its image is called; give it a name: --name NAME:TAG".to_owned()));
    }
    let mut added = Vec::new();
    for image in &found {
        let open = |part: &layout::Part| {
            let found = input.part(&part.path)?;
            found.map(|(content, _)| content).ok_or_else(|| layout::absent(&part.path))
        };
        // Each image has a budget of its own.
        added.push(writer.add(image, &mut writer.budget()?, open)?);
    }
    if added.is_empty() {
        return Err(refused("there is no image in it".to_owned()));
    }
    Ok(added)
}

#[cfg(test)]
mod tests;
