//! SPDY/3.1 frames, as far as Kubernetes clients use them: reading and writing, header blocks with their fixed dictionary.
//! Not here: what the streams mean (`super::spdy_session`), and windows: the clients' library neither sends nor awaits `WINDOW_UPDATE`.

use std::io;

use bytes::{BufMut, Bytes, BytesMut};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status as Flate};
use tokio::io::{AsyncRead, AsyncReadExt};

/// A control frame longer than this is refused: header blocks of exec and port-forward have some 100 bytes.
const CONTROL_BYTES_MAX: usize = 16 * 1024;
/// A header block that inflates to more is refused, so that a few bytes cannot fill the memory.
pub(super) const HEADER_BYTES_MAX: usize = 64 * 1024;
/// Headers of one block; clients send three.
pub(super) const HEADERS_MAX: u32 = 64;
/// Data is handed on in pieces of at most this size, whatever length (up to 16 MiB) the frame claims.
pub(super) const DATA_PIECE_BYTES: usize = 16 * 1024;
/// The largest data frame that we send; the length field has 24 bits, smaller frames interleave better.
pub(crate) const DATA_FRAME_BYTES_MAX: usize = 32 * 1024;

const FLAG_FIN: u8 = 1;
const VERSION_3: u32 = 0x8003;
const SYN_STREAM: u32 = 1;
const SYN_REPLY: u32 = 2;
const RST_STREAM: u32 = 3;
const PING: u32 = 6;
const GOAWAY: u32 = 7;

/// Name and value pairs; names are lower case on the wire.
pub(crate) type Headers = Vec<(String, String)>;

/// What arrived.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Frame {
    /// The peer opens a stream.
    Open { stream: u32, headers: Headers, fin: bool },
    /// A piece of a stream; `fin` with the last.
    Data { stream: u32, bytes: Bytes, fin: bool },
    /// The peer gives a stream up.
    Reset { stream: u32 },
    /// To be sent back.
    Ping { id: u32 },
    /// The peer opens no more streams.
    GoAway,
    /// A frame that asks for nothing (settings, window update, reply).
    Ignored,
}

/// Reads frames; keeps the inflate state that all header blocks of a connection share.
pub(crate) struct FrameReader<R> {
    io: R,
    inflate: Decompress,
    rest: Option<DataRest>,
}

struct DataRest {
    stream: u32,
    fin: bool,
    bytes_left: usize,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    pub(crate) fn over(io: R) -> Self {
        Self { io, inflate: Decompress::new(true), rest: None }
    }

    /// The next frame, or `None` at a clean end between frames. After an error the connection is of no more use.
    pub(crate) async fn next(&mut self) -> io::Result<Option<Frame>> {
        if let Some(rest) = self.rest.take() {
            return self.data_piece(rest).await.map(Some);
        }
        let mut head = [0_u8; 8];
        if self.io.read(head.get_mut(..1).unwrap_or_default()).await? == 0 {
            return Ok(None);
        }
        self.io.read_exact(head.get_mut(1..).unwrap_or_default()).await?;
        let first = u32::from_be_bytes(*head.first_chunk().unwrap_or(&[0; 4]));
        let second = u32::from_be_bytes(*head.last_chunk().unwrap_or(&[0; 4]));
        let length = (second & 0x00ff_ffff) as usize;
        let flags = second.to_be_bytes().first().copied().unwrap_or_default();
        if first & 0x8000_0000 == 0 {
            let rest = DataRest { stream: first, fin: flags & FLAG_FIN != 0, bytes_left: length };
            return self.data_piece(rest).await.map(Some);
        }
        if first >> 16 != VERSION_3 {
            return Err(invalid("a SPDY control frame is not of version 3"));
        }
        if length > CONTROL_BYTES_MAX {
            return Err(invalid("a SPDY control frame is too long"));
        }
        let mut body = vec![0; length];
        self.io.read_exact(&mut body).await?;
        self.control(first & 0xffff, flags, &body).map(Some)
    }

    async fn data_piece(&mut self, mut rest: DataRest) -> io::Result<Frame> {
        let wanted = rest.bytes_left.min(DATA_PIECE_BYTES);
        let mut bytes = vec![0; wanted];
        if wanted > 0 {
            let read = self.io.read(&mut bytes).await?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            bytes.truncate(read);
            rest.bytes_left -= read;
        }
        let (stream, fin) = (rest.stream, rest.fin && rest.bytes_left == 0);
        if rest.bytes_left > 0 {
            self.rest = Some(rest);
        }
        Ok(Frame::Data { stream, bytes: bytes.into(), fin })
    }

