use super::*;

/// Writes archives, also such as no builder would write.
#[derive(Debug, Default)]
pub(crate) struct Builder(Vec<u8>);

impl Builder {
    /// An entry of any kind.
    pub(crate) fn entry(mut self, kind: u8, name: &str, link: &str, content: &[u8]) -> Self {
        self.put(kind, name, link, content, 0o755);
        self
    }

    pub(crate) fn file(self, name: &str, content: &str) -> Self {
        self.entry(b'0', name, "", content.as_bytes())
    }

    pub(crate) fn folder(self, name: &str) -> Self {
        self.entry(b'5', name, "", b"")
    }

    /// A file with this mode.
    pub(crate) fn mode(mut self, name: &str, mode: u32) -> Self {
        self.put(b'0', name, "", b"", mode);
        self
    }

    /// A PAX header for the entry that follows.
    pub(crate) fn pax(self, records: &[(&str, &str)]) -> Self {
        let record = |(key, value): &(&str, &str)| {
            let rest = key.len() + value.len() + 3;
            let length = (1..9).map(|digits| rest + digits).find(|length| length.to_string().len() + rest == *length);
            format!("{} {key}={value}\n", length.unwrap())
        };
        let text: String = records.iter().map(record).collect();
        self.entry(b'x', "pax", "", text.as_bytes())
    }

    pub(crate) fn bytes(mut self) -> Vec<u8> {
        self.0.extend_from_slice(&[0; 2 * BLOCK]);
        self.0
    }

    fn put(&mut self, kind: u8, name: &str, link: &str, content: &[u8], mode: u32) {
        let mut header = [0_u8; BLOCK];
        let mut set = |at: usize, text: &[u8]| header[at..at + text.len()].copy_from_slice(text);
        set(0, &name.as_bytes()[..name.len().min(100)]);
        set(100, format!("{mode:07o}").as_bytes());
        set(108, b"0000014");
        set(116, b"0000042");
        set(124, format!("{:011o}", content.len()).as_bytes());
        set(136, b"07346545000");
        set(148, b"        ");
        set(156, &[kind]);
        set(157, &link.as_bytes()[..link.len().min(100)]);
        set(257, b"ustar\x0000");
        let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.0.extend_from_slice(&header);
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().next_multiple_of(BLOCK), 0);
    }
}

fn all(bytes: &[u8]) -> io::Result<Vec<(Entry, Vec<u8>)>> {
    let mut archive = Archive::new(bytes);
    let mut found = Vec::new();
    while let Some(entry) = archive.next()? {
        let mut content = Vec::new();
        archive.read_to_end(&mut content)?;
        found.push((entry, content));
    }
    Ok(found)
}

#[test]
fn entries_are_read_as_they_were_written() {
    let long = format!("{}/end", "long".repeat(100));
    let bytes = Builder::default()
        .folder("d/")
        .file("d/f", "content")
        .entry(b'2', "l", "target", b"")
        .entry(b'1', "h", "d/f", b"")
        .entry(b'6', "p", "", b"")
        .entry(b'3', "c", "", b"")
        .entry(b'L', "././@LongLink", "", format!("{long}\0").as_bytes())
        .entry(b'K', "././@LongLink", "", format!("{long}x\0").as_bytes())
        .entry(b'2', "cut", "cut", b"")
        .pax(&[("path", &long), ("uid", "70000"), ("gid", "1"), ("mtime", "12.75"), ("SCHILY.xattr.user.a", "b=c\n")])
        .file("short", "x")
        .file("plain", "")
        .entry(0, "old/", "", b"")
        .bytes();
    let found = all(&bytes).unwrap();
    let told: Vec<_> =
        found.iter().map(|(entry, _)| (entry.kind, String::from_utf8_lossy(&entry.name).into_owned())).collect();
    let wanted = [
        (Kind::Directory, "d/"),
        (Kind::File, "d/f"),
        (Kind::SymbolicLink, "l"),
        (Kind::HardLink, "h"),
        (Kind::Pipe, "p"),
        (Kind::Device, "c"),
        (Kind::SymbolicLink, &long),
        (Kind::File, &long),
        (Kind::File, "plain"),
        (Kind::Directory, "old/"),
    ];
    assert_eq!(told, wanted.map(|(kind, name)| (kind, name.to_owned())));
    assert_eq!(found[1].1, b"content");
    assert_eq!(
        (found[1].0.mode, found[1].0.uid, found[1].0.gid, found[1].0.changed),
        (0o755, 0o14, 0o42, 1_000_000_000)
    );
    assert_eq!(found[6].0.link, format!("{long}x").into_bytes());
    let pax = &found[7].0;
    assert_eq!((pax.uid, pax.gid, pax.changed), (70_000, 1, 12));
    assert_eq!(pax.attributes, [(b"user.a".to_vec(), b"b=c\n".to_vec())]);
    assert_eq!(found[8].0.attributes, [], "what a header says is said of one entry");
}

