//! Port-forward: for each connection of the client two streams, one for its data and one for what goes wrong, in SPDY
//! frames that come as they are or inside WebSocket messages (`super::carried`).

use std::collections::HashMap;
use std::io;
use std::pin::pin;
use std::sync::Arc;

use api::Status;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;

use super::spdy::{self, DATA_FRAME_BYTES_MAX, Frame, FrameReader, FrameWriter};
use crate::Forwarded;

/// The protocol, as clients ask for it over SPDY.
pub(super) const PROTOCOL: &str = "portforward.k8s.io";
/// The same as a protocol of WebSocket.
pub(super) const WEBSOCKET_PROTOCOL: &str = "SPDY/3.1+portforward.k8s.io";
/// Connections of one client at a time: each holds a socket of the pod and two tables' places, and a browser opens some dozens.
const CONNECTIONS_MAX: usize = 256;
/// Pieces that wait for a pod that does not read; then the client waits.
const WAITING_PIECES_MAX: usize = 16;
/// Frames that wait for a client that does not read; then the pods wait.
const WAITING_FRAMES_MAX: usize = 16;
/// Longest reason that a client is told.
const REASON_BYTES_MAX: usize = 4096;

/// A connection to a port of the pod as it comes about; the error is for the client.
pub(super) type Dialled = BoxFuture<'static, Result<Forwarded, Status>>;

/// What a client sends into one connection.
enum Piece {
    Bytes(Bytes),
    End,
}

/// The streams of one connection, until both are there.
struct Pair {
    place: OwnedSemaphorePermit,
    error: Option<u32>,
    data: Option<u32>,
}

/// A connection whose two streams are there.
struct Complete {
    place: OwnedSemaphorePermit,
    error: u32,
    data: u32,
    port: u16,
}

/// The connections that are not complete yet, by the name that the client gives them.
struct Pairs {
    by_id: HashMap<String, Pair>,
    places: Arc<Semaphore>,
}

/// Runs a client's connections until it leaves.
pub(super) async fn serve<S: AsyncRead + AsyncWrite>(connection: S, dial: impl Fn(u16) -> Dialled) {
    let (source, sink) = tokio::io::split(connection);
    let (frames, to_send) = mpsc::channel(WAITING_FRAMES_MAX);
    let mut sending = pin!(send(sink, to_send));
    let mut reading = pin!(read(FrameReader::over(source), frames, dial));
    let outcome = tokio::select! {
        outcome = &mut reading => outcome,
        outcome = &mut sending => outcome,
    };
    if let Err(error) = outcome {
        tracing::debug!(%error, "a port-forward ended early");
    }
}

async fn send<W: AsyncWrite + Unpin>(mut sink: W, mut frames: mpsc::Receiver<Bytes>) -> io::Result<()> {
    while let Some(frame) = frames.recv().await {
        sink.write_all(&frame).await?;
        sink.flush().await?;
    }
    Ok(())
}

async fn read<R: AsyncRead + Unpin>(
    mut reader: FrameReader<R>,
    frames: mpsc::Sender<Bytes>,
    dial: impl Fn(u16) -> Dialled,
) -> io::Result<()> {
    let mut writer = FrameWriter::start()?;
    // Dropped with this function, which ends them all.
    let mut connections = JoinSet::new();
    let mut open: HashMap<u32, mpsc::Sender<Piece>> = HashMap::new();
    let mut pairs = Pairs { by_id: HashMap::new(), places: Arc::new(Semaphore::new(CONNECTIONS_MAX)) };
    let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
    while let Some(frame) = reader.next().await? {
        while let Some(ended) = connections.try_join_next() {
            open.remove(&ended.unwrap_or_default());
        }
        match frame {
            Frame::Open { stream, headers, .. } => {
                let Some(complete) = pairs.take(stream, &headers) else {
                    frames.send(spdy::reset(stream)).await.map_err(gone)?;
                    continue;
                };
                frames.send(writer.reply(stream)?).await.map_err(gone)?;
                if let Some(complete) = complete {
                    let (pieces, inbound) = mpsc::channel(WAITING_PIECES_MAX);
                    open.insert(complete.data, pieces);
                    connections.spawn(connection(dial(complete.port), complete, inbound, frames.clone()));
                }
            }
            Frame::Data { stream, bytes, fin } => {
                if let Some(pieces) = open.get(&stream) {
                    // One that has ended takes no more, and the client learns of its end by itself.
                    if !bytes.is_empty() {
                        drop(pieces.send(Piece::Bytes(bytes)).await);
                    }
                    if fin {
                        drop(pieces.send(Piece::End).await);
                    }
                }
            }
            Frame::Reset { stream } => {
                open.remove(&stream);
            }
            Frame::Ping { id } => frames.send(spdy::ping(id)).await.map_err(gone)?,
            Frame::GoAway => return Ok(()),
            Frame::Ignored => {}
        }
    }
    Ok(())
}

