//! `tidegate demo`: ends by itself, leaves nothing, and fails where a step comes out otherwise.
#![cfg(test)]

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use e2e::mesh::{binary, told};
use linux::netlink::{Protocol, Socket};
use linux::nft::{Family, Table, Transaction};

#[test]
fn both_texts_are_played_to_their_end() {
    for (arguments, last) in [(&["demo"][..], "kubectl delete namespace foo"), (&["demo", "--asm"], "tcp-echo 9000")] {
        let output = Command::new(binary()).args(arguments).output().unwrap();
        assert!(output.status.success(), "{}", told(&output));
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(said.contains(last) && said.contains("connection rejected"), "{said}");
        assert!(said.contains("came out as the text says"), "{said}");
        assert!(output.stderr.is_empty(), "a demo that goes well warns of nothing: {}", told(&output));
        every_reason_fits_its_outcome(&said);
    }
}

/// The line below an outcome says the same: what was reached was allowed, what was not was denied.
fn every_reason_fits_its_outcome(said: &str) {
    let lines: Vec<&str> = said.lines().collect();
    let mut judged = 0;
    for pair in lines.windows(2) {
        let verdict = match pair[0] {
            "connection succeeded" => " allowed: ",
            "connection rejected" => " denied: ",
            _ => continue,
        };
        assert!(pair[1].contains("why: port ") && pair[1].contains(verdict), "{}\n{}", pair[0], pair[1]);
        judged += 1;
    }
    assert!(judged >= 4, "{judged} outcomes in:\n{said}");
}

#[test]
fn a_reader_that_leaves_ends_the_demo_and_its_mesh() {
    let mut demo = Command::new(binary()).arg("demo").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let folder = std::env::temp_dir().join(format!("tidegate-demo-{}", demo.id()));
    let mut first = String::new();
    BufReader::new(demo.stdout.take().unwrap()).read_line(&mut first).unwrap();
    let output = demo.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr.len()), (Some(141), 0), "{}", told(&output));
    assert!(!folder.exists(), "its files are left");
    assert_eq!(e2e::mesh::processes_of(&folder), [], "its processes are left");
}

#[test]
fn a_verdict_table_deleted_from_outside_is_noticed() {
    let mut command = Command::new(binary());
    let demo = command.args(["demo", "--step"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut demo = demo.spawn().unwrap();
    let mut enter = demo.stdin.take().unwrap();
    let mut lines = BufReader::new(demo.stdout.take().unwrap()).lines();
    let folder = std::env::temp_dir().join(format!("tidegate-demo-{}", demo.id()));
    let mut said = String::new();
    // Step by step up to the first policy, so that the table that is to refuse port 9002 is in force.
    while !said.contains("authorizationpolicy.security.istio.io/tcp-policy created") {
        enter.write_all(b"\n").unwrap();
        loop {
            let line = lines.next().unwrap().unwrap();
            said.push_str(&line);
            said.push('\n');
            if line.trim_start().starts_with("why:") {
                break;
            }
        }
    }
    let deleted = delete_verdict_tables(&folder);
    assert!(deleted > 0, "no table found to delete");
    enter.write_all("\n".repeat(30).as_bytes()).unwrap();
    lines.for_each(|line| said.push_str(&(line.unwrap() + "\n")));
    let mut stderr = String::new();
    demo.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    let status = demo.wait().unwrap();
    assert_eq!(status.code(), Some(1), "{said}\n{stderr}");
    let named = stderr.contains("error: step ") && stderr.contains("somebody else changed the tables of verdicts");
    assert!(named, "{stderr}");
    assert!(!folder.exists(), "the demo cleans up after a failure as well");
}

/// Deletes every table in every pod of the mesh of this data directory, as somebody with root might.
fn delete_verdict_tables(data_dir: &Path) -> usize {
    let id = mesh_id(data_dir);
    let pods = Path::new("/run/tidegate").join(id);
    let mut deleted = 0;
    for path in network_namespaces(&pods) {
        let netns = linux::netns::NetNs::open(&path).unwrap();
        netns.run(delete_table).unwrap();
        deleted += 1;
    }
    deleted
}

/// The table of verdicts in the pod whose namespace this runs in.
fn delete_table() {
    let mut transaction = Transaction::on(&Table::named(Family::Inet, "tidegate"));
    transaction.delete_table();
    transaction.commit(&mut Socket::open(Protocol::Netfilter).unwrap()).unwrap();
}

fn mesh_id(data_dir: &Path) -> String {
    let output = Command::new(binary()).args(["status", "-o", "json", "--data-dir"]).arg(data_dir).output().unwrap();
    let status: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    status["id"].as_str().unwrap().to_owned()
}

/// The pinned network namespaces below a run directory, the node's own left out.
fn network_namespaces(run_dir: &Path) -> Vec<std::path::PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mounted = mounts.lines().filter(|line| line.contains(" nsfs ")).filter_map(|line| line.split(' ').nth(4));
    mounted
        .map(std::path::PathBuf::from)
        .filter(|path| path.starts_with(run_dir) && path.parent() != Some(run_dir))
        .collect()
}

/// Whoever can write where temporary files are may lay a link of the name that the demo's folder would have.
#[test]
fn a_planted_link_is_refused_and_not_followed() {
    let home = tempfile::tempdir().unwrap();
    let victim = home.path().join("victim");
    std::fs::create_dir(&victim).unwrap();
    // `exec` keeps the process number that the link was named after.
    let script = "ln -s \"$PWD/victim\" \"$PWD/tidegate-demo-$$\"; exec \"$0\" demo";
    let mut command = Command::new("sh");
    command.args(["-c", script]).arg(binary()).current_dir(home.path()).env("TMPDIR", home.path());
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{}", told(&output));
    assert!(said.contains("tidegate-demo-") && said.contains("File exists"), "{said}");
    assert_eq!(std::fs::read_dir(&victim).unwrap().count(), 0);
}
