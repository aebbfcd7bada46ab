//! What clients of `exec` and `port-forward` send, for fuzzing: the headers that ask for another protocol, frames of SPDY, messages of WebSocket.

use api::Status;
use bytes::Bytes;
use futures_util::FutureExt as _;
use http::HeaderMap;
use http::header::{HeaderName, HeaderValue, UPGRADE};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;

use super::spdy::{DATA_PIECE_BYTES, Frame, FrameReader, FrameWriter, HEADER_BYTES_MAX, HEADERS_MAX, data, ping};
use super::spdy_session::Wanted;
use super::websocket::Version;
use super::{carried, forward, spdy_session, switch, websocket};
use crate::{ExecSession, Forwarded};

/// What a parser begins with.
pub(crate) type Seeds = Vec<Vec<u8>>;

/// Frames: none is longer than is allowed, and data is no more than was sent.
pub(crate) fn frames(bytes: &[u8]) {
    let mut reader = FrameReader::over(bytes);
    let mut read = 0;
    loop {
        let frame = reader.next().now_or_never();
        assert!(frame.is_some(), "a reader of bytes that are there waits");
        let Some(Ok(Some(frame))) = frame else { break };
        match frame {
            Frame::Data { bytes, .. } => {
                assert!(bytes.len() <= DATA_PIECE_BYTES);
                read += bytes.len();
            }
            Frame::Open { stream, headers, .. } => {
                let size: usize = headers.iter().map(|(name, value)| name.len() + value.len()).sum();
                assert!(headers.len() <= HEADERS_MAX as usize && size <= 2 * HEADER_BYTES_MAX && stream >> 31 == 0);
            }
            Frame::Reset { stream } => assert!(stream >> 31 == 0),
            Frame::Ping { .. } | Frame::GoAway | Frame::Ignored => {}
        }
    }
    assert!(read <= bytes.len());
}

/// A whole session over SPDY: it ends when the client's bytes do.
pub(crate) fn spdy(bytes: &[u8]) {
    let wanted = Wanted { stdin: true, stdout: true, stderr: false, resize: true };
    ends(spdy_session::serve(client(bytes), wanted, session()));
}

/// The same over WebSocket, in both versions.
pub(crate) fn websocket(bytes: &[u8]) {
    ends(websocket::serve(client(bytes), Version::V5, session()));
    ends(websocket::serve(client(bytes), Version::V4, session()));
}

/// Headers that ask for another protocol: refused with a reason, or an answer that names the protocol.
pub(crate) fn headers(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let mut headers = HeaderMap::new();
    for (name, value) in text.lines().filter_map(|line| line.split_once(':')) {
        if let (Ok(name), Ok(value)) = (name.trim().parse::<HeaderName>(), HeaderValue::from_str(value.trim())) {
            headers.append(name, value);
        }
    }
    let forward = |headers: &HeaderMap, answer: &mut HeaderMap| {
        websocket::accept(headers, answer, &[forward::WEBSOCKET_PROTOCOL])
    };
    let exec = switch(&headers, spdy_session::PROTOCOL, Version::accept).map(|(_, response)| response);
    for answer in [exec, switch(&headers, forward::PROTOCOL, forward).map(|(_, response)| response)] {
        match answer {
            Ok(response) => assert!(response.status() == 101 && response.headers().contains_key(UPGRADE)),
            Err(status) => assert!(matches!(status.code(), 400 | 403) && !status.message().is_empty()),
        }
    }
}

/// Connections to ports of a pod, over SPDY and over SPDY in WebSocket messages: they end when the client's bytes do.
pub(crate) fn forwards(bytes: &[u8]) {
    ends(forward::serve(client(bytes), dial));
    ends(carried::serve(client(bytes), |inner| forward::serve(inner, dial)));
}

/// A pod that says nothing on even ports, and that nobody reaches on odd ones.
fn dial(port: u16) -> forward::Dialled {
    let found: Result<Forwarded, Status> = if port.is_multiple_of(2) {
        Ok(Forwarded { reader: Box::new(tokio::io::empty()), writer: Box::new(tokio::io::sink()) })
    } else {
        Err(Status::unavailable("nobody listens"))
    };
    std::future::ready(found).boxed()
}

/// Everything that the client has to say, and nobody who hears the answers.
fn client(bytes: &[u8]) -> impl AsyncRead + AsyncWrite + Unpin {
    tokio::io::join(bytes, tokio::io::sink())
}

