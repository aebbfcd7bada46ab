//! Commands over WebSocket: each message starts with the number of its channel (`v4.channel.k8s.io`, `v5.channel.k8s.io`).

use std::pin::pin;
use std::time::Duration;

use api::Status;
use bytes::{Bytes, BytesMut};
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt as _, StreamExt as _};
use http::HeaderMap;
use http::header::{
    HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{self, Message};

use super::session::{Inbound, Outbound, WAITING_MESSAGES_MAX, run, terminal_size};
use crate::{ExecSession, request};

/// A longer message is refused; clients send 32 KiB at most.
const MESSAGE_BYTES_MAX: usize = 1024 * 1024;
/// Time that the client has to answer the close.
const CLOSE_TIME_MAX: Duration = Duration::from_secs(1);

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
const CLOSE: u8 = 255;

/// The protocols that are served, the better first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    /// Clients can close their input.
    V5,
    /// They cannot.
    V4,
}

impl Version {
    /// Reads the client's handshake and writes ours.
    pub(super) fn accept(headers: &HeaderMap, answer: &mut HeaderMap) -> Result<Self, Status> {
        const V5: &str = "v5.channel.k8s.io";
        let accepted = accept(headers, answer, &[V5, "v4.channel.k8s.io"])?;
        Ok(if accepted == V5 { Self::V5 } else { Self::V4 })
    }
}

/// Reads the client's handshake and writes ours; which of the known protocols it is to be, the better first.
pub(super) fn accept(
    headers: &HeaderMap,
    answer: &mut HeaderMap,
    known: &[&'static str],
) -> Result<&'static str, Status> {
    let Some(key) = headers
        .get(SEC_WEBSOCKET_KEY)
        .filter(|_| headers.get(SEC_WEBSOCKET_VERSION).is_some_and(|version| version == "13"))
    else {
        return Err(Status::bad_request("the WebSocket handshake has no key, or is not of version 13"));
    };
    let offered: Vec<&str> = request::values(headers, SEC_WEBSOCKET_PROTOCOL).collect();
    let Some(name) = known.iter().copied().find(|name| offered.contains(name)) else {
        let known = known.join(" or ");
        return Err(Status::bad_request(format!("none of the offered WebSocket protocols is served; offer {known}")));
    };
    let accepted = HeaderValue::from_str(&derive_accept_key(key.as_bytes()))
        .map_err(|_| Status::internal("the WebSocket key cannot be answered"))?;
    answer.insert(UPGRADE, HeaderValue::from_static("websocket"));
    answer.insert(SEC_WEBSOCKET_ACCEPT, accepted);
    answer.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(name));
    Ok(name)
}

/// Speaks WebSocket on an upgraded connection.
pub(super) async fn over<S: AsyncRead + AsyncWrite + Unpin>(connection: S) -> WebSocketStream<S> {
    let config =
        WebSocketConfig::default().max_message_size(Some(MESSAGE_BYTES_MAX)).max_frame_size(Some(MESSAGE_BYTES_MAX));
    WebSocketStream::from_raw_socket(connection, Role::Server, Some(config)).await
}

/// Runs the session on an upgraded connection.
pub(super) async fn serve<S: AsyncRead + AsyncWrite + Unpin>(connection: S, version: Version, session: ExecSession) {
    let (sink, source) = over(connection).await.split();
    let (to_session, inbound) = mpsc::channel(WAITING_MESSAGES_MAX);
    let (outbound, from_session) = mpsc::channel(WAITING_MESSAGES_MAX);
    let mut reading = pin!(read(source, version, to_session));
    let mut working = pin!(async {
        let (written, ()) = tokio::join!(write(sink, from_session), run(session, inbound, outbound));
        written
    });
    let written = tokio::select! {
        () = &mut reading => working.await,
        written = &mut working => {
            // What the client still sends is read, so that the end of the connection does not destroy what it has not read yet.
            if timeout(CLOSE_TIME_MAX, reading).await.is_err() {
                tracing::debug!("a WebSocket client did not answer the close");
            }
            written
        }
    };
    if let Err(error) = written {
        tracing::debug!(%error, "a WebSocket client left before its command had ended");
    }
}

async fn read<S: AsyncRead + AsyncWrite + Unpin>(
    mut source: SplitStream<WebSocketStream<S>>,
    version: Version,
    session: mpsc::Sender<Inbound>,
) {
    let mut open = Some(session);
    while let Some(Ok(message)) = source.next().await {
        let bytes = match message {
            Message::Binary(bytes) => bytes,
            Message::Text(text) => Bytes::from(text),
            // Pongs are sent by the library while we read on.
            _ => continue,
        };
        let Some((channel, _)) = bytes.split_first() else {
            continue;
        };
        let (channel, rest) = (*channel, bytes.slice(1..));
        let message = match channel {
            STDIN if !rest.is_empty() => Inbound::Input(rest),
            RESIZE => match terminal_size(&rest) {
                Some(size) => Inbound::Resize(size),
                None => continue,
            },
            CLOSE if version == Version::V5 && rest.first() == Some(&STDIN) => Inbound::InputEnd,
            _ => continue,
        };
        if let Some(session) = &open
            && session.send(message).await.is_err()
        {
            // The command has ended; read on for the close.
            open = None;
        }
    }
}

async fn write<S: AsyncRead + AsyncWrite + Unpin>(
    mut sink: SplitSink<WebSocketStream<S>, Message>,
    mut session: mpsc::Receiver<Outbound>,
) -> Result<(), tungstenite::Error> {
    while let Some(message) = session.recv().await {
        match message {
            Outbound::Output(bytes) => sink.send(framed(STDOUT, &bytes)).await?,
            Outbound::Errors(bytes) => sink.send(framed(STDERR, &bytes)).await?,
            Outbound::End(status) => {
                sink.send(framed(ERROR, status.to_value().to_string().as_bytes())).await?;
                let frame = CloseFrame { code: CloseCode::Normal, reason: "".into() };
                return sink.send(Message::Close(Some(frame))).await;
            }
        }
    }
    Ok(())
}

fn framed(channel: u8, bytes: &[u8]) -> Message {
    let mut message = BytesMut::with_capacity(1 + bytes.len());
    message.extend_from_slice(&[channel]);
    message.extend_from_slice(bytes);
    Message::Binary(message.freeze())
}
