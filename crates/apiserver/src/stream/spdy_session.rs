//! Commands over SPDY: one stream for each of input, output, errors, sizes and the end.

use std::io;
use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::session::{Inbound, Outbound, WAITING_MESSAGES_MAX, run, terminal_size};
use super::spdy::{self, DATA_FRAME_BYTES_MAX, Frame, FrameReader, FrameWriter};
use crate::ExecSession;

/// The protocol that every client from 1.20 on offers. Version 5 over SPDY differs in nothing.
pub(super) const PROTOCOL: &str = "v4.channel.k8s.io";
/// Time that the client has to open its streams, as real servers have it.
const OPEN_TIME_MAX: Duration = Duration::from_secs(30);
/// Time that the client has to close after the end.
const CLOSE_TIME_MAX: Duration = Duration::from_secs(1);
/// The terminal's size is a few digits in one piece.
const SIZE_BYTES_MAX: usize = 256;

/// The streams that the client will open besides that for the end.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "four independent streams")]
pub(super) struct Wanted {
    pub(super) stdin: bool,
    pub(super) stdout: bool,
    pub(super) stderr: bool,
    pub(super) resize: bool,
}

/// The numbers of the streams; 0 is none.
#[derive(Debug, Default)]
struct Streams {
    stdin: u32,
    stdout: u32,
    stderr: u32,
    error: u32,
    resize: u32,
    last: u32,
}

impl Streams {
    fn are(&self, wanted: Wanted) -> bool {
        self.error != 0
            && [
                (wanted.stdin, self.stdin),
                (wanted.stdout, self.stdout),
                (wanted.stderr, self.stderr),
                (wanted.resize, self.resize),
            ]
            .iter()
            .all(|(wanted, stream)| !wanted || *stream != 0)
    }

    /// Takes a new stream; false if it is none that we know, or a second one of its kind.
    fn open(&mut self, stream: u32, headers: &spdy::Headers) -> bool {
        self.last = self.last.max(stream);
        let kind = headers.iter().find(|(name, _)| name == "streamtype").map(|(_, kind)| kind.as_str());
        let place = match kind {
            Some("stdin") => &mut self.stdin,
            Some("stdout") => &mut self.stdout,
            Some("stderr") => &mut self.stderr,
            Some("error") => &mut self.error,
            Some("resize") => &mut self.resize,
            _ => return false,
        };
        stream != 0 && std::mem::replace(place, stream) == 0
    }
}

/// Runs the session on an upgraded connection.
pub(super) async fn serve<S: AsyncRead + AsyncWrite + Unpin>(connection: S, wanted: Wanted, session: ExecSession) {
    if let Err(error) = converse(connection, wanted, session).await {
        tracing::debug!(%error, "a SPDY client left before its command had ended");
    }
}

async fn converse<S: AsyncRead + AsyncWrite + Unpin>(
    connection: S,
    wanted: Wanted,
    session: ExecSession,
) -> io::Result<()> {
    let (source, mut sink) = tokio::io::split(connection);
    let mut reader = FrameReader::over(source);
    let mut frames = FrameWriter::start()?;
    let (to_session, inbound) = mpsc::channel(WAITING_MESSAGES_MAX);
    let opening = open(&mut reader, &mut frames, &mut sink, wanted, &to_session);
    let streams = timeout(OPEN_TIME_MAX, opening).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    let (outbound, from_session) = mpsc::channel(WAITING_MESSAGES_MAX);
    let (answers, to_answer) = mpsc::channel(WAITING_MESSAGES_MAX);
    let mut reading = pin!(read(reader, &streams, to_session, answers));
    let mut working = pin!(async {
        let (written, ()) =
            tokio::join!(write(&mut sink, &streams, from_session, to_answer), run(session, inbound, outbound));
        written
    });
    tokio::select! {
        read = &mut reading => working.await.and(read),
        written = &mut working => {
            // What the client still sends is read, so that the end of the connection does not destroy what it has not read yet.
            timeout(CLOSE_TIME_MAX, reading).await.unwrap_or(Ok(())).and(written)
        }
    }
}