impl Pairs {
    /// Notes a new stream: its connection if that is complete by it. None if it is not one of a pair, or one too many.
    #[expect(clippy::option_option, reason = "refused, waiting for the other one, complete")]
    fn take(&mut self, stream: u32, headers: &spdy::Headers) -> Option<Option<Complete>> {
        let header = |wanted: &str| headers.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.as_str());
        let port = header("port")?.parse().ok().filter(|port| *port != 0)?;
        let id = header("requestid")?;
        let is_error = match header("streamtype")? {
            "error" => true,
            "data" => false,
            _ => return None,
        };
        let mut pair = match self.by_id.remove(id) {
            Some(pair) => pair,
            None => Pair { place: Arc::clone(&self.places).try_acquire_owned().ok()?, error: None, data: None },
        };
        let place = if is_error { &mut pair.error } else { &mut pair.data };
        let is_new = stream != 0 && place.is_none();
        if is_new {
            *place = Some(stream);
        }
        let complete = match (pair.error, pair.data) {
            (Some(error), Some(data)) => Some(Complete { place: pair.place, error, data, port }),
            (None, None) => return None,
            _ => {
                self.by_id.insert(id.to_owned(), pair);
                None
            }
        };
        is_new.then_some(complete)
    }
}

/// Moves bytes both ways until the pod has no more to say or the client gives up; gives back the stream of its data.
async fn connection(
    dialled: Dialled,
    complete: Complete,
    mut inbound: mpsc::Receiver<Piece>,
    frames: mpsc::Sender<Bytes>,
) -> u32 {
    let Complete { place, error, data, .. } = complete;
    let why = match dialled.await {
        Ok(forwarded) => {
            carry(forwarded, data, &mut inbound, &frames).await;
            String::new()
        }
        Err(status) => status.message().to_owned(),
    };
    let why = why.as_bytes();
    let why = why.get(..REASON_BYTES_MAX).unwrap_or(why);
    // A client that knows of the end finds the place free.
    drop(place);
    for frame in [spdy::data(data, &[], true), spdy::data(error, why, true)] {
        if frames.send(frame).await.is_err() {
            break;
        }
    }
    data
}

async fn carry(forwarded: Forwarded, data: u32, inbound: &mut mpsc::Receiver<Piece>, frames: &mpsc::Sender<Bytes>) {
    let Forwarded { mut reader, mut writer } = forwarded;
    let up = async {
        while let Some(piece) = inbound.recv().await {
            let done = match piece {
                Piece::Bytes(bytes) => writer.write_all(&bytes).await,
                Piece::End => writer.shutdown().await,
            };
            if done.is_err() {
                // The pod reads no more; what it still says is told.
                return false;
            }
        }
        // The client gave the stream up.
        true
    };
    let mut down = pin!(async {
        let mut piece = vec![0; DATA_FRAME_BYTES_MAX];
        while let Ok(read) = reader.read(&mut piece).await
            && read > 0
        {
            let bytes = piece.get(..read).unwrap_or_default();
            if frames.send(spdy::data(data, bytes, false)).await.is_err() {
                return;
            }
        }
    });
    // The client waits for the end of what the pod says, not for that of what it says itself.
    tokio::select! {
        () = &mut down => {}
        is_given_up = up => if !is_given_up { down.await },
    }
}

#[cfg(test)]
mod tests;
