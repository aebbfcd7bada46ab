//! Bodies of answers: all at once, or piece by piece as they come about.

use std::convert::Infallible;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt as _, stream};
use hyper::body::{Frame, SizeHint};
use tokio::sync::mpsc;

/// Pieces of a streamed body that may wait for a slow client; its writer waits beyond.
const WAITING_PIECES_MAX: usize = 16;

/// The body of an answer.
pub struct Body(Kind);

enum Kind {
    Whole(Option<Bytes>),
    Pieces(Pin<Box<dyn Stream<Item = Bytes> + Send>>),
}

impl Body {
    /// A body that is all there.
    pub fn whole(bytes: impl Into<Bytes>) -> Self {
        Self(Kind::Whole(Some(bytes.into()).filter(|bytes| !bytes.is_empty())))
    }

    /// A body without content.
    pub const fn empty() -> Self {
        Self(Kind::Whole(None))
    }

    /// A body that is sent piece by piece; it ends when the sender is dropped, and the sender is closed when the client has left.
    pub fn pieces() -> (mpsc::Sender<Bytes>, Self) {
        let (sender, receiver) = mpsc::channel(WAITING_PIECES_MAX);
        let pieces =
            stream::unfold(
                receiver,
                |mut receiver| async move { receiver.recv().await.map(|piece| (piece, receiver)) },
            );
        (sender, Self::stream(pieces))
    }

    /// A body whose pieces are made when the client is ready for them.
    pub fn stream(pieces: impl Stream<Item = Bytes> + Send + 'static) -> Self {
        Self(Kind::Pieces(Box::pin(pieces)))
    }

    /// The next piece, or `None` at the end.
    pub async fn next(&mut self) -> Option<Bytes> {
        match &mut self.0 {
            Kind::Whole(bytes) => bytes.take(),
            Kind::Pieces(pieces) => pieces.next().await,
        }
    }

    /// All that is left, in one piece.
    pub async fn bytes(mut self) -> Bytes {
        let Some(first) = self.next().await else {
            return Bytes::new();
        };
        let mut all = BytesMut::from(first);
        while let Some(piece) = self.next().await {
            all.extend_from_slice(&piece);
        }
        all.freeze()
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Whole(bytes) => f.debug_tuple("Body").field(&bytes.as_ref().map_or(0, Bytes::len)).finish(),
            Kind::Pieces(_) => f.write_str("Body(..)"),
        }
    }
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match &mut self.get_mut().0 {
            Kind::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Kind::Pieces(pieces) => {
                pieces.poll_next_unpin(context).map(|piece| piece.map(|bytes| Ok(Frame::data(bytes))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.0, Kind::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Kind::Pieces(_) => SizeHint::default(),
        }
    }
}
