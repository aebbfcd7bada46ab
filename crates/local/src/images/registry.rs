//! Pulls images from registries (OCI distribution 1.1): documents by name or digest, layers by digest, each of which must
//! be what its digest says before it is unpacked.
//!
//! HTTPS, and plain HTTP with registries on this machine alone. Not the crate oci-client: see ARCHITECTURE.md.

mod access;
mod transport;

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;

use http::Uri;
use http::header::{ACCEPT, HeaderValue};
use tokio::io::AsyncWriteExt;

pub use access::Credentials;
pub use transport::TRUSTED_VARIABLE;

use super::digest::Digest;
use super::input::Section;
use super::layer::mismatch;
use super::layout::{Found, Part, part};
use super::manifest::{self, DOCUMENT_BYTES_MAX, Descriptor, Document};
use super::reference::Reference;
use super::store::{Store, Stored};
use access::Access;
use transport::{Answer, Transport};

/// The documents that are read, as registries are asked for them.
const KINDS: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
                     application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json";

/// Most bytes of packed layers: what an image may unpack to, which packing does not make more.
const PACKED_BYTES_MAX: u64 = 16 << 30;

/// Tries for one request: the second has what the registry asked for, the third a token in the place of one that is over.
const TRIES: usize = 3;

/// Where Docker's names lead.
const HUB: (&str, &str) = ("docker.io", "registry-1.docker.io");

/// One registry and one repository in it.
struct Registry<'a> {
    reference: &'a Reference,
    transport: Transport,
    access: Access,
}

/// The image that a reference names in its registry, here: whatever of it was here already is not fetched again.
pub async fn pull(store: &Store, reference: &Reference, credentials: &[Credentials]) -> Result<Stored, String> {
    let transport = Transport::new(reference.is_loopback())?;
    let mut registry = Registry { reference, transport, access: Access::new(credentials, reference) };
    let (text, own) = registry.document(&reference.version()).await?;
    if let Some(wanted) = reference.digest().filter(|wanted| **wanted != own) {
        return Err(mismatch("the image", wanted, &own));
    }
    if let Some(here) = known(store, reference, &own).await? {
        return Ok(here);
    }
    let mut digests = vec![own];
    let manifest = match manifest::document(&text)? {
        Document::Manifest(manifest) => manifest,
        Document::Index(all) => {
            let chosen = manifest::choose(&all)?;
            let (text, own) = registry.document(&chosen.digest.to_string()).await?;
            if own != chosen.digest {
                return Err(mismatch("the manifest", &chosen.digest, &own));
            }
            digests.push(own);
            match manifest::document(&text)? {
                Document::Manifest(manifest) => manifest,
                Document::Index(_) => return Err("its index leads to another index".to_owned()),
            }
        }
    };
    let config = registry.config(&manifest.config).await?;
    let ids = manifest::config(&config, manifest.layers.len())?.rootfs.diff_ids;
    let mut fetched = HashMap::new();
    let mut left = PACKED_BYTES_MAX;
    for (layer, diff_id) in manifest.layers.iter().zip(&ids) {
        if !store.layer(diff_id).exists() && !fetched.contains_key(&part(layer).path) {
            left = left
                .checked_sub(layer.size)
                .ok_or_else(|| format!("its layers have more than {} GiB", PACKED_BYTES_MAX >> 30))?;
            fetched.insert(part(layer).path, registry.layer(store, layer).await?);
        }
    }
    let layers = manifest.layers.iter().map(part).collect();
    add(store, Found { names: vec![reference.clone()], digests, config, layers }, fetched).await
}

/// The image of this name, if it is the one that the registry has.
async fn known(store: &Store, reference: &Reference, digest: &Digest) -> Result<Option<Stored>, String> {
    let (store, reference, digest) = (store.clone(), reference.clone(), digest.clone());
    let found = tokio::task::spawn_blocking(move || store.find(&reference)).await.map_err(|error| error.to_string())?;
    let found = found.map_err(|error| linux::error::with_causes(&error))?;
    Ok(found.filter(|stored| stored.digests.contains(&digest)))
}

