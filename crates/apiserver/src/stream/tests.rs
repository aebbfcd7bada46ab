use std::time::Duration;

use bytes::Bytes;
use futures_util::{FutureExt as _, SinkExt as _, StreamExt as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::spdy::{Frame, FrameReader, FrameWriter, data, ping};
use super::spdy_session::Wanted;
use super::websocket::Version;
use super::{spdy_session, websocket};
use crate::{ExecSession, TerminalSize};

const PATIENCE: Duration = Duration::from_secs(10);

/// The container's side of a session.
struct Command {
    stdin: DuplexStream,
    stdout: Option<DuplexStream>,
    stderr: Option<DuplexStream>,
    sizes: mpsc::Receiver<TerminalSize>,
    exit: Option<oneshot::Sender<i32>>,
}

fn command() -> (ExecSession, Command) {
    let (stdin, stdin_end) = duplex(1024);
    let (stdout, stdout_end) = duplex(1024);
    let (stderr, stderr_end) = duplex(1024);
    let (resize, sizes) = mpsc::channel(4);
    let (exit, exited) = oneshot::channel();
    let session = ExecSession {
        stdin: Some(Box::new(stdin)),
        stdout: Some(Box::new(stdout)),
        stderr: Some(Box::new(stderr)),
        resize: Some(resize),
        exit: async move { exited.await.map_err(|_| api::Status::internal("lost")) }.boxed(),
    };
    (session, Command { stdin: stdin_end, stdout: Some(stdout_end), stderr: Some(stderr_end), sizes, exit: Some(exit) })
}

impl Command {
    /// Ends with a code, and with it its outputs.
    fn end(&mut self, code: i32) {
        self.stdout = None;
        self.stderr = None;
        self.exit.take().unwrap().send(code).unwrap();
    }
}

async fn sockets(version: Version) -> (WebSocketStream<DuplexStream>, Command, JoinHandle<()>) {
    let (client, server) = duplex(64 * 1024);
    let (session, command) = command();
    let task = tokio::spawn(websocket::serve(server, version, session));
    (WebSocketStream::from_raw_socket(client, Role::Client, None).await, command, task)
}

fn binary(bytes: &'static [u8]) -> Message {
    Message::Binary(Bytes::from_static(bytes))
}

async fn next(socket: &mut WebSocketStream<DuplexStream>) -> Message {
    timeout(PATIENCE, socket.next()).await.expect("a message").expect("open").expect("well formed")
}

#[tokio::test]
async fn a_command_over_websocket_from_input_to_exit_code() {
    let (mut socket, mut command, task) = sockets(Version::V5).await;
    socket.send(binary(b"\x00in")).await.unwrap();
    socket.send(binary(b"\x04{\"Width\":80,\"Height\":24}")).await.unwrap();
    socket.send(binary(b"\x04nonsense")).await.unwrap();
    socket.send(binary(b"")).await.unwrap();
    socket.send(binary(b"\x63unknown channel")).await.unwrap();
    socket.send(binary(b"\xff\x00")).await.unwrap();
    let mut input = String::new();
    timeout(PATIENCE, command.stdin.read_to_string(&mut input)).await.expect("the end of the input").unwrap();
    assert_eq!(input, "in");
    assert_eq!(command.sizes.recv().await, Some(TerminalSize { width: 80, height: 24 }));
    socket.send(Message::Ping("p".into())).await.unwrap();
    assert_eq!(next(&mut socket).await, Message::Pong("p".into()));
    command.stdout.as_mut().unwrap().write_all(b"out").await.unwrap();
    assert_eq!(next(&mut socket).await, binary(b"\x01out"));
    command.stderr.as_mut().unwrap().write_all(b"err").await.unwrap();
    assert_eq!(next(&mut socket).await, binary(b"\x02err"));
    command.end(3);
    let end = next(&mut socket).await.into_data();
    let status: serde_json::Value = serde_json::from_slice(&end[1..]).unwrap();
    assert_eq!(
        (end[0], &status["reason"], &status["details"]["causes"][0]["message"]),
        (3, &"NonZeroExitCode".into(), &"3".into())
    );
    assert!(matches!(next(&mut socket).await, Message::Close(Some(frame)) if u16::from(frame.code) == 1000));
    timeout(PATIENCE, task).await.expect("the end").unwrap();
}

#[tokio::test]
async fn in_version_4_nothing_closes_the_input() {
    let (mut socket, mut command, _task) = sockets(Version::V4).await;
    socket.send(binary(b"\xff\x00")).await.unwrap();
    socket.send(binary(b"\x00x")).await.unwrap();
    let mut input = [0; 1];
    timeout(PATIENCE, command.stdin.read_exact(&mut input)).await.expect("input").unwrap();
    assert_eq!(&input, b"x");
    command.end(0);
    let end = next(&mut socket).await.into_data();
    assert_eq!(serde_json::from_slice::<serde_json::Value>(&end[1..]).unwrap()["status"], "Success");
}

#[tokio::test]
async fn a_client_that_leaves_takes_the_session_with_it() {
    for rude in [true, false] {
        let (mut socket, mut command, task) = sockets(Version::V5).await;
        if rude {
            drop(socket);
        } else {
            socket.close(None).await.unwrap();
        }
        timeout(PATIENCE, task).await.expect("the end").unwrap();
        assert!(command.exit.take().unwrap().is_closed(), "the command's owner sees that nobody waits");
    }
}

#[tokio::test]
async fn oversized_messages_end_the_connection() {
    let (mut socket, _command, task) = sockets(Version::V5).await;
    let large = Message::Binary(vec![0; (1 << 20) + 1].into());
    // The server may close before all of it is sent.
    drop(timeout(PATIENCE, socket.send(large)).await.expect("an end to sending"));
    timeout(PATIENCE, task).await.expect("the end").unwrap();
}

const WANTED: Wanted = Wanted { stdin: true, stdout: true, stderr: true, resize: true };

fn spdy(wanted: Wanted) -> (DuplexStream, Command, JoinHandle<()>) {
    let (client, server) = duplex(64 * 1024);
    let (session, command) = command();
    (client, command, tokio::spawn(spdy_session::serve(server, wanted, session)))
}

#[tokio::test]
async fn a_command_over_spdy_from_input_to_exit_code() {
    let (client, mut command, task) = spdy(WANTED);
    let (source, mut sink) = tokio::io::split(client);
    let (mut reader, mut frames) = (FrameReader::over(source), FrameWriter::start().unwrap());
    for (stream, kind) in
        [(1, "error"), (3, "stdin"), (5, "stdout"), (7, "stderr"), (9, "resize"), (11, "unknown"), (13, "stdin")]
    {
        sink.write_all(&frames.open(stream, &[("streamType", kind)]).unwrap()).await.unwrap();
    }
    for bytes in [
        data(9, b"{\"Width\":80,\"Height\":24}", false),
        data(3, b"in", false),
        data(99, b"nowhere", true),
        data(3, b"", true),
        ping(1),
    ] {
        sink.write_all(&bytes).await.unwrap();
    }
    let mut input = String::new();
    timeout(PATIENCE, command.stdin.read_to_string(&mut input)).await.expect("the end of the input").unwrap();
    assert_eq!(input, "in");
    assert_eq!(command.sizes.recv().await, Some(TerminalSize { width: 80, height: 24 }));
    command.stdout.as_mut().unwrap().write_all(b"out").await.unwrap();
    let mut told = Vec::new();
    while told.last() != Some(&Frame::Data { stream: 5, bytes: "out".into(), fin: false }) {
        told.push(timeout(PATIENCE, reader.next()).await.expect("a frame").unwrap().expect("open"));
    }
    for expected in [Frame::Reset { stream: 11 }, Frame::Reset { stream: 13 }, Frame::Ping { id: 1 }] {
        assert!(told.contains(&expected), "{expected:?} in {told:?}");
    }
    command.end(0);
    let mut last = Vec::new();
    while let Some(frame) = timeout(PATIENCE, reader.next()).await.expect("a frame").unwrap() {
        last.push(frame);
    }
    let ends = |stream| Frame::Data { stream, bytes: Bytes::new(), fin: true };
    assert_eq!(last[..2], [ends(5), ends(7)]);
    let Frame::Data { stream: 1, fin: true, bytes } = &last[2] else { panic!("{last:?}") };
    assert_eq!(serde_json::from_slice::<serde_json::Value>(bytes).unwrap()["status"], "Success");
    assert_eq!(last[3..], [Frame::GoAway]);
    timeout(PATIENCE, task).await.expect("the end").unwrap();
}

#[tokio::test]
async fn a_spdy_client_that_leaves_or_lies_takes_the_session_with_it() {
    for bytes in [&b""[..], &[0x80, 2, 0, 1, 0, 0, 0, 0], &[0xff; 64], &[0, 0, 0, 3, 0, 0, 1]] {
        let (mut client, mut command, task) = spdy(WANTED);
        client.write_all(bytes).await.unwrap();
        drop(client);
        timeout(PATIENCE, task).await.expect("the end").unwrap();
        assert!(command.exit.take().unwrap().is_closed());
    }
}

#[tokio::test]
async fn a_spdy_client_that_speaks_before_its_streams_are_open_is_not_waited_for() {
    let (mut client, _command, server) = spdy(Wanted { stdin: true, stdout: true, stderr: false, resize: false });
    let mut writer = FrameWriter::start().unwrap();
    client.write_all(&writer.open(3, &[("streamtype", "stdin")]).unwrap()).await.unwrap();
    for _ in 0..100 {
        client.write_all(&data(3, b"x", false)).await.unwrap();
    }
    timeout(PATIENCE, server).await.unwrap().unwrap();
}
