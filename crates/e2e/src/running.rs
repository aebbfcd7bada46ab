//! A command that goes on running while the test does other things: what it says is read as it comes.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

/// How long a line may be waited for: on the local mesh everything is told at once, but test machines are slow.
const LINE_MAX: Duration = Duration::from_secs(15);

/// A running command; ended when dropped.
#[derive(Debug)]
pub struct Running {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    said: Vec<String>,
}

fn read(source: Option<impl Read + Send + 'static>, to: Sender<String>) {
    let Some(source) = source else { return };
    std::thread::spawn(move || {
        for line in BufReader::new(source).lines().map_while(Result::ok) {
            if to.send(line).is_err() {
                return;
            }
        }
    });
}

impl Running {
    /// Takes a child with pipes; both of its streams are read.
    pub fn of(mut child: Child) -> Self {
        let (to, lines) = channel();
        read(child.stdout.take(), to.clone());
        read(child.stderr.take(), to);
        let stdin = child.stdin.take();
        Self { child, stdin, lines, said: Vec::new() }
    }

    /// Writes a line to its standard input.
    pub fn send(&mut self, line: &str) {
        let stdin = self.stdin.as_mut();
        // One that has ended reads nothing; the test asks for what it says.
        drop(stdin.map(|stdin| stdin.write_all(format!("{line}\n").as_bytes()).and_then(|()| stdin.flush())));
    }

    /// Ends its standard input.
    pub fn end_input(&mut self) {
        self.stdin = None;
    }

    /// The next line that holds all of these words.
    pub fn until(&mut self, words: &[&str]) -> String {
        self.until_within(words, LINE_MAX)
    }

    /// The same with another bound.
    pub fn until_within(&mut self, words: &[&str], bound: Duration) -> String {
        let give_up = Instant::now() + bound;
        loop {
            match self.lines.recv_timeout(give_up.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    self.said.push(line.clone());
                    if words.iter().all(|word| line.contains(word)) {
                        return line;
                    }
                }
                Err(why) => panic!("{words:?} is not said ({why}); said: {:#?}", self.said),
            }
        }
    }

    /// Whether a line that holds all of these words comes within a time.
    pub fn try_line(&mut self, words: &[&str], bound: Duration) -> bool {
        let give_up = Instant::now() + bound;
        while let Ok(line) = self.lines.recv_timeout(give_up.saturating_duration_since(Instant::now())) {
            self.said.push(line.clone());
            if words.iter().all(|word| line.contains(word)) {
                return true;
            }
        }
        false
    }

    /// Waits for its end, and returns its exit code with everything it has said.
    pub fn ends(&mut self) -> (Option<i32>, String) {
        let give_up = Instant::now() + LINE_MAX;
        loop {
            match self.lines.recv_timeout(give_up.saturating_duration_since(Instant::now())) {
                Ok(line) => self.said.push(line),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => panic!("it does not end; said: {:#?}", self.said),
            }
        }
        // Both streams are closed: what is left is its exit.
        let status = self.child.wait().unwrap_or_else(|error| panic!("waiting: {error}"));
        (status.code(), self.said.join("\n"))
    }

    /// Everything that has been read by `until` so far.
    pub fn said(&self) -> &[String] {
        &self.said
    }

    /// The process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether a line is answered as the echo server does.
    pub fn echoes(&mut self, word: &str) -> bool {
        self.send(word);
        self.until(&[word]) == format!("hello {word}")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