#[test]
fn archives_of_the_systems_own_tar_are_read() {
    let home = tempfile::tempdir().unwrap();
    let long = "n".repeat(120);
    std::fs::write(home.path().join(&long), vec![7; 100_000]).unwrap();
    std::os::unix::fs::symlink("somewhere", home.path().join("link")).unwrap();
    for format in ["gnu", "pax", "ustar", "v7"] {
        let name = if format == "v7" { "link" } else { "." };
        let mut command = std::process::Command::new("tar");
        let made = command
            .args(["-c", "-f", "-", &format!("--format={format}"), name])
            .current_dir(home.path())
            .output()
            .unwrap();
        // ustar cannot write the long name, and says so.
        let found = all(&made.stdout).unwrap();
        assert!(
            found.iter().any(|(entry, _)| entry.kind == Kind::SymbolicLink && entry.link == b"somewhere"),
            "{format}"
        );
        let is_long =
            |(entry, content): &(Entry, Vec<u8>)| entry.name.ends_with(long.as_bytes()) && *content == vec![7; 100_000];
        assert_eq!(found.iter().any(is_long), matches!(format, "gnu" | "pax"), "{format}");
    }
}

#[test]
fn what_is_broken_or_boundless_is_refused() {
    let whole = Builder::default().file("a", "content").bytes();
    let mut flipped = whole.clone();
    flipped[3] ^= 1;
    let huge = "x".repeat(usize::try_from(HEADER_BYTES_MAX).unwrap() + 1);
    let name = "y".repeat(NAME_BYTES_MAX + 1);
    for (bytes, why) in [
        (flipped, "check sum"),
        (whole[..100].to_vec(), "middle of a header"),
        (whole[..514].to_vec(), "middle of an entry"),
        (whole[..600].to_vec(), "middle of an entry"),
        (Builder::default().entry(b'S', "a", "", b"").bytes(), "sparse"),
        (Builder::default().pax(&[("GNU.sparse.major", "1")]).file("a", "").bytes(), "sparse"),
        (Builder::default().entry(b'Z', "a", "", b"").bytes(), "unknown kind"),
        (Builder::default().entry(b'x', "a", "", b"nonsense").bytes(), "PAX record"),
        (Builder::default().entry(b'x', "a", "", b"99 a=b\n").bytes(), "PAX record"),
        (Builder::default().entry(b'x', "a", "", b"2 ").bytes(), "PAX record"),
        (Builder::default().entry(b'x', "a", "", b"10 size=-1\n").bytes(), "PAX record"),
        (Builder::default().entry(b'x', "a", "", huge.as_bytes()).bytes(), "longer than"),
        (Builder::default().pax(&[("path", &name)]).file("a", "").bytes(), "longer than"),
    ] {
        let said = all(&bytes).unwrap_err().to_string();
        assert!(said.contains(why), "{why}: {said}");
    }
    // Archives that just stop are written by some tools.
    assert_eq!(all(&whole[..1024]).unwrap().len(), 1);
    assert_eq!(all(b"").unwrap().len(), 0);
}

#[test]
fn numbers_have_two_forms() {
    for (field, wanted) in [
        (b"0000017\0".as_slice(), Some(15)),
        (b"     17 ", Some(15)),
        (b"        ", Some(0)),
        (b"\x80\0\0\0\0\0\x01\x01", Some(257)),
        (b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", None),
        (b"0000019\0", None),
        (b"77777777777777777777777777777", None),
    ] {
        assert_eq!(number(field), wanted, "{field:?}");
    }
}

proptest::proptest! {
    #[test]
    fn any_bytes_are_read_to_an_end(changes in proptest::collection::vec((0..4096_usize, proptest::num::u8::ANY), 0..12), cut in 0..5000_usize) {
        let mut bytes = Builder::default()
            .folder("d/")
            .pax(&[("path", "long/name"), ("size", "7"), ("SCHILY.xattr.user.a", "b")])
            .file("d/f", "content")
            .entry(b'L', "././@LongLink", "", b"another/long/name\0")
            .entry(b'1', "h", "d/f", b"")
            .bytes();
        for (at, byte) in changes {
            // Bytes of headers are found again by their check sum, those of content are not.
            if let Some(place) = bytes.get_mut(at) {
                *place = byte;
            }
        }
        bytes.truncate(cut);
        drop(all(&bytes));
    }
}
