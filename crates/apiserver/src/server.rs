//! The server: its parts put together, and how the rest of the program reaches it.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use api::patch::{self, PatchType};
use api::{Key, Kinds, Object, Status, Write};
use bytes::Bytes;
use http::{Request, Response};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::authn::User;
use crate::ca::{self, Credentials};
use crate::kindcache::KindCache;
use crate::openapi::Documents;
use crate::store::{Store, Work};
use crate::stream::Sessions;
use crate::write::{self, Claim, DeleteOptions, Manner, NAMESPACES, Target, UnknownFields};
use crate::{Body, Error, Feed, Hooks, kubeconfig, route, serve};

/// Namespaces that always exist.
const NAMESPACES_BUILTIN: [&str; 3] = ["default", "kube-node-lease", "kube-system"];

/// Where the server keeps what must last, and where it can be reached.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Folder of the store (`store.redb`) and of the credentials (`pki/`).
    pub data_dir: PathBuf,
    /// The address that clients are told; with port 0, that of the listener once the server listens.
    pub listen: SocketAddr,
}

/// An API server; clones are the same server. The store is closed when the last one is dropped.
#[derive(Clone)]
pub struct Server {
    inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) store: Store,
    pub(crate) hooks: Hooks,
    pub(crate) kinds: Arc<KindCache>,
    pub(crate) documents: Documents,
    pub(crate) credentials: Credentials,
    pub(crate) sessions: Sessions,
    listen: SocketAddr,
    address: OnceLock<SocketAddr>,
}

impl Server {
    /// Opens the data directory, making it if it is not there.
    pub fn open(settings: Settings, hooks: Hooks) -> Result<Self, Error> {
        let Settings { data_dir, listen } = settings;
        std::fs::create_dir_all(&data_dir).map_err(|source| Error::MakeDataDir { path: data_dir.clone(), source })?;
        // The store first: its lock keeps two servers from making two sets of credentials.
        let store = Store::open(&data_dir.join("store.redb"))?;
        let credentials = Credentials::open(&data_dir.join(ca::FOLDER))?;
        let inner = Inner {
            store,
            hooks,
            kinds: Arc::new(KindCache::start()),
            documents: Documents::default(),
            credentials,
            sessions: Sessions::start(),
            listen,
            address: OnceLock::new(),
        };
        inner.make_namespaces()?;
        Ok(Self { inner: Arc::new(inner) })
    }

    /// All objects there are as events, then every event, in order.
    pub fn subscribe(&self) -> Feed {
        self.inner.store.feed()
    }

    /// Writes from inside the process: admission and defaults apply, the reply is not held until the write is settled.
    pub async fn write(&self, write: Write) -> Result<Arc<Object>, Status> {
        let manner = self.inner.system();
        let work: Work = Box::new(move |stage| {
            let kinds = manner.kinds(stage);
            match write {
                Write::Create(object) => {
                    let target = target_of(&kinds, &object)?;
                    write::create(stage, &manner, &target, object)
                }
                Write::Replace(object) => {
                    let target = target_of(&kinds, &object)?;
                    write::update(stage, &manner, &target, object)
                }
                Write::PatchStatus { key, patch } => {
                    let target = Target { subresource: Some("status".to_owned()), ..target_at(&kinds, key)? };
                    write::patch(stage, &manner, &target, |old| patch::apply(PatchType::Merge, old, &patch))
                }
                Write::PatchMeta { key, patch } => {
                    let target = target_at(&kinds, key)?;
                    write::patch(stage, &manner, &target, |old| patch::apply(PatchType::Merge, old, &patch))
                }
                Write::End { key, uid } => {
                    let target = target_at(&kinds, key)?;
                    let options = DeleteOptions { grace_seconds: Some(0), uid: Some(uid), ..DeleteOptions::default() };
                    write::delete(stage, &manner, &target, &options)
                }
                Write::Delete { key, now } => {
                    let target = target_at(&kinds, key)?;
                    let options = DeleteOptions { grace_seconds: now.then_some(0), ..DeleteOptions::default() };
                    write::delete(stage, &manner, &target, &options)
                }
            }
        });
        self.inner.store.submit(work).await.map(|written| written.object)
    }