/// Lets the client open its streams.
async fn open<S: AsyncRead + AsyncWrite>(
    reader: &mut FrameReader<ReadHalf<S>>,
    frames: &mut FrameWriter,
    sink: &mut WriteHalf<S>,
    wanted: Wanted,
    session: &mpsc::Sender<Inbound>,
) -> io::Result<Streams> {
    let mut streams = Streams::default();
    while !streams.are(wanted) {
        match reader.next().await?.ok_or(io::ErrorKind::UnexpectedEof)? {
            Frame::Open { stream, headers, .. } => {
                let answer = if streams.open(stream, &headers) { frames.reply(stream)? } else { spdy::reset(stream) };
                sink.write_all(&answer).await?;
            }
            Frame::Ping { id } => sink.write_all(&spdy::ping(id)).await?,
            frame => {
                for message in meaning(&frame, &streams).into_iter().flatten() {
                    // Nobody takes it before all are open: it is kept, up to a bound.
                    session
                        .try_send(message)
                        .map_err(|_| io::Error::other("it says too much before its streams are open"))?;
                }
            }
        }
        sink.flush().await?;
    }
    Ok(streams)
}

/// What a frame says to the session.
fn meaning(frame: &Frame, streams: &Streams) -> [Option<Inbound>; 2] {
    match frame {
        Frame::Data { stream, bytes, fin } if *stream == streams.stdin && *stream != 0 => {
            let input = Some(bytes.clone()).filter(|bytes| !bytes.is_empty()).map(Inbound::Input);
            [input, fin.then_some(Inbound::InputEnd)]
        }
        Frame::Data { stream, bytes, .. }
            if *stream == streams.resize && *stream != 0 && bytes.len() <= SIZE_BYTES_MAX =>
        {
            [terminal_size(bytes).map(Inbound::Resize), None]
        }
        Frame::Reset { stream } if *stream == streams.stdin && *stream != 0 => [Some(Inbound::InputEnd), None],
        _ => [None, None],
    }
}

async fn read<R: AsyncRead + Unpin>(
    mut reader: FrameReader<R>,
    streams: &Streams,
    session: mpsc::Sender<Inbound>,
    answers: mpsc::Sender<Bytes>,
) -> io::Result<()> {
    let mut open = Some(session);
    while let Some(frame) = reader.next().await? {
        let answer = match &frame {
            Frame::Ping { id } => Some(spdy::ping(*id)),
            Frame::Open { stream, .. } => Some(spdy::reset(*stream)),
            Frame::GoAway => return Ok(()),
            _ => None,
        };
        if let Some(answer) = answer
            && answers.send(answer).await.is_err()
        {
            tracing::debug!("a SPDY client still asks after the end");
        }
        for message in meaning(&frame, streams).into_iter().flatten() {
            if let Some(session) = &open
                && session.send(message).await.is_err()
            {
                // The command has ended; read on for the client's goodbye.
                open = None;
            }
        }
    }
    Ok(())
}

async fn write<W: AsyncWrite + Unpin>(
    sink: &mut W,
    streams: &Streams,
    mut session: mpsc::Receiver<Outbound>,
    mut answers: mpsc::Receiver<Bytes>,
) -> io::Result<()> {
    loop {
        let message = tokio::select! {
            message = session.recv() => message,
            Some(answer) = answers.recv() => {
                sink.write_all(&answer).await?;
                sink.flush().await?;
                continue;
            }
        };
        match message {
            Some(Outbound::Output(bytes)) => data(sink, streams.stdout, &bytes).await?,
            Some(Outbound::Errors(bytes)) => data(sink, streams.stderr, &bytes).await?,
            Some(Outbound::End(status)) => {
                for stream in [streams.stdout, streams.stderr].into_iter().filter(|stream| *stream != 0) {
                    sink.write_all(&spdy::data(stream, &[], true)).await?;
                }
                let status = status.to_value().to_string();
                sink.write_all(&spdy::data(streams.error, status.as_bytes(), true)).await?;
                sink.write_all(&spdy::go_away(streams.last)).await?;
                return sink.flush().await;
            }
            None => return Ok(()),
        }
        sink.flush().await?;
    }
}

async fn data<W: AsyncWrite + Unpin>(sink: &mut W, stream: u32, bytes: &[u8]) -> io::Result<()> {
    if stream != 0 {
        for piece in bytes.chunks(DATA_FRAME_BYTES_MAX) {
            sink.write_all(&spdy::data(stream, piece, false)).await?;
        }
    }
    Ok(())
}
