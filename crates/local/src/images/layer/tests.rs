use std::io::Write;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::process::{Command, Stdio};

use rustix::fs::OFlags;

use super::super::tar::tests::Builder;
use super::*;

/// Unpacks an archive that is what it promises to be.
fn unpacked(bytes: &[u8], budget: &mut Budget) -> (tempfile::TempDir, Result<Unpacked, String>) {
    as_promised(bytes, &Digest::of(bytes), budget)
}

fn as_promised(packed: &[u8], diff_id: &Digest, budget: &mut Budget) -> (tempfile::TempDir, Result<Unpacked, String>) {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().canonicalize().unwrap().join("layer");
    std::fs::create_dir(&path).unwrap();
    let open = linux::files::open(&path, OFlags::RDONLY | OFlags::DIRECTORY).unwrap();
    let done = unpack(packed, diff_id, Within::of(open, &path), budget);
    (home, done)
}

fn ample() -> Budget {
    Budget::of(1000, 1 << 20)
}

fn listed(home: &tempfile::TempDir) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![home.path().join("layer")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().flatten() {
            let name = entry.path().strip_prefix(home.path().join("layer")).unwrap().display().to_string();
            let kind = entry.file_type().unwrap();
            found.push(if kind.is_char_device() { format!("-{name}") } else { name });
            folders.extend(Some(entry.path()).filter(|_| kind.is_dir()));
        }
    }
    found.sort();
    found
}

fn is_opaque(home: &tempfile::TempDir, name: &str) -> bool {
    let mut value = [0; 4];
    let path = home.path().join("layer").join(name);
    rustix::fs::getxattr(path, c"trusted.overlay.opaque", &mut value).is_ok_and(|length| &value[..length] == b"y")
}

#[test]
fn a_layer_becomes_a_directory() {
    let bytes = Builder::default()
        .folder("./")
        .folder("/etc/")
        .file("./etc/passwd", "root")
        .mode("usr/bin/su", 0o4755)
        .entry(b'1', "usr/bin/again", "./usr/bin/su", b"")
        .entry(b'2', "bin", "usr/bin", b"")
        .entry(b'6', "run/pipe", "", b"")
        .entry(b'3', "dev/null", "", b"")
        .entry(b'4', "dev/sda", "", b"")
        .pax(&[
            ("SCHILY.xattr.user.kept", "v"),
            ("SCHILY.xattr.trusted.overlay.opaque", "y"),
            ("SCHILY.xattr.user.overlay.x", "y"),
        ])
        .folder("odd")
        .bytes();
    let (home, done) = unpacked(&bytes, &mut ample());
    let done = done.unwrap();
    assert_eq!((done.bytes, done.devices), (4, 2));
    let wanted =
        ["bin", "etc", "etc/passwd", "odd", "run", "run/pipe", "usr", "usr/bin", "usr/bin/again", "usr/bin/su"];
    assert_eq!(listed(&home), wanted);
    let about = std::fs::metadata(home.path().join("layer/usr/bin/again")).unwrap();
    assert_eq!((about.mode() & 0o7777, about.uid(), about.gid(), about.nlink()), (0o4755, 0o14, 0o42, 2));
    let mut names = vec![0; 1000];
    let length = rustix::fs::listxattr(home.path().join("layer/odd"), &mut names).unwrap();
    assert_eq!(&names[..length], b"user.kept\0", "nothing speaks to overlayfs but what hides");
}

#[test]
fn what_hides_is_told_to_overlayfs_in_any_order() {
    let bytes = Builder::default()
        .file("a/.wh.gone", "")
        .file(".wh..wh.plnk", "a note of aufs")
        .file("b/own", "x")
        .file("b/.wh..wh..opq", "")
        .file(".wh.c", "")
        .file("c/new", "a directory in the place of another")
        .file("d/new", "the same in the other order")
        .file(".wh.d", "")
        .file("e", "a file in the place of another")
        .file(".wh.e", "")
        .file("f/.wh.f", "")
        .file("f/f", "")
        .bytes();
    let (home, done) = unpacked(&bytes, &mut ample());
    done.unwrap();
    assert_eq!(listed(&home), ["-a/gone", "a", "b", "b/own", "c", "c/new", "d", "d/new", "e", "f", "f/f"]);
    for (name, opaque) in [("a", false), ("b", true), ("c", true), ("d", true), ("f", false)] {
        assert_eq!(is_opaque(&home, name), opaque, "{name}");
    }
}

