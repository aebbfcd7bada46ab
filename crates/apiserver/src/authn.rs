//! Who is asking: the admin, by certificate or token, or nobody.

use http::HeaderMap;
use http::header::AUTHORIZATION;
use sha2::{Digest as _, Sha256};

use crate::ca::Credentials;

/// The name of the only user.
pub(crate) const ADMIN: &str = "tidegate-admin";

/// Who is asking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum User {
    /// Someone with the admin's certificate or token.
    Admin,
    /// Someone without any credentials.
    Anonymous,
}

/// Works out who is asking; none if the credentials are wrong.
pub(crate) fn user(credentials: &Credentials, certificate: Option<&[u8]>, headers: &HeaderMap) -> Option<User> {
    if let Some(certificate) = certificate {
        // INVARIANT: TLS has checked that the client holds the key of this certificate.
        return (certificate == credentials.admin.as_ref()).then_some(User::Admin);
    }
    let Some(authorization) = headers.get(AUTHORIZATION) else {
        return Some(User::Anonymous);
    };
    let (scheme, token) = authorization.to_str().ok()?.split_once(' ')?;
    // Hashes are compared, so that the time taken tells nothing about the token.
    let matches = Sha256::digest(token.trim()) == Sha256::digest(&credentials.token);
    (scheme.eq_ignore_ascii_case("bearer") && matches).then_some(User::Admin)
}

#[cfg(test)]
mod tests {
    use super::{User, user};
    use crate::ca::Credentials;
    use http::HeaderMap;

    #[test]
    fn only_the_certificate_and_the_token_count() {
        let folder = tempfile::tempdir().unwrap();
        let credentials = Credentials::open(&folder.path().join("pki")).unwrap();
        let with = |text: &str| HeaderMap::from_iter([(http::header::AUTHORIZATION, text.parse().unwrap())]);
        let good = format!("Bearer {}", credentials.token);
        let admin = credentials.admin.to_vec();
        let cases = [
            (None, HeaderMap::new(), Some(User::Anonymous)),
            (None, with(&good), Some(User::Admin)),
            (None, with(&good.replacen("Bearer", "bearer", 1)), Some(User::Admin)),
            (None, with(&format!("{good}x")), None),
            (None, with("Bearer "), None),
            (None, with("Bearer"), None),
            (None, with(&good.replacen("Bearer", "Basic", 1)), None),
            (Some(admin.as_slice()), HeaderMap::new(), Some(User::Admin)),
            (Some(b"other".as_slice()), with(&good), None),
        ];
        for (certificate, headers, expected) in cases {
            assert_eq!(user(&credentials, certificate, &headers), expected, "{headers:?}");
        }
        let again = Credentials::open(&folder.path().join("pki")).unwrap();
        assert_eq!((again.token, again.ca), (credentials.token, credentials.ca), "kept");
    }
}