    /// Answers a request from inside the process, as the admin; writes are held until settled, as any other.
    pub async fn call(&self, request: Request<Bytes>) -> Response<Body> {
        route::answer(&self.inner, request, User::Admin).await
    }

    /// Serves on a listener until the token is cancelled, then lets open requests end for a moment.
    pub async fn serve(&self, listener: TcpListener, shutdown: CancellationToken) {
        if let Ok(address) = listener.local_addr() {
            // A second listener does not change the address that clients are told.
            self.inner.address.get_or_init(|| address);
        }
        serve::serve(&self.inner, listener, shutdown).await;
    }

    /// The certificate of the authority that signed the server's, as PEM.
    pub fn ca_pem(&self) -> String {
        self.inner.credentials.ca.clone()
    }

    /// A kubeconfig for the admin; the context's namespace is `namespace` if there is one.
    pub fn kubeconfig(&self, namespace: Option<&str>) -> String {
        let Credentials { ca, token, .. } = &self.inner.credentials;
        kubeconfig::text(
            &kubeconfig::Access { ca_pem: ca.clone(), token: token.clone() },
            self.inner.address(),
            namespace,
        )
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("listen", &self.inner.listen).finish_non_exhaustive()
    }
}

impl Inner {
    /// How a client writes.
    pub(crate) fn manner(&self, unknown_fields: UnknownFields, dry_run: bool, claim: Claim) -> Manner {
        let system = claim == Claim::Nobody;
        let (admit, kinds) = (Arc::clone(&self.hooks.admit), Arc::clone(&self.kinds));
        Manner { admit, kinds, dry_run, unknown_fields, system, claim }
    }

    /// How the process itself writes.
    fn system(&self) -> Manner {
        self.manner(UnknownFields::Drop, false, Claim::Nobody)
    }

    /// The address that clients are told.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address.get().copied().unwrap_or(self.listen)
    }

    fn make_namespaces(&self) -> Result<(), Error> {
        for name in NAMESPACES_BUILTIN {
            if self.store.state().objects.get(&Key::cluster("", NAMESPACES, name)).is_some() {
                continue;
            }
            let manner = self.system();
            let object = Object::named("v1", "Namespace", None, name);
            let made = self.store.submit_blocking(Box::new(move |stage| {
                let target = target_of(&manner.kinds(stage), &object)?;
                write::create(stage, &manner, &target, object)
            }));
            made.map_err(|status| Error::Bootstrap { name: name.to_owned(), status })?;
        }
        Ok(())
    }
}

fn target_of(kinds: &Kinds, object: &Object) -> Result<Target, Status> {
    let kind = kinds.of_object(object).ok_or_else(|| no_kind(object.api_version(), object.kind()))?;
    if kind.namespaced && object.namespace().is_none() {
        return Err(Status::bad_request(format!(
            "{} `{}` has no metadata.namespace; give it one",
            kind.kind,
            object.name()
        )));
    }
    Ok(Target {
        kind: Arc::clone(kind),
        version: object.version().to_owned(),
        key: kind.key(object.namespace(), object.name()),
        subresource: None,
    })
}

fn target_at(kinds: &Kinds, key: Key) -> Result<Target, Status> {
    let kind = kinds.by_resource(&key.group, &key.plural).ok_or_else(|| no_kind(&key.group, &key.plural))?;
    Ok(Target { kind: Arc::clone(kind), version: kind.storage().to_owned(), key, subresource: None })
}

fn no_kind(version: &str, kind: &str) -> Status {
    Status::failure(404, "NotFound", format!("no matches for kind \"{kind}\" in version \"{version}\""))
}
