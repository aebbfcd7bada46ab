use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::io::{DuplexStream, ReadHalf, WriteHalf, duplex, split};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::*;

const PATIENCE: Duration = Duration::from_secs(10);

/// A client; port 1 echoes, port 2 is closed, port 3 says something and ends.
struct Client {
    reader: FrameReader<ReadHalf<DuplexStream>>,
    writer: FrameWriter,
    sink: WriteHalf<DuplexStream>,
    task: JoinHandle<()>,
}

fn dial(port: u16) -> Dialled {
    async move {
        let (near, far) = duplex(1024);
        match port {
            2 => return Err(Status::bad_request("port 2 is closed")),
            3 => drop(tokio::spawn(async move {
                let mut far = far;
                far.write_all(b"bye").await.unwrap();
            })),
            _ => drop(tokio::spawn(async move {
                let (mut from, mut to) = split(far);
                tokio::io::copy(&mut from, &mut to).await.unwrap();
                to.shutdown().await.unwrap();
            })),
        }
        let (reader, writer) = split(near);
        Ok(Forwarded { reader: Box::new(reader), writer: Box::new(writer) })
    }
    .boxed()
}

impl Client {
    fn start() -> Self {
        let (near, far) = duplex(64 * 1024);
        let task = tokio::spawn(serve(far, dial));
        let (source, sink) = split(near);
        Self { reader: FrameReader::over(source), writer: FrameWriter::start().unwrap(), sink, task }
    }

    async fn send(&mut self, frame: &[u8]) {
        self.sink.write_all(frame).await.unwrap();
    }

    async fn open(&mut self, stream: u32, kind: &str, port: &str, id: &str) {
        let headers = [("streamtype", kind), ("port", port), ("requestid", id)];
        let frame = self.writer.open(stream, &headers).unwrap();
        self.send(&frame).await;
    }

    /// What comes until a stream ends, without frames that ask for nothing: stream and bytes.
    async fn until_end(&mut self, wanted: u32) -> Vec<(u32, Vec<u8>)> {
        let mut said: Vec<(u32, Vec<u8>)> = Vec::new();
        loop {
            let frame = timeout(PATIENCE, self.reader.next()).await.expect("in time").unwrap().expect("a frame");
            match frame {
                Frame::Data { stream, bytes, fin } => {
                    match said.iter_mut().find(|(one, _)| *one == stream) {
                        Some((_, all)) => all.extend_from_slice(&bytes),
                        None => said.push((stream, bytes.to_vec())),
                    }
                    if fin && stream == wanted {
                        return said;
                    }
                }
                Frame::Reset { stream } if stream == wanted => return vec![(stream, b"reset".to_vec())],
                _ => {}
            }
        }
    }
}

#[tokio::test]
async fn connections_are_carried_both_ways_to_their_last_byte() {
    let mut client = Client::start();
    for (error, data) in [(1, 3), (5, 7)] {
        client.open(error, "error", "1", &error.to_string()).await;
        client.send(&spdy::data(error, &[], true)).await;
        client.open(data, "data", "1", &error.to_string()).await;
    }
    client.send(&spdy::data(7, b"second", true)).await;
    assert_eq!(client.until_end(5).await, [(7, b"second".to_vec()), (5, Vec::new())]);
    client.send(&spdy::data(3, b"first", false)).await;
    client.send(&spdy::ping(9)).await;
    client.send(&spdy::data(3, b" of two", true)).await;
    assert_eq!(client.until_end(1).await, [(3, b"first of two".to_vec()), (1, Vec::new())]);
    // The client leaves: nothing of it is left running.
    drop((client.reader, client.sink));
    timeout(PATIENCE, client.task).await.expect("it ends").unwrap();
}

#[tokio::test]
async fn what_goes_wrong_is_told_on_the_stream_for_it_and_the_others_go_on() {
    let mut client = Client::start();
    client.open(1, "data", "2", "a").await;
    client.open(3, "error", "2", "a").await;
    assert_eq!(client.until_end(3).await, [(1, Vec::new()), (3, b"port 2 is closed".to_vec())]);
    // A pod that has said all ends the connection, whatever the client still wants to say.
    client.open(5, "error", "3", "b").await;
    client.open(7, "data", "3", "b").await;
    assert_eq!(client.until_end(5).await, [(7, b"bye".to_vec()), (5, Vec::new())]);
    for (stream, kind, port, id) in [(9, "other", "1", "c"), (11, "data", "0", "c"), (13, "data", "x", "c")] {
        client.open(stream, kind, port, id).await;
        assert_eq!(client.until_end(stream).await, [(stream, b"reset".to_vec())], "{kind} {port}");
    }
}

#[tokio::test]
async fn a_client_has_a_bounded_number_of_connections() {
    let mut client = Client::start();
    let mut stream = 1;
    for connection in 0..CONNECTIONS_MAX {
        client.open(stream, "error", "1", &connection.to_string()).await;
        client.open(stream + 2, "data", "1", &connection.to_string()).await;
        stream += 4;
    }
    client.open(stream, "data", "1", "one too many").await;
    assert_eq!(client.until_end(stream).await, [(stream, b"reset".to_vec())]);
    // The end of one makes room for another.
    client.send(&spdy::data(3, &[], true)).await;
    client.until_end(1).await;
    client.open(stream + 2, "data", "1", "again").await;
    client.open(stream + 4, "error", "1", "again").await;
    client.send(&spdy::data(stream + 2, b"x", true)).await;
    assert_eq!(client.until_end(stream + 4).await, [(stream + 2, b"x".to_vec()), (stream + 4, Vec::new())]);
}