/// A command that takes its input and ends at once.
fn session() -> ExecSession {
    let (resize, _sizes) = mpsc::channel(1);
    ExecSession {
        stdin: Some(Box::new(tokio::io::sink())),
        stdout: Some(Box::new(tokio::io::empty())),
        stderr: None,
        resize: Some(resize),
        exit: async {
            tokio::task::yield_now().await;
            Ok(0)
        }
        .boxed(),
    }
}

fn ends(session: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    assert!(runtime.map(|runtime| runtime.block_on(session)).is_ok(), "no runtime");
}

pub(crate) fn frames_seeds() -> Seeds {
    let mut seeds = Seeds::new();
    let opened = || {
        let mut writer = FrameWriter::start()?;
        let mut all = Vec::new();
        for (stream, kind) in [(1, "error"), (3, "stdin"), (5, "stdout"), (7, "resize")] {
            all.extend_from_slice(&writer.open(stream, &[("streamtype", kind), ("port", "80")])?);
        }
        let reply = writer.reply(1)?;
        std::io::Result::Ok((all, reply))
    };
    if let Ok((all, reply)) = opened() {
        let talk: [Bytes; 5] = [
            data(3, b"hello", false),
            ping(7),
            data(7, b"{\"Width\":80,\"Height\":24}", false),
            data(3, b"", true),
            reply,
        ];
        seeds.push([all.as_slice(), &talk.concat()].concat());
        seeds.push(all);
        seeds.push(talk.concat());
    }
    // A reset, a farewell, settings, and data that claims to be longer than it is.
    let rest: [&[u8]; 4] = [
        b"\x80\x03\0\x03\0\0\0\x08\0\0\0\x03\0\0\0\x03",
        b"\x80\x03\0\x07\0\0\0\x08\0\0\0\x03\0\0\0\0",
        b"\x80\x03\0\x04\0\0\0\x04\0\0\0\0",
        b"\0\0\0\x03\x01\0\x40\x01x",
    ];
    seeds.push(rest.concat());
    seeds
}

pub(crate) fn forwards_seeds() -> Seeds {
    let opened = || {
        let mut writer = FrameWriter::start()?;
        let mut all = Vec::new();
        for (stream, kind, port, id) in
            [(1, "error", "80", "0"), (3, "data", "80", "0"), (5, "data", "81", "1"), (7, "error", "81", "1")]
        {
            all.extend_from_slice(&writer.open(stream, &[("streamtype", kind), ("port", port), ("requestid", id)])?);
        }
        std::io::Result::Ok(all)
    };
    let Ok(all) = opened() else { return Seeds::new() };
    let talk = [all.as_slice(), &data(3, b"hello", true), &data(5, b"more", false)].concat();
    let message = |content: &[u8]| {
        let length = u16::try_from(content.len()).unwrap_or(0).to_be_bytes();
        [&[0x82, 0xfe], length.as_slice(), &[0; 4], content].concat()
    };
    vec![message(&talk), talk, all]
}

pub(crate) fn messages_seeds() -> Seeds {
    let frame = |kind: u8, content: &[u8]| {
        let length = 0x80 | u8::try_from(content.len()).unwrap_or(125);
        [&[kind, length, 0, 0, 0, 0], content].concat()
    };
    let all = [
        frame(0x82, b"\x00input"),
        frame(0x82, b"\x04{\"Width\":80,\"Height\":24}"),
        frame(0x81, b"\x00text"),
        frame(0x89, b"ping"),
        frame(0x02, b"\x00begun"),
        frame(0x80, b" and ended"),
        frame(0x82, b"\xff\x00"),
        frame(0x88, b"\x03\xe8"),
    ];
    let mut seeds = all.to_vec();
    seeds.push(all.concat());
    seeds
}

pub(crate) fn headers_seeds() -> Seeds {
    [
        "Connection: Upgrade\nUpgrade: websocket\nSec-WebSocket-Version: 13\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\n\
         Sec-WebSocket-Protocol: v5.channel.k8s.io, v4.channel.k8s.io\n",
        "Connection: Upgrade\nUpgrade: SPDY/3.1\nX-Stream-Protocol-Version: v4.channel.k8s.io\n\
         X-Stream-Protocol-Version: channel.k8s.io\n",
        "Upgrade: websocket\nSec-WebSocket-Version: 13\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\n\
         Sec-WebSocket-Protocol: SPDY/3.1+portforward.k8s.io\n",
        "Upgrade: SPDY/3.1\nX-Stream-Protocol-Version: portforward.k8s.io\n",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}
