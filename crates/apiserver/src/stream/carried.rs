//! A stream of bytes inside the binary messages of a WebSocket, cut anywhere.

use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream, duplex};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use super::websocket;

/// Bytes that wait in either direction.
const WAITING_BYTES_MAX: usize = 64 * 1024;
/// Bytes that one message carries.
const MESSAGE_BYTES: usize = 32 * 1024;
/// Time that the client has to answer the close.
const CLOSE_TIME_MAX: Duration = Duration::from_secs(1);

/// Runs a conversation on the bytes that the messages of an upgraded connection carry.
pub(super) async fn serve<S, C>(connection: S, conversation: impl FnOnce(DuplexStream) -> C)
where
    S: AsyncRead + AsyncWrite + Unpin,
    C: Future<Output = ()>,
{
    let (mut sink, mut source) = websocket::over(connection).await.split();
    let (near, far) = duplex(WAITING_BYTES_MAX);
    let (mut from, mut to) = tokio::io::split(near);
    let mut inward = pin!(async {
        while let Some(Ok(message)) = source.next().await {
            // Pongs are sent by the library while we read on. When the conversation is over, the close is read for.
            if let Message::Binary(bytes) = message {
                drop(to.write_all(&bytes).await);
            }
        }
        // It may have ended before the client.
        drop(to.shutdown().await);
    });
    let outward = async {
        let mut piece = vec![0; MESSAGE_BYTES];
        while let Ok(read) = from.read(&mut piece).await
            && read > 0
        {
            let bytes = Bytes::copy_from_slice(piece.get(..read).unwrap_or_default());
            sink.send(Message::Binary(bytes)).await?;
        }
        sink.send(Message::Close(Some(CloseFrame { code: CloseCode::Normal, reason: "".into() }))).await
    };
    let mut working = pin!(async {
        let ((), sent) = tokio::join!(conversation(far), outward);
        sent
    });
    let sent = tokio::select! {
        () = &mut inward => working.await,
        sent = &mut working => {
            if timeout(CLOSE_TIME_MAX, inward).await.is_err() {
                tracing::debug!("a WebSocket client did not answer the close");
            }
            sent
        }
    };
    if let Err(error) = sent {
        tracing::debug!(%error, "a WebSocket client left before its conversation had ended");
    }
}