#[test]
fn what_leads_out_or_has_no_bound_is_refused() {
    let deep = "d/".repeat(DEEP_MAX + 1);
    let long = format!("{}x", "n".repeat(300));
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("victim"), "precious").unwrap();
    let out = outside.path().to_str().unwrap().to_owned();
    let victim = format!("{out}/victim");
    for (builder, why) in [
        (Builder::default().file("../up", ""), "`..`"),
        (Builder::default().file("a/../../up", ""), "`..`"),
        (Builder::default().file("a/.wh...", ""), "hides no name"),
        (Builder::default().file(".wh.", ""), "hides no name"),
        (Builder::default().entry(b'2', "l", &out, b"").file("l/victim", "x"), "symbolic link"),
        (Builder::default().entry(b'2', "l", &out, b"").folder("l/new/folder"), "symbolic link"),
        (Builder::default().entry(b'2', "l", &out, b"").file("l/.wh.victim", ""), "symbolic link"),
        (Builder::default().entry(b'2', "l", &out, b"").file("l/.wh..wh..opq", ""), "symbolic link"),
        (Builder::default().entry(b'2', "l", &out, b"").entry(b'1', "h", "l/victim", b""), "symbolic link"),
        (Builder::default().entry(b'1', "h", "../victim", b""), "`..`"),
        (Builder::default().entry(b'1', "h", &victim, b""), "not in the same layer"),
        (Builder::default().entry(b'1', "h", ".wh.x", b""), "not in the same layer"),
        (Builder::default().file("f", "").file("f/below", ""), "is a file"),
        (Builder::default().pax(&[("path", &deep)]).folder("d"), "deep"),
        (Builder::default().pax(&[("path", &long)]).file("d", ""), "File name too long"),
        (Builder::default().file("big", &"x".repeat((1 << 20) + 1)), "unpacks to more than"),
        ((0..1001).fold(Builder::default(), |all, at| all.file(&at.to_string(), "")), "more than"),
    ] {
        let (_home, done) = unpacked(&builder.bytes(), &mut ample());
        let said = done.unwrap_err();
        assert!(said.contains(why), "{why}: {said}");
    }
    assert_eq!(std::fs::read_to_string(&victim).unwrap(), "precious");
    assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 1);
    // A link itself is nothing bad, wherever it leads, and gives way to what has its name.
    let links = Builder::default().entry(b'2', "l", &victim, b"").file("l", "own").bytes();
    let (home, done) = unpacked(&links, &mut ample());
    done.unwrap();
    assert_eq!(std::fs::read_to_string(home.path().join("layer/l")).unwrap(), "own");
    assert_eq!(std::fs::read_to_string(&victim).unwrap(), "precious");
}

#[test]
fn content_that_is_not_what_was_promised_is_refused() {
    let bytes = Builder::default().file("a", "content").bytes();
    let (_home, done) = as_promised(&bytes, &Digest::of(b"other"), &mut ample());
    assert!(done.unwrap_err().contains("was promised"));
    // Bytes after the end of the archive are content as well.
    let longer = [bytes.clone(), b"more".to_vec()].concat();
    let (_home, done) = as_promised(&longer, &Digest::of(&bytes), &mut ample());
    assert!(done.unwrap_err().contains("was promised"));
    let (_home, done) = unpacked(&longer, &mut ample());
    done.unwrap();
}

/// The output of a program that packs what it is given.
fn packed(program: &[&str], bytes: &[u8]) -> Vec<u8> {
    let mut child =
        Command::new(program[0]).args(&program[1..]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(bytes).unwrap();
    child.wait_with_output().unwrap().stdout
}

#[test]
fn gzip_and_zstd_are_unpacked_also_in_several_parts() {
    let bytes = Builder::default().file("a", &"content ".repeat(10_000)).bytes();
    let diff_id = Digest::of(&bytes);
    let (first, second) = bytes.split_at(1000);
    let gzip = |part: &[u8]| packed(&["gzip", "-c"], part);
    let zstd = |part: &[u8]| packed(&["zstd", "-c", "-q"], part);
    // A frame that readers pass over, with five bytes.
    let note = [0x5e, 0x2a, 0x4d, 0x18, 5, 0, 0, 0, 1, 2, 3, 4, 5].as_slice();
    for (what, all) in [
        ("plain", bytes.clone()),
        ("gzip", gzip(&bytes)),
        ("gzip in two members", [gzip(first), gzip(second)].concat()),
        ("zstd", zstd(&bytes)),
        ("zstd in two frames", [zstd(first), note.to_vec(), zstd(second), note.to_vec()].concat()),
        ("zstd after a note", [note.to_vec(), zstd(&bytes)].concat()),
    ] {
        let (_home, done) = as_promised(&all, &diff_id, &mut ample());
        assert_eq!(done.map(|done| done.bytes), Ok(80_000), "{what}");
        // Cut off: what is missing is noticed, whatever was unpacked by then.
        let (_home, done) = as_promised(&all[..all.len() - 20], &diff_id, &mut ample());
        assert!(done.is_err() || what.ends_with("note") || what.contains("frames"), "{what}");
    }
}

#[test]
fn a_bomb_ends_at_the_bound() {
    // 64 MiB of nothing in some kilobytes, and such a layer says the truth about itself.
    let bytes = Builder::default().file("zeros", &"\0".repeat(64 << 20)).bytes();
    for program in [["gzip", "-9"], ["zstd", "-q"]] {
        let bomb = packed(&program, &bytes);
        assert!(bomb.len() < 128 * 1024, "{program:?}: {}", bomb.len());
        let (home, done) = as_promised(&bomb, &Digest::of(&bytes), &mut ample());
        assert!(done.unwrap_err().contains("unpacks to more than"), "{program:?}");
        let written = std::fs::metadata(home.path().join("layer/zeros")).unwrap().len();
        assert!(written <= 1 << 20, "{program:?}: {written}");
    }
}
