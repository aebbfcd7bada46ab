use std::path::Path;
use std::process::Command;

use super::{Bounds, Hierarchy, hierarchies, join, make, make_in, remove};

const SMALL: Bounds = Bounds { processes: 8, memory_bytes: 32 << 20 };
const LARGE: Bounds = Bounds { processes: 100, memory_bytes: 64 << 20 };

#[test]
fn hierarchies_are_read_from_the_list_of_mounts() {
    let found = |listed: &str| -> Vec<(String, bool, String)> {
        let line = |one: Hierarchy| (one.root.display().to_string(), one.unified, one.controllers.join("+"));
        hierarchies(listed).into_iter().map(line).collect()
    };
    let row = |root: &str, unified, controllers: &str| (root.to_owned(), unified, controllers.to_owned());
    assert_eq!(
        found(
            "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n\
             36 31 0:33 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:9 - cgroup cgroup rw,cpu,cpuacct\n\
             41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate\n"
        ),
        [row("/sys/fs/cgroup/cpu,cpuacct", false, "rw+cpu+cpuacct"), row("/sys/fs/cgroup/unified", true, "")]
    );
    assert_eq!(found("garbage\n\n1 - cgroup"), []);
}

/// A folder in place of a hierarchy: what is written where, on a version that this machine may not have.
#[test]
fn each_version_is_told_in_its_own_words() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().to_owned();
    let read = |name: &str| std::fs::read_to_string(root.join(name)).unwrap_or_default();
    let controllers = ["pids", "memory", "cpu"].map(str::to_owned).to_vec();
    let unified = Hierarchy { root: root.clone(), unified: true, controllers };
    std::fs::write(root.join("cgroup.subtree_control"), "cpu memory pids").unwrap();
    let made = make_in(&[unified], ("mesh", LARGE), ("pod", SMALL));
    assert_eq!((made.folders, made.lacks), (vec![root.join("mesh/pod")], Vec::new()));
    assert_eq!(read("cgroup.subtree_control"), "cpu memory pids", "what is offered already is left alone");
    // A file keeps what was written last.
    assert_eq!(read("mesh/cgroup.subtree_control"), "+cpu");
    assert_eq!((read("mesh/pids.max"), read("mesh/pod/pids.max")), ("100".to_owned(), "8".to_owned()));
    assert_eq!((read("mesh/memory.max"), read("mesh/pod/memory.max")), ("67108864".to_owned(), "33554432".to_owned()));

    let older = Hierarchy { root: root.clone(), unified: false, controllers: vec!["memory".to_owned()] };
    let made = make_in(&[older], ("old", LARGE), ("pod", SMALL));
    assert_eq!(made.folders, [root.join("old/pod")]);
    assert_eq!(read("old/pod/memory.limit_in_bytes"), "33554432");
    assert_eq!(
        made.lacks,
        [
            "the number of its processes: no cgroup hierarchy with `pids` is mounted",
            "its share of the CPUs: no cgroup hierarchy with `cpu` is mounted",
        ]
    );
}

#[test]
fn what_cannot_be_written_is_said_with_its_reason() {
    let nowhere = Hierarchy { root: "/proc/self".into(), unified: false, controllers: vec!["pids".to_owned()] };
    let made = make_in(&[nowhere], ("mesh", LARGE), ("pod", SMALL));
    assert!(made.folders.is_empty());
    let said = made.lacks.first().unwrap();
    assert!(said.starts_with("the number of its processes: cannot make the group `/proc/self/mesh`: "), "{said}");
}

#[test]
fn a_group_bounds_what_is_in_it_and_its_removal_ends_that() {
    let parent = format!("tidegate-test-{}", std::process::id());
    let made = make((&parent, LARGE), ("pod", SMALL));
    assert_eq!(made.lacks, Vec::<String>::new());
    // More processes than may be: some are not made. Those that are hold the group until it is removed.
    let lines: Vec<String> =
        made.folders.iter().map(|folder| format!("echo 0 > {}/cgroup.procs", folder.display())).collect();
    let script = format!("{}; for i in 1 2 3 4 5 6 7 8 9 10; do sleep 1000 & done; wait", lines.join(" && "));
    let mut shell = Command::new("sh").args(["-c", &script]).stderr(std::process::Stdio::piped()).spawn().unwrap();
    let mut said = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(shell.stderr.take().unwrap()), &mut said).unwrap();
    assert!(said.contains("fork"), "{said}");
    let there = |folder: &Path| std::fs::read_to_string(folder.join("cgroup.procs")).unwrap().lines().count();
    assert!(made.folders.iter().all(|folder| there(folder) <= 8));
    remove(&parent, Some("pod")).unwrap();
    assert!(!shell.wait().unwrap().success());
    assert!(made.folders.iter().all(|folder| !folder.exists() && folder.parent().unwrap().exists()));
    make((&parent, LARGE), ("another", SMALL));
    remove(&parent, None).unwrap();
    remove(&parent, None).unwrap();
    assert!(made.folders.iter().all(|folder| !folder.parent().unwrap().exists()));
    let error = join(made.folders.first().unwrap()).unwrap_err().to_string();
    assert!(error.starts_with("cannot write `"), "{error}");
}