async fn add(store: &Store, found: Found, fetched: HashMap<PathBuf, File>) -> Result<Stored, String> {
    let store = store.clone();
    let add = move || {
        let writer = store.write()?;
        let open = |part: &Part| -> Result<Box<dyn Read + '_>, String> {
            // Between the look and now somebody may have removed it.
            let file = fetched.get(&part.path).ok_or("a layer was removed meanwhile; it is pulled again")?;
            Ok(Box::new(Section::whole(file)))
        };
        let added = writer.add(&found, &mut writer.budget()?, open);
        writer.sweep()?;
        added
    };
    let added = tokio::task::spawn_blocking(add).await.map_err(|error| error.to_string())?;
    let added = added.map_err(|error| linux::error::with_causes(&error))?;
    added.images.into_iter().next().ok_or_else(|| "it has no name".to_owned())
}

impl Registry<'_> {
    /// The whole address of something in the repository.
    fn uri(&self, what: &str) -> Result<Uri, String> {
        let registry = self.reference.registry();
        let host = if registry == HUB.0 { HUB.1 } else { registry };
        let scheme = if self.reference.is_loopback() { "http" } else { "https" };
        let text = format!("{scheme}://{host}/v2/{}/{what}", self.reference.repository());
        text.parse().map_err(|error| format!("`{text}`: {error}"))
    }

    /// A document by tag or digest, and its digest.
    async fn document(&mut self, version: &str) -> Result<(Vec<u8>, Digest), String> {
        let text = self.ask(&format!("manifests/{version}")).await?.whole(DOCUMENT_BYTES_MAX).await?;
        let own = Digest::of(&text);
        Ok((text, own))
    }

    async fn config(&mut self, descriptor: &Descriptor) -> Result<Vec<u8>, String> {
        let text = self.ask(&format!("blobs/{}", descriptor.digest)).await?.whole(DOCUMENT_BYTES_MAX).await?;
        let own = Digest::of(&text);
        if own == descriptor.digest { Ok(text) } else { Err(mismatch("the configuration", &descriptor.digest, &own)) }
    }

    /// A packed layer in a file without a name. Whether it is what was promised shows when it is unpacked.
    async fn layer(&mut self, store: &Store, descriptor: &Descriptor) -> Result<File, String> {
        let mut answer = self.ask(&format!("blobs/{}", descriptor.digest)).await?;
        let file = store.nameless().map_err(|error| linux::error::with_causes(&error))?;
        let mut file = tokio::fs::File::from_std(file);
        let mut length = 0_u64;
        while let Some(piece) = answer.piece().await? {
            length = length.saturating_add(u64::try_from(piece.len()).unwrap_or(u64::MAX));
            if length > descriptor.size {
                return Err("a layer is longer than its manifest says".to_owned());
            }
            file.write_all(&piece).await.map_err(|error| format!("a layer cannot be kept: {error}"))?;
        }
        file.flush().await.map_err(|error| format!("a layer cannot be kept: {error}"))?;
        Ok(file.into_std().await)
    }

    /// Asks until the registry answers what was asked, or says no.
    async fn ask(&mut self, what: &str) -> Result<Answer, String> {
        let uri = self.uri(what)?;
        for _ in 0..TRIES {
            let mut headers = vec![(ACCEPT, HeaderValue::from_static(KINDS))];
            headers.extend(self.access.header());
            let answer = self.transport.get(&uri, headers).await?;
            match answer.status().as_u16() {
                200 => return Ok(answer),
                401 if self.access.answer_to(&answer, &self.transport).await? => {}
                _ => return Err(self.refusal(what, answer).await),
            }
        }
        Err(format!("registry {} asks for credentials again and again", self.reference.registry()))
    }

    /// What the registry says instead.
    async fn refusal(&self, what: &str, answer: Answer) -> String {
        let (registry, status) = (self.reference.registry(), answer.status());
        let advice = match status.as_u16() {
            401 | 403 => "; give the pod an imagePullSecrets of type kubernetes.io/dockerconfigjson that may read it",
            404 => "; there is no such image or tag",
            429 => "; it is asked too often",
            _ => "",
        };
        let said = answer.complaint().await;
        let shown = if said.is_empty() { String::new() } else { format!(" ({said})") };
        format!("registry {registry} answers `{what}` with {status}{shown}{advice}")
    }
}

/// How images are pulled, for whoever waits for one: one at a time, as a kubelet does.
#[derive(Debug, Default, Clone)]
pub struct Turn(Arc<tokio::sync::Mutex<()>>);

impl Turn {
    /// Waits for the turn, which lasts until what is returned is dropped.
    pub async fn take(&self) -> tokio::sync::OwnedMutexGuard<()> {
        Arc::clone(&self.0).lock_owned().await
    }
}

#[cfg(test)]
mod tests;
