//! Reading what a container printed.

use std::fs::File;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use linux::files::open_to_read;

/// What of a log is wanted.
#[derive(Debug, Clone, Copy, Default)]
pub struct Selection {
    /// Only the last lines.
    pub tail: Option<u64>,
    /// Only what was printed at or after this time.
    pub since: Option<Timestamp>,
    /// The time before each line.
    pub timestamps: bool,
}

/// Where a full log is put aside.
pub(super) fn aside(path: &Path) -> PathBuf {
    path.with_extension("log.1")
}

/// What of a log there is now, as text.
pub fn read(path: &Path, selection: Selection) -> Vec<u8> {
    let files = [aside(path), path.to_owned()].into_iter().filter_map(|path| open_to_read(&path).ok());
    select(files.flat_map(super::lines), selection)
}

/// What of these lines is wanted, as text.
pub(crate) fn select(lines: impl Iterator<Item = Vec<u8>>, selection: Selection) -> Vec<u8> {
    let mut entries: Vec<Entry> = Vec::new();
    for line in lines {
        let Some(entry) = Entry::parse(&line) else { continue };
        if selection.since.is_some_and(|since| entry.time < since) {
            continue;
        }
        // Parts of one line belong together.
        match entries.last_mut() {
            Some(last) if !last.whole => last.join(entry),
            _ => entries.push(entry),
        }
    }
    let skipped =
        selection.tail.map_or(0, |tail| entries.len().saturating_sub(usize::try_from(tail).unwrap_or(usize::MAX)));
    entries.iter().skip(skipped).flat_map(|entry| entry.text(selection.timestamps)).collect()
}

/// What was appended to a log since it was last asked.
#[derive(Debug)]
pub struct Follower {
    path: PathBuf,
    /// The file being read: a log that is put aside is read to its end before the new one.
    file: Option<File>,
    rest: Vec<u8>,
    timestamps: bool,
}

impl Follower {
    /// Follows a log from its present end.
    pub fn at_end(path: &Path, timestamps: bool) -> Self {
        let mut file = open_to_read(path).ok();
        if let Some(open) = &mut file {
            // A log that cannot be sought is read from its beginning.
            drop(std::io::Seek::seek(open, std::io::SeekFrom::End(0)));
        }
        Self { path: path.to_owned(), file, rest: Vec::new(), timestamps }
    }

    /// Follows a log from its beginning.
    pub fn at_beginning(path: &Path, timestamps: bool) -> Self {
        Self { path: path.to_owned(), file: open_to_read(path).ok(), rest: Vec::new(), timestamps }
    }

    /// What has come since, as text; empty if nothing.
    pub fn more(&mut self) -> Vec<u8> {
        let mut text = Vec::new();
        self.read_open(&mut text);
        if self.is_replaced() {
            self.read_open(&mut text);
            self.file = open_to_read(&self.path).ok();
            self.read_open(&mut text);
        }
        text
    }

    fn read_open(&mut self, text: &mut Vec<u8>) {
        let Some(file) = &mut self.file else { return };
        // What cannot be read now is read the next time.
        drop(std::io::Read::read_to_end(file, &mut self.rest));
        while let Some(end) = self.rest.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = self.rest.drain(..=end).collect();
            if let Some(entry) = Entry::parse(line.strip_suffix(b"\n").unwrap_or(&line)) {
                text.extend(entry.text(self.timestamps));
            }
        }
    }

    fn is_replaced(&self) -> bool {
        use std::os::unix::fs::MetadataExt;
        let Ok(named) = std::fs::metadata(&self.path) else { return false };
        match self.file.as_ref().map(File::metadata) {
            Some(Ok(open)) => (open.dev(), open.ino()) != (named.dev(), named.ino()),
            _ => true,
        }
    }
}

struct Entry {
    time: Timestamp,
    stamp: String,
    whole: bool,
    message: Vec<u8>,
}

impl Entry {
    fn parse(line: &[u8]) -> Option<Self> {
        let mut fields = line.splitn(4, |&byte| byte == b' ');
        let stamp = String::from_utf8(fields.next()?.to_vec()).ok()?;
        let time = stamp.parse().ok()?;
        let _stream = fields.next()?;
        let whole = fields.next()? == b"F";
        Some(Self { time, stamp, whole, message: fields.next()?.to_vec() })
    }

    fn join(&mut self, next: Self) {
        self.message.extend(next.message);
        self.whole = next.whole;
    }

    fn text(&self, timestamps: bool) -> Vec<u8> {
        let mut text = Vec::new();
        if timestamps {
            text.extend_from_slice(self.stamp.as_bytes());
            text.push(b' ');
        }
        text.extend_from_slice(&self.message);
        if self.whole {
            text.push(b'\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    const LOG: &str = "2026-01-02T03:04:05.000000001Z stdout F one\n\
        2026-01-02T03:04:06.000000001Z stderr P tw\n\
        2026-01-02T03:04:06.000000002Z stderr F o\n\
        2026-01-02T03:04:07.000000001Z stdout F three\n";

    #[test]
    fn selections() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("0.log");
        std::fs::write(&path, LOG).unwrap();
        let read = |selection| String::from_utf8(read(&path, selection)).unwrap();
        assert_eq!(read(Selection::default()), "one\ntwo\nthree\n");
        assert_eq!(read(Selection { tail: Some(1), ..Selection::default() }), "three\n");
        assert_eq!(read(Selection { tail: Some(0), ..Selection::default() }), "");
        let since = "2026-01-02T03:04:06Z".parse().ok();
        assert_eq!(read(Selection { since, ..Selection::default() }), "two\nthree\n");
        let stamped = read(Selection { tail: Some(1), timestamps: true, ..Selection::default() });
        assert_eq!(stamped, "2026-01-02T03:04:07.000000001Z three\n");
    }

    #[test]
    fn a_follower_crosses_from_a_full_log_to_the_next() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("0.log");
        std::fs::write(&path, LOG).unwrap();
        let mut follower = Follower::at_end(&path, false);
        assert!(follower.more().is_empty());
        let mut old = std::fs::OpenOptions::new().append(true).open(&path).unwrap();
        old.write_all(b"2026-01-02T03:04:08.000000001Z stdout F four\n").unwrap();
        std::fs::rename(&path, aside(&path)).unwrap();
        std::fs::write(&path, "2026-01-02T03:04:09.000000001Z stdout F five\n").unwrap();
        assert_eq!(follower.more(), b"four\nfive\n");
        assert!(follower.more().is_empty());
    }
}
