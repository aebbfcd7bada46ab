//! Which API server, as plain data.

/// An API server, and how to speak to it.
#[derive(Clone)]
pub(crate) struct Server {
    /// Its name or address.
    pub(crate) host: String,
    /// Its port.
    pub(crate) port: u16,
    /// What stands before every path, without a slash at its end.
    pub(crate) prefix: String,
    /// Whom its certificate must be from.
    pub(crate) ca_pem: String,
    /// A bearer token.
    pub(crate) token: Option<String>,
    /// A certificate of ours and its key.
    pub(crate) client: Option<(String, String)>,
}
