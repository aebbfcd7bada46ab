//! What content is known by.

use std::fmt;
use std::io::{self, Read};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// Letters of a SHA-256 in hexadecimal.
const LETTERS: usize = 64;

/// A SHA-256. The one algorithm that images use; another one is refused where it is read.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(String);

impl Digest {
    /// Reads `sha256:` and 64 hexadecimal digits in lower case.
    pub fn parse(text: &str) -> Option<Self> {
        let letters = text.strip_prefix("sha256:")?;
        let plain = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        (letters.len() == LETTERS && letters.bytes().all(plain)).then(|| Self(letters.to_owned()))
    }

    /// That of a text.
    pub fn of(text: &[u8]) -> Self {
        Self::from(Sha256::digest(text).as_slice())
    }

    fn from(bytes: &[u8]) -> Self {
        let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
        Self(digits.filter_map(|digit| char::from_digit(digit.into(), 16)).collect())
    }

    /// Its hexadecimal digits, which suit a file's name.
    pub fn letters(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "sha256:{}", self.0)
    }
}

impl TryFrom<String> for Digest {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Self::parse(&text)
            .ok_or_else(|| format!("`{text}` is no SHA-256 digest (`sha256:` and {LETTERS} hexadecimal digits)"))
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

/// Counts and hashes what is read through it; beyond a bound it is an error.
#[derive(Debug)]
pub(super) struct Measured<R> {
    input: R,
    hash: Sha256,
    length: u64,
    length_max: u64,
    beyond: &'static str,
}

impl<R: Read> Measured<R> {
    /// At most `length_max` bytes; `beyond` says what it means that there are more.
    pub(super) fn new(input: R, length_max: u64, beyond: &'static str) -> Self {
        Self { input, hash: Sha256::new(), length: 0, length_max, beyond }
    }

    /// How many bytes came, and their digest.
    pub(super) fn total(&self) -> (u64, Digest) {
        (self.length, Digest::from(self.hash.clone().finalize().as_slice()))
    }

    /// Reads what is left, into nothing.
    pub(super) fn drain(&mut self) -> io::Result<()> {
        io::copy(self, &mut io::sink()).map(drop)
    }
}

impl<R: Read> Read for Measured<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.input.read(into)?;
        self.hash.update(into.get(..count).unwrap_or_default());
        self.length = self.length.saturating_add(u64::try_from(count).unwrap_or(u64::MAX));
        if self.length > self.length_max { Err(io::Error::other(self.beyond)) } else { Ok(count) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_that_of_the_standard() {
        let empty = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(Digest::of(b"").to_string(), empty);
        assert_eq!(Digest::parse(empty).unwrap(), Digest::of(b""));
        for text in ["", "sha256:", "sha512:00", &empty.to_uppercase(), &format!("{empty}0"), "sha256:../../etc"] {
            assert_eq!(Digest::parse(text), None, "{text}");
        }
    }

    #[test]
    fn what_is_read_is_measured_and_bounded() {
        let mut read = Measured::new(b"abc".as_slice(), 3, "too long");
        read.drain().unwrap();
        assert_eq!(read.total(), (3, Digest::of(b"abc")));
        let error = Measured::new(b"abcd".as_slice(), 3, "too long").drain().unwrap_err();
        assert_eq!(error.to_string(), "too long");
    }
}
