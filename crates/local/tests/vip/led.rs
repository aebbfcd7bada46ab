//! VIPs whose connections are led to an endpoint at `connect`.

use std::collections::BTreeSet;
use std::io::Write;
use std::net::SocketAddr;

use local::PodLink;
use local::vip::Vips;

use super::harness::{Mesh, Translated, address, connect, listen};

/// A group of version 2 for the processes of a test, gone with it.
struct Group {
    name: String,
    folder: std::path::PathBuf,
}

impl Group {
    /// None where groups of version 2 are not mounted.
    fn make(name: &str) -> Option<Self> {
        let name = format!("tidegate-test-{name}-{}", std::process::id());
        linux::cgroup::unified(&name).unwrap().map(|folder| Self { name, folder })
    }

    /// What bash says to this, in the group and in a pod's network.
    fn run(&self, pod: &PodLink, words: &str) -> String {
        let words = format!("echo 0 > {}/cgroup.procs && {words}", self.folder.display());
        let output =
            pod.netns.run(|| std::process::Command::new("bash").args(["-c", &words]).output().unwrap()).unwrap();
        String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap()
    }

    /// Connects some times, one after the other; whom each connection reached.
    fn whom(&self, pod: &PodLink, to: SocketAddr, times: usize) -> Vec<String> {
        let once =
            format!("exec 3<>/dev/tcp/{}/{} && read -r line <&3 && echo \"$line\"; exec 3>&-", to.ip(), to.port());
        let said = self.run(pod, &format!("for n in $(seq {times}); do {once}; done"));
        said.lines().map(str::to_owned).collect()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        linux::cgroup::remove(&self.name, None).unwrap();
    }
}

/// Says to each connection who it is and whom it sees.
fn greet(pod: &PodLink, v6: bool) {
    let (listener, uid) = (listen(pod, v6), pod.uid.clone());
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let peer = stream.peer_addr().unwrap().ip();
            // One that has gone reads nothing.
            drop(writeln!(stream, "{uid} {peer}"));
        }
    });
}

#[test]
fn a_pods_connect_is_led_to_endpoints_and_nothing_of_it_is_translated() {
    let Some(group) = Group::make("led") else { return };
    let mesh = Mesh::new("c0de0a01");
    let [a, b, client] = ["a", "b", "client"].map(|uid| mesh.pod(uid));
    let mut vips = Vips::start(mesh.node(), Some(&group.folder)).unwrap();
    vips.sync(&mesh.service(&[(&a, true), (&b, true)])).unwrap();
    let mut translated = Translated::of(&mesh);
    for v6 in [false, true] {
        greet(&a, v6);
        greet(&b, v6);
        let whom: BTreeSet<String> = group.whom(&client, mesh.vip(v6), 40).into_iter().collect();
        let peer = address(&client, v6);
        assert_eq!(whom, BTreeSet::from([format!("a {peer}"), format!("b {peer}")]));
    }
    assert_eq!(translated.count(), 0);
    // Outside of the group, and with the programs gone, the node translates.
    assert!(connect(&client.netns, mesh.vip(false)).is_ok());
    assert_eq!(translated.count(), 1);
    drop(vips);
    assert_eq!(group.whom(&client, mesh.vip(false), 3).len(), 3);
    assert_eq!(translated.count(), 4);
}

#[test]
fn what_is_not_led_is_translated_and_what_leads_nowhere_is_reset() {
    let Some(group) = Group::make("left") else { return };
    let mesh = Mesh::new("c0de0a02");
    let [server, client, late] = ["server", "client", "late"].map(|uid| mesh.pod(uid));
    let mut vips = Vips::start(mesh.node(), Some(&group.folder)).unwrap();
    greet(&server, false);
    let mut translated = Translated::of(&mesh);
    // A pod that reaches itself comes from its alias, and is judged.
    vips.sync(&mesh.service(&[(&server, true)])).unwrap();
    assert_eq!(group.whom(&server, mesh.vip(false), 1), [format!("server {}", server.alias_v4)]);
    // Without a ready endpoint there is nobody.
    vips.sync(&mesh.service(&[(&server, false)])).unwrap();
    assert!(group.whom(&client, mesh.vip(false), 1).concat().contains("Connection refused"));
    vips.sync(&mesh.service(&[(&server, true)])).unwrap();
    let before = translated.count();
    assert_eq!(group.whom(&client, mesh.vip(false), 1), [format!("server {}", client.v4)]);
    assert_eq!(translated.count(), before, "led");
    // More endpoints than are kept.
    let many: Vec<PodLink> = (0..31).map(|number| mesh.pod(&format!("more-{number}"))).collect();
    let mut ends = vec![(&server, true)];
    ends.extend(many.iter().map(|pod| (pod, true)));
    vips.sync(&mesh.service(&ends)).unwrap();
    for pod in &many {
        greet(pod, false);
    }
    assert_eq!(group.whom(&late, mesh.vip(false), 5).len(), 5);
    assert_eq!(translated.count(), before + 5);
}
