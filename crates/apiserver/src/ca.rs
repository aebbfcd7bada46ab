//! The server's keys: an authority of its own that signs the server's and the admin's certificate once and is then forgotten, and a token.
//!
//! The authority's key is never written down, so nothing else can ever be signed by it. Workload identities have nothing to do with it.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};
use rustls::crypto::ring;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::Error;
use crate::files::write_private;

/// Random bytes of the token: as many as a key that cannot be guessed has.
const TOKEN_BYTES: usize = 32;
/// The names that the server's certificate is good for.
const SERVER_NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// The folder of the credentials in the data directory.
pub(crate) const FOLDER: &str = "pki";
pub(crate) const CA: &str = "ca.crt";
const SERVER: &str = "server.crt";
const SERVER_KEY: &str = "server.key";
const ADMIN: &str = "admin.crt";
const ADMIN_KEY: &str = "admin.key";
pub(crate) const TOKEN: &str = "token";

/// What the server shows, and what it accepts.
pub(crate) struct Credentials {
    /// The authority's certificate, for clients.
    pub(crate) ca: String,
    /// The admin's bearer token.
    pub(crate) token: String,
    /// The admin's certificate; no other is accepted, whoever signed it.
    pub(crate) admin: CertificateDer<'static>,
    /// TLS as the server speaks it.
    pub(crate) tls: Arc<ServerConfig>,
}

impl Credentials {
    /// Reads the credentials, or makes them if there is no such folder.
    pub(crate) fn open(folder: &Path) -> Result<Self, Error> {
        if !folder.exists() {
            make(folder)?;
        }
        let read = |name: &str| {
            let path = folder.join(name);
            fs::read_to_string(&path).map_err(|source| Error::KeepCredentials { path, source })
        };
        let unusable = |source: rustls::Error| Error::UseCredentials { path: folder.to_owned(), source };
        let bad_pem = |_| unusable(rustls::Error::General("not PEM".to_owned()));
        let ca = read(CA)?;
        let authority = CertificateDer::from_pem_slice(ca.as_bytes()).map_err(bad_pem)?;
        let server = CertificateDer::from_pem_slice(read(SERVER)?.as_bytes()).map_err(bad_pem)?;
        let key = PrivateKeyDer::from_pem_slice(read(SERVER_KEY)?.as_bytes()).map_err(bad_pem)?;
        let admin = CertificateDer::from_pem_slice(read(ADMIN)?.as_bytes()).map_err(bad_pem)?;
        let token = read(TOKEN)?.trim().to_owned();
        if token.len() < TOKEN_BYTES {
            return Err(unusable(rustls::Error::General("the token is too short".to_owned())));
        }
        let tls = tls(authority, vec![server], key).map_err(unusable)?;
        Ok(Self { ca, token, admin, tls: Arc::new(tls) })
    }
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").finish_non_exhaustive()
    }
}

fn tls(
    authority: CertificateDer<'static>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<ServerConfig, rustls::Error> {
    let provider = Arc::new(ring::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(authority)?;
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
        .allow_unauthenticated()
        .build()
        .map_err(|error| rustls::Error::General(error.to_string()))?;
    let mut tls = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(clients)
        .with_single_cert(chain, key)?;
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(tls)
}

/// Makes everything in a folder beside and moves it into place, so that the folder is whole or absent.
fn make(folder: &Path) -> Result<(), Error> {
    let half = folder.with_extension("new");
    let keep = |path: &Path, source: io::Error| Error::KeepCredentials { path: path.to_owned(), source };
    match fs::remove_dir_all(&half) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => return Err(keep(&half, source)),
        _ => {}
    }
    fs::DirBuilder::new().mode(0o700).create(&half).map_err(|source| keep(&half, source))?;
    for (name, text) in files()? {
        let path = half.join(name);
        write_private(&path, text.as_bytes()).map_err(|source| keep(&path, source))?;
    }
    fs::rename(&half, folder).map_err(|source| keep(folder, source))
}

fn files() -> Result<Vec<(&'static str, String)>, Error> {
    let failed = |source| Error::MakeCertificates { source };
    let authority = CertifiedIssuer::self_signed(authority(), KeyPair::generate().map_err(failed)?).map_err(failed)?;
    let server_key = KeyPair::generate().map_err(failed)?;
    let server = server().map_err(failed)?.signed_by(&server_key, &authority).map_err(failed)?;
    let admin_key = KeyPair::generate().map_err(failed)?;
    let admin = admin().signed_by(&admin_key, &authority).map_err(failed)?;
    let mut token = [0_u8; TOKEN_BYTES];
    getrandom::fill(&mut token).map_err(|source| Error::Random { source })?;
    Ok(vec![
        (CA, authority.pem()),
        (SERVER, server.pem()),
        (SERVER_KEY, server_key.serialize_pem()),
        (ADMIN, admin.pem()),
        (ADMIN_KEY, admin_key.serialize_pem()),
        (TOKEN, URL_SAFE_NO_PAD.encode(token)),
    ])
}

fn authority() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "tidegate API server authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params
}

fn server() -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(SERVER_NAMES.map(str::to_owned))?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "tidegate API server");
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    Ok(params)
}

fn admin() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "system:masters");
    params.distinguished_name.push(DnType::CommonName, crate::authn::ADMIN);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params
}
