//! Kubeconfig files, also for those who have only the data directory and not the server.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::{Error, ca};

/// What a client needs besides the address.
#[derive(Clone)]
pub struct Access {
    /// The certificate that the server's certificate is checked against.
    pub ca_pem: String,
    /// The admin's bearer token; a secret.
    pub token: String,
}

impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Access").finish_non_exhaustive()
    }
}

/// Reads what a server has left in its data directory, whether it runs or not.
pub fn access(data_dir: &Path) -> Result<Access, Error> {
    let read = |name: &str| {
        let path = data_dir.join(ca::FOLDER).join(name);
        fs::read_to_string(&path).map_err(|source| Error::KeepCredentials { path, source })
    };
    Ok(Access { ca_pem: read(ca::CA)?, token: read(ca::TOKEN)?.trim().to_owned() })
}

/// A kubeconfig for the admin; the context's namespace is `namespace` if there is one.
pub fn text(access: &Access, server: SocketAddr, namespace: Option<&str>) -> String {
    let (ca, token) = (STANDARD.encode(&access.ca_pem), &access.token);
    // As JSON text, which YAML reads the same, so that no namespace can say more than its name.
    let namespace =
        namespace.map(|name| format!("    namespace: {}\n", serde_json::Value::from(name))).unwrap_or_default();
    format!(
        "apiVersion: v1\nkind: Config\nclusters:\n- name: tidegate\n  cluster:\n    certificate-authority-data: {ca}\n    \
         server: https://{server}\nusers:\n- name: tidegate\n  user:\n    token: {token}\ncontexts:\n- name: tidegate\n  context:\n    \
         cluster: tidegate\n    user: tidegate\n{namespace}current-context: tidegate\n"
    )
}
