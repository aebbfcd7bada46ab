//! Protobuf's wire format.

/// Reads the fields of one message.
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

/// The value of one field as it stands on the wire.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Token<'a> {
    Varint(u64),
    Bytes(&'a [u8]),
    /// Fixed-width numbers: no field that is known here has one.
    Fixed,
}

const TRUNCATED: &str = "it ends in the middle of a field";

impl<'a> Reader<'a> {
    pub(super) const fn new(message: &'a [u8]) -> Self {
        Self { rest: message }
    }

    /// The next field's number and value, none at the end.
    pub(super) fn next(&mut self) -> Result<Option<(u32, Token<'a>)>, &'static str> {
        let Some(key) = self.varint()? else { return Ok(None) };
        let number =
            u32::try_from(key >> 3).ok().filter(|&number| number > 0).ok_or("a field number is out of range")?;
        let token = match key & 7 {
            0 => Token::Varint(self.varint()?.ok_or(TRUNCATED)?),
            1 => self.take(8).map(|_| Token::Fixed)?,
            2 => {
                let length = self.varint()?.ok_or(TRUNCATED)?;
                Token::Bytes(self.take(usize::try_from(length).map_err(|_| TRUNCATED)?)?)
            }
            5 => self.take(4).map(|_| Token::Fixed)?,
            _ => return Err("a wire type is not known"),
        };
        Ok(Some((number, token)))
    }

    /// The next number, none at the end.
    pub(super) fn varint(&mut self) -> Result<Option<u64>, &'static str> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let mut number = 0_u64;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.rest.split_first().ok_or(TRUNCATED)?;
            self.rest = rest;
            number |= u64::from(byte & 0x7F) << shift;
            if byte & 0x80 == 0 {
                return Ok(Some(number));
            }
        }
        Err("a number takes more than 10 bytes")
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], &'static str> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(TRUNCATED)?;
        self.rest = rest;
        Ok(taken)
    }
}