    fn control(&mut self, kind: u32, flags: u8, body: &[u8]) -> io::Result<Frame> {
        let word = |at: usize| {
            let bytes: Option<[u8; 4]> = body.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
            bytes.map(u32::from_be_bytes).ok_or_else(|| invalid("a SPDY control frame is too short"))
        };
        match kind {
            SYN_STREAM => {
                let stream = word(0)? & 0x7fff_ffff;
                let block = body.get(10..).ok_or_else(|| invalid("a SPDY control frame is too short"))?;
                Ok(Frame::Open { stream, headers: self.headers(block)?, fin: flags & FLAG_FIN != 0 })
            }
            SYN_REPLY => {
                // Read although unused: every block moves the shared inflate state.
                self.headers(body.get(4..).unwrap_or_default())?;
                Ok(Frame::Ignored)
            }
            RST_STREAM => Ok(Frame::Reset { stream: word(0)? & 0x7fff_ffff }),
            PING => Ok(Frame::Ping { id: word(0)? }),
            GOAWAY => Ok(Frame::GoAway),
            _ => Ok(Frame::Ignored),
        }
    }

    fn headers(&mut self, block: &[u8]) -> io::Result<Headers> {
        parse_headers(&inflate(&mut self.inflate, block)?)
    }
}

/// Makes frames; keeps the deflate state that all header blocks of a connection share.
pub(crate) struct FrameWriter {
    deflate: Compress,
}

impl FrameWriter {
    pub(crate) fn start() -> io::Result<Self> {
        let mut deflate = Compress::new(Compression::fast(), true);
        deflate.set_dictionary(&dictionary()).map_err(io::Error::other)?;
        Ok(Self { deflate })
    }

    /// Answers an opened stream, with no headers.
    pub(crate) fn reply(&mut self, stream: u32) -> io::Result<Bytes> {
        let block = self.block(&[])?;
        let mut body = BytesMut::with_capacity(4 + block.len());
        body.put_u32(stream);
        body.put_slice(&block);
        Ok(control(SYN_REPLY, 0, &body))
    }

    /// Opens a stream, as a client does.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn open(&mut self, stream: u32, headers: &[(&str, &str)]) -> io::Result<Bytes> {
        let block = self.block(headers)?;
        let mut body = BytesMut::with_capacity(10 + block.len());
        body.put_u32(stream);
        body.put_u32(0);
        body.put_u16(0);
        body.put_slice(&block);
        Ok(control(SYN_STREAM, 0, &body))
    }

    fn block(&mut self, headers: &[(&str, &str)]) -> io::Result<Vec<u8>> {
        let mut plain = BytesMut::new();
        let put_text = |plain: &mut BytesMut, text: &str| {
            plain.put_u32(u32::try_from(text.len()).unwrap_or_default());
            plain.put_slice(text.as_bytes());
        };
        plain.put_u32(u32::try_from(headers.len()).unwrap_or_default());
        for (name, value) in headers {
            put_text(&mut plain, name);
            put_text(&mut plain, value);
        }
        let mut block = Vec::with_capacity(plain.len() + 64);
        let before = self.deflate.total_in();
        while self.deflate.total_in() - before < plain.len() as u64 {
            let done = usize::try_from(self.deflate.total_in() - before).unwrap_or(usize::MAX);
            block.reserve(256);
            self.deflate
                .compress_vec(plain.get(done..).unwrap_or_default(), &mut block, FlushCompress::Sync)
                .map_err(io::Error::other)?;
        }
        Ok(block)
    }
}

/// A data frame; `bytes` must be no longer than [`DATA_FRAME_BYTES_MAX`].
pub(crate) fn data(stream: u32, bytes: &[u8], fin: bool) -> Bytes {
    let mut frame = BytesMut::with_capacity(8 + bytes.len());
    frame.put_u32(stream);
    let length = u32::try_from(bytes.len()).unwrap_or_default();
    frame.put_u32(length | if fin { u32::from(FLAG_FIN) << 24 } else { 0 });
    frame.put_slice(bytes);
    frame.freeze()
}

/// A ping, ours or sent back.
pub(crate) fn ping(id: u32) -> Bytes {
    control(PING, 0, &id.to_be_bytes())
}

/// Refuses a stream: status 3 is "refused stream".
pub(crate) fn reset(stream: u32) -> Bytes {
    let mut body = BytesMut::with_capacity(8);
    body.put_u32(stream);
    body.put_u32(3);
    control(RST_STREAM, 0, &body)
}

