//! Who is at the other end: SPIFFE ids, raw names of certificates, and what of them a policy may look at.
//! Matching against patterns is in `matcher.rs`; how an identity was proved is not decided here.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The scheme of every SPIFFE id.
pub const SCHEME: &str = "spiffe://";

/// An identity in the exact form `spiffe://TRUST_DOMAIN/ns/NAMESPACE/sa/SERVICE_ACCOUNT`.
#[derive(Clone)]
pub struct SpiffeId {
    // INVARIANT: `uri` has five non-empty segments after the scheme, the second `ns` and the fourth `sa`.
    uri: Arc<str>,
    namespace: (u32, u32),
    account: u32,
    mark: u64,
}

impl SpiffeId {
    /// The identity of a service account; `None` if a part is empty or holds a `/`.
    pub fn new(trust_domain: &str, namespace: &str, service_account: &str) -> Option<Self> {
        Self::parse(&format!("{SCHEME}{trust_domain}/ns/{namespace}/sa/{service_account}"))
    }

    /// Reads the exact form (S-51, ambient); anything else is `None`.
    pub fn parse(uri: &str) -> Option<Self> {
        let mut parts = uri.strip_prefix(SCHEME)?.split('/');
        let (trust_domain, ns, namespace, sa, account) =
            (parts.next()?, parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let whole = ns == "ns" && sa == "sa" && parts.next().is_none();
        if !whole || trust_domain.is_empty() || namespace.is_empty() || account.is_empty() {
            return None;
        }
        let start = u32::try_from(SCHEME.len() + trust_domain.len() + "/ns/".len()).ok()?;
        let end = start.checked_add(u32::try_from(namespace.len()).ok()?)?;
        let account = end.checked_add(4)?;
        let mark = mark(uri.strip_prefix(SCHEME)?);
        Some(Self { uri: Arc::from(uri), namespace: (start, end), account, mark })
    }

    /// The whole URI.
    pub fn uri(&self) -> &str {
        &self.uri
    }

    /// The form used in policy: the URI without its scheme.
    pub fn principal(&self) -> &str {
        self.uri.get(SCHEME.len()..).unwrap_or_default()
    }

    /// The mark of the principal.
    #[inline]
    pub(crate) fn mark(&self) -> u64 {
        self.mark
    }

    /// The trust domain.
    pub fn trust_domain(&self) -> &str {
        self.principal().split('/').next().unwrap_or_default()
    }

    /// The namespace.
    pub fn namespace(&self) -> &str {
        self.uri.get(self.namespace.0 as usize..self.namespace.1 as usize).unwrap_or_default()
    }

    /// The service account.
    pub fn service_account(&self) -> &str {
        self.uri.get(self.account as usize..).unwrap_or_default()
    }
}

/// One bit out of 64, equal for equal principals: what does not share a bit is not equal.
pub(crate) fn mark(principal: &str) -> u64 {
    // FNV-1a; the high bits are the well mixed ones.
    let hash = principal
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    1 << (hash >> 58)
}

impl PartialEq for SpiffeId {
    fn eq(&self, other: &Self) -> bool {
        self.uri == other.uri
    }
}
impl Eq for SpiffeId {}
impl std::hash::Hash for SpiffeId {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.uri.hash(state);
    }
}
impl PartialOrd for SpiffeId {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for SpiffeId {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.uri.cmp(&other.uri)
    }
}
impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.uri)
    }
}
impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.uri)
    }
}
impl Serialize for SpiffeId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.uri)
    }
}
impl<'de> Deserialize<'de> for SpiffeId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let uri = String::deserialize(deserializer)?;
        Self::parse(&uri).ok_or_else(|| {
            serde::de::Error::custom("not of the form spiffe://TRUST_DOMAIN/ns/NAMESPACE/sa/SERVICE_ACCOUNT")
        })
    }
}

/// One name of a verified certificate, as it stands there; usable as an identity in both profiles only if it has the exact form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerName {
    raw: Arc<str>,
    id: Option<SpiffeId>,
}

impl PeerName {
    /// Keeps the name as it is and notes whether it has the exact form.
    pub fn new(raw: &str) -> Self {
        Self { raw: Arc::from(raw), id: SpiffeId::parse(raw) }
    }

    /// The name as it stands in the certificate.
    pub fn raw(&self) -> &str {
        &self.raw
    }

    /// The identity, if the name has the exact form.
    pub fn id(&self) -> Option<&SpiffeId> {
        self.id.as_ref()
    }
}

/// Who opened the connection, and how that is known.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum Peer {
    /// Nobody said so: plaintext, or TLS without a client certificate.
    #[default]
    Anonymous,
    /// The kernel's word: the source address belongs to exactly this workload of the mesh.
    Attested(SpiffeId),
    /// The names (URI and DNS SANs) of a certificate verified on this connection; never empty in practice, empty means anonymous.
    Verified(Vec<PeerName>),
}

impl Peer {
    /// A verified certificate with this one name.
    pub fn verified(name: &str) -> Self {
        Self::Verified(vec![PeerName::new(name)])
    }

    /// The first identity of the exact form.
    pub fn id(&self) -> Option<&SpiffeId> {
        match self {
            Self::Anonymous => None,
            Self::Attested(id) => Some(id),
            Self::Verified(names) => names.iter().find_map(PeerName::id),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Peer, SpiffeId};

    #[test]
    fn exact_form_only() {
        let id = SpiffeId::new("cluster.local", "foo", "sleep").unwrap();
        assert_eq!(id.uri(), "spiffe://cluster.local/ns/foo/sa/sleep");
        assert_eq!((id.trust_domain(), id.namespace(), id.service_account()), ("cluster.local", "foo", "sleep"));
        assert_eq!(id.principal(), "cluster.local/ns/foo/sa/sleep");
        for bad in [
            "",
            "spiffe://",
            "spiffe://td/ns/foo/sa",
            "spiffe://td/ns/foo/sa/",
            "spiffe://td/ns//sa/x",
            "spiffe:///ns/foo/sa/x",
            "spiffe://td/ns/foo/sa/x/y",
            "spiffe://td/sa/x/ns/foo",
            "https://td/ns/foo/sa/x",
            "td/ns/foo/sa/x",
            "SPIFFE://td/ns/foo/sa/x",
        ] {
            assert!(SpiffeId::parse(bad).is_none(), "{bad}");
        }
        assert!(SpiffeId::new("a/b", "foo", "x").is_none());
    }

    #[test]
    fn first_usable_name_is_the_identity() {
        let peer = Peer::Verified(vec![
            super::PeerName::new("spiffe://td/odd"),
            super::PeerName::new("spiffe://td/ns/a/sa/b"),
            super::PeerName::new("spiffe://td/ns/c/sa/d"),
        ]);
        assert_eq!(peer.id().unwrap().namespace(), "a");
        assert_eq!(Peer::verified("spiffe://td/odd").id(), None);
    }
}
