//! A running command between its streams and a client, whatever the client speaks.

use std::time::Duration;

use api::Status;
use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;

use crate::{ExecSession, TerminalSize};

/// Messages that wait in either direction; beyond that the sender waits, and with it the other end.
pub(super) const WAITING_MESSAGES_MAX: usize = 16;
/// Bytes that one message of output carries.
const OUTPUT_BYTES: usize = 16 * 1024;
/// Silence after which an output counts as ended once the command has: a child in the background may hold it open for ever.
const SILENCE_AFTER_EXIT: Duration = Duration::from_millis(500);

/// From the client.
#[derive(Debug)]
pub(super) enum Inbound {
    Input(Bytes),
    InputEnd,
    Resize(TerminalSize),
}

/// To the client; the end comes last.
#[derive(Debug)]
pub(super) enum Outbound {
    Output(Bytes),
    Errors(Bytes),
    End(Status),
}

/// Moves everything until the command and its outputs have ended, or `inbound` is closed because the client has left.
pub(super) async fn run(session: ExecSession, inbound: mpsc::Receiver<Inbound>, outbound: mpsc::Sender<Outbound>) {
    let ExecSession { stdin, stdout, stderr, resize, exit } = session;
    let exited = watch::Sender::new(false);
    let work = async {
        let ending = async {
            let code = exit.await;
            exited.send_replace(true);
            code
        };
        let (code, (), ()) = tokio::join!(
            ending,
            pump(stdout, &outbound, Outbound::Output, exited.subscribe()),
            pump(stderr, &outbound, Outbound::Errors, exited.subscribe()),
        );
        let end = match code {
            Ok(0) => Status::success(),
            Ok(code) => Status::exit_code(code),
            Err(status) => status,
        };
        if outbound.send(Outbound::End(end)).await.is_err() {
            tracing::debug!("a client left before its command had ended");
        }
    };
    tokio::select! {
        () = work => {}
        () = take(stdin, resize, inbound) => {}
    }
}

async fn pump(
    from: Option<Box<dyn AsyncRead + Send + Unpin>>,
    to: &mpsc::Sender<Outbound>,
    message: fn(Bytes) -> Outbound,
    mut exited: watch::Receiver<bool>,
) {
    let Some(mut from) = from else {
        return;
    };
    loop {
        let mut bytes = vec![0; OUTPUT_BYTES];
        let read = tokio::select! {
            biased;
            read = from.read(&mut bytes) => read,
            () = silence(&mut exited) => return,
        };
        match read {
            Ok(read) if read > 0 => bytes.truncate(read),
            // A terminal whose last user has gone gives an error, not an end.
            Ok(_) | Err(_) => return,
        }
        if to.send(message(bytes.into())).await.is_err() {
            return;
        }
    }
}

async fn silence(exited: &mut watch::Receiver<bool>) {
    // Fails only when the sender is gone, which then tells the same.
    if exited.wait_for(|exited| *exited).await.is_ok() {
        sleep(SILENCE_AFTER_EXIT).await;
    }
}

async fn take(
    mut stdin: Option<Box<dyn AsyncWrite + Send + Unpin>>,
    resize: Option<mpsc::Sender<TerminalSize>>,
    mut inbound: mpsc::Receiver<Inbound>,
) {
    while let Some(message) = inbound.recv().await {
        match message {
            Inbound::Input(bytes) => {
                if let Some(input) = &mut stdin
                    && (input.write_all(&bytes).await.is_err() || input.flush().await.is_err())
                {
                    // The command does not read any more; what it says and how it ends still counts.
                    stdin = None;
                }
            }
            Inbound::InputEnd => {
                if let Some(mut input) = stdin.take()
                    && let Err(error) = input.shutdown().await
                {
                    tracing::debug!(%error, "the input of a command was closed already");
                }
            }
            Inbound::Resize(size) => {
                if let Some(resize) = &resize
                    && resize.try_send(size).is_err()
                {
                    tracing::debug!("a change of the terminal's size was dropped");
                }
            }
        }
    }
}

/// Reads the size of a terminal as clients send it.
pub(super) fn terminal_size(json: &[u8]) -> Option<TerminalSize> {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Size {
        width: u16,
        height: u16,
    }
    let Size { width, height } = serde_json::from_slice(json).ok()?;
    Some(TerminalSize { width, height })
}