/// The end of the connection, without complaint.
pub(crate) fn go_away(last_stream: u32) -> Bytes {
    let mut body = BytesMut::with_capacity(8);
    body.put_u32(last_stream);
    body.put_u32(0);
    control(GOAWAY, 0, &body)
}

fn control(kind: u32, flags: u8, body: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(8 + body.len());
    frame.put_u32(VERSION_3 << 16 | kind);
    frame.put_u32(u32::try_from(body.len()).unwrap_or_default() | u32::from(flags) << 24);
    frame.put_slice(body);
    frame.freeze()
}

fn inflate(state: &mut Decompress, block: &[u8]) -> io::Result<Vec<u8>> {
    let mut plain = Vec::with_capacity(1024);
    let start = state.total_in();
    loop {
        let done = usize::try_from(state.total_in() - start).unwrap_or(usize::MAX);
        let before = (done, plain.len());
        if plain.len() == plain.capacity() {
            if plain.len() >= HEADER_BYTES_MAX {
                return Err(invalid("a SPDY header block is too long"));
            }
            plain.reserve(plain.len());
        }
        match state.decompress_vec(block.get(done..).unwrap_or_default(), &mut plain, FlushDecompress::Sync) {
            Ok(Flate::StreamEnd) => return Err(invalid("a SPDY header block ends the compressed stream")),
            Ok(Flate::Ok | Flate::BufError) => {}
            Err(error) if error.needs_dictionary().is_some() => {
                state
                    .set_dictionary(&dictionary())
                    .map_err(|_| invalid("a SPDY header block uses another dictionary"))?;
                continue;
            }
            Err(_) => return Err(invalid("a SPDY header block is not zlib")),
        }
        let done = usize::try_from(state.total_in() - start).unwrap_or(usize::MAX);
        if done >= block.len() && plain.len() < plain.capacity() {
            return Ok(plain);
        }
        if (done, plain.len()) == before && plain.len() < plain.capacity() {
            return Err(invalid("a SPDY header block stops in the middle"));
        }
    }
}

fn parse_headers(plain: &[u8]) -> io::Result<Headers> {
    let mut rest = plain;
    let count = take_u32(&mut rest)?;
    if count > HEADERS_MAX {
        return Err(invalid("a SPDY header block has too many headers"));
    }
    let mut headers = Headers::new();
    for _ in 0..count {
        let name = take_text(&mut rest)?.to_ascii_lowercase();
        headers.push((name, take_text(&mut rest)?));
    }
    Ok(headers)
}

fn take_u32(rest: &mut &[u8]) -> io::Result<u32> {
    let (head, tail) = rest.split_first_chunk::<4>().ok_or_else(|| invalid("a SPDY header block is too short"))?;
    *rest = tail;
    Ok(u32::from_be_bytes(*head))
}

fn take_text(rest: &mut &[u8]) -> io::Result<String> {
    let length = take_u32(rest)? as usize;
    let (head, tail) = rest.split_at_checked(length).ok_or_else(|| invalid("a SPDY header block is too short"))?;
    *rest = tail;
    String::from_utf8(head.to_vec()).map_err(|_| invalid("a SPDY header is not UTF-8"))
}

fn invalid(text: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

/// The words that the specification's dictionary lists with their lengths before them.
const DICTIONARY_WORDS: &str = "options head post put delete trace accept accept-charset accept-encoding accept-language accept-ranges age allow \
    authorization cache-control connection content-base content-encoding content-language content-length content-location content-md5 \
    content-range content-type date etag expect expires from host if-match if-modified-since if-none-match if-range if-unmodified-since \
    last-modified location max-forwards pragma proxy-authenticate proxy-authorization range referer retry-after server te trailer \
    transfer-encoding upgrade user-agent vary via warning www-authenticate method get status 200_OK version HTTP/1.1 url public set-cookie \
    keep-alive origin";
/// What follows them, without lengths.
const DICTIONARY_TAIL: &str = "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505203 Non-Authoritative \
Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden404 Not Found500 Internal Server Error501 Not \
Implemented503 Service UnavailableJan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, \
GMTchunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,text/javascript,publicprivatemax-age=gzip,\
deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0.";

fn dictionary() -> Vec<u8> {
    let mut dictionary = Vec::with_capacity(1423);
    for word in DICTIONARY_WORDS.split_ascii_whitespace() {
        let word = word.replace('_', " ");
        dictionary.put_u32(u32::try_from(word.len()).unwrap_or_default());
        dictionary.put_slice(word.as_bytes());
    }
    dictionary.put_slice(DICTIONARY_TAIL.as_bytes());
    dictionary
}

#[cfg(test)]
mod tests;
