//! Pods and containers as processes, seen from outside and from an attacker inside. Needs root.
#![cfg(test)]

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use linux::cgroup::Bounds;
use linux::netns::NetNs;
use local::runtime::exec::Command;
use local::runtime::spec::{ContainerSpec, Exit, File, MemoryMount, Mount, PodSpec};
use local::runtime::{Runtime, Sandbox, remove_all};
use rustix::process::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// A whole test may take this long on a busy machine; it only bounds a hang.
const BOUND: Duration = Duration::from_mins(1);

/// The program whose `main` is `local::entry`.
fn program() -> PathBuf {
    let own = std::env::current_exe().unwrap();
    own.parent().and_then(Path::parent).unwrap().join("examples/pod_parts")
}

struct Place {
    directory: tempfile::TempDir,
    runtime: Runtime,
    netns: PathBuf,
}

impl Place {
    fn new() -> Self {
        let directory = tempfile::Builder::new().prefix("tidegate-runtime").tempdir().unwrap();
        let (data, run) = (directory.path().join("data"), directory.path().join("run"));
        std::fs::create_dir_all(&data).unwrap();
        std::fs::create_dir_all(&run).unwrap();
        let netns = run.join("net");
        let namespace = NetNs::create().unwrap();
        namespace.pin(&netns).unwrap();
        let mut network = linux::route::Router::open_in(&namespace).unwrap();
        let lo = network.link("lo").unwrap().unwrap().index;
        network.set_up(lo).unwrap();
        let runtime = Runtime::new(&data, &run).with_program(&program());
        Self { directory, runtime, netns }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    async fn sandbox(&self) -> Sandbox {
        self.runtime.start_sandbox("pod-1", &self.netns, "host-of-pod", &PodSpec::default()).await.unwrap()
    }

    fn shell(&self, script: &str) -> ContainerSpec {
        ContainerSpec {
            command: ["sh", "-c", script].map(str::to_owned).to_vec(),
            environment: vec![("PATH".into(), "/.tidegate/bin:/usr/bin:/usr/sbin:/bin".into())],
            files: vec![File { path: "/etc/hosts".into(), text: "127.0.0.1 localhost\n::1 localhost\n".into() }],
            capabilities: linux::caps::CONTAINER.map(|(name, _)| name.to_owned()).to_vec(),
            applets: vec!["nc".into(), "tcp-echo".into()],
            log: self.path("data/logs/c/0.log"),
            ..ContainerSpec::default()
        }
    }

    /// Runs a container to its end; its exit and what it printed.
    async fn run(&self, sandbox: &Sandbox, name: &str, spec: &ContainerSpec) -> (Exit, String) {
        let spec = ContainerSpec { log: self.path(&format!("data/logs/{name}/0.log")), ..spec.clone() };
        let mut running = self.runtime.start_container(sandbox, name, 0, &spec).await.unwrap();
        let exit = tokio::time::timeout(BOUND, running.wait()).await.unwrap().unwrap();
        let log = local::runtime::logs::read(&spec.log, local::runtime::logs::Selection::default());
        (exit, String::from_utf8_lossy(&log).into_owned())
    }

    async fn exec(&self, run: &Path, command: &[&str], input: Option<&[u8]>, tty: bool) -> (i32, String, String) {
        let command =
            Command { command: command.iter().map(|&word| word.to_owned()).collect(), stdin: input.is_some(), tty };
        let mut session = self.runtime.exec(run, &command).unwrap();
        if let Some(input) = input {
            let mut stdin = session.stdin.take().unwrap();
            // A program may end without reading what it is given.
            drop(stdin.write_all(input).await);
            stdin.shutdown().await.unwrap();
        }
        let (mut output, mut errors) = (String::new(), String::new());
        let both = async {
            session.stdout.read_to_string(&mut output).await.unwrap();
            if let Some(mut stderr) = session.stderr.take() {
                stderr.read_to_string(&mut errors).await.unwrap();
            }
            session.exit.await.unwrap()
        };
        let code = tokio::time::timeout(BOUND, both).await.unwrap();
        (code, output, errors)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.runtime.remove_all().unwrap();
        linux::netns::unpin(&self.netns).unwrap();
        assert_eq!(mine(self.directory.path()), Vec::<String>::new(), "processes are left");
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(self.directory.path().to_str().unwrap()), "mounts are left:\n{mounts}");
        assert_eq!(groups(self.directory.path()), Vec::<PathBuf>::new(), "groups are left");
    }
}

/// The cgroups of the mesh whose directory this is.
fn groups(directory: &Path) -> Vec<PathBuf> {
    let name = directory.file_name().unwrap().to_str().unwrap();
    let below = |folder: &Path| -> Vec<PathBuf> {
        std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
    };
    let all = below(Path::new("/sys/fs/cgroup")).into_iter().flat_map(|one| [vec![one.clone()], below(&one)].concat());
    all.filter(|folder| folder.is_dir() && folder.to_string_lossy().contains(name)).collect()
}

/// Arguments of the processes that speak of a directory in their arguments or environment; zombies have neither.
fn mine(directory: &Path) -> Vec<String> {
    let needle = directory.to_str().unwrap();
    let read = |pid: &str, what: &str| std::fs::read(format!("/proc/{pid}/{what}")).unwrap_or_default();
    let listed = std::fs::read_dir("/proc").unwrap().flatten();
    listed
        .filter_map(|entry| entry.file_name().into_string().ok().filter(|name| name.parse::<u32>().is_ok()))
        .filter(|pid| pid.parse() != Ok(std::process::id()))
        .map(|pid| String::from_utf8_lossy(&[read(&pid, "cmdline"), read(&pid, "environ")].concat()).into_owned())
        .filter(|text| text.contains(needle))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fork_bomb_leaves_the_machine_and_other_pods_usable() {
    let place = Place::new();
    let bounds = Bounds { processes: 300, memory_bytes: 256 << 20 };
    let spec = PodSpec { bounds, ..PodSpec::default() };
    let attacked = place.runtime.start_sandbox("bomb", &place.netns, "bomb", &spec).await.unwrap();
    assert_eq!(attacked.lacks(), Vec::<String>::new());
    let bomb = place.shell("bomb() { bomb | bomb & }; bomb; while :; do bomb 2> /dev/null; done");
    let bomb = place.runtime.start_container(&attacked, "bomb", 0, &bomb).await.unwrap();
    let group = groups(place.directory.path()).into_iter().find(|group| group.join("bomb/pids.max").exists()).unwrap();
    let read = |name: &str| std::fs::read_to_string(group.join("bomb").join(name)).unwrap();
    let begun = Instant::now();
    // "max 17": how often a process was not made.
    while read("pids.events").trim() == "max 0" {
        assert!(begun.elapsed() < BOUND, "the bomb never meets its bound: {}", read("pids.current"));
        tokio::task::yield_now().await;
    }
    let begun = Instant::now();
    let other = place.sandbox().await;
    let (exit, log) = place.run(&other, "well", &place.shell("sleep 0 & wait; echo well")).await;
    assert_eq!((exit.code, log.as_str()), (0, "well\n"));
    println!("beside the bomb a pod ran to its end in {:?}", begun.elapsed());
    assert!(read("pids.current").trim().parse::<u64>().unwrap() <= 300);
    // It ends as any other does, however fast it forks.
    drop(bomb);
    attacked.stop().await.unwrap();
    other.stop().await.unwrap();
    let all = groups(place.directory.path());
    assert!(all.iter().all(|mesh| !mesh.join("bomb").exists() && !mesh.join("pod-1").exists()), "{all:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_of_a_pod_ends_at_its_bound_and_files_in_memory_at_theirs() {
    let place = Place::new();
    let bounds = Bounds { processes: 100, memory_bytes: 64 << 20 };
    let spec =
        PodSpec { bounds, memory: vec![("scratch".into(), 4 << 20), ("other".into(), 1 << 20)], ..PodSpec::default() };
    let sandbox = place.runtime.start_sandbox("pod-1", &place.netns, "h", &spec).await.unwrap();
    let mut eater = place.shell("");
    eater.command = ["tail", "/dev/zero"].map(str::to_owned).to_vec();
    let (exit, _) = place.run(&sandbox, "eater", &eater).await;
    assert_eq!(exit.signal, Some(9), "the kernel ends what takes more than the pod may have");
    let sees =
        |name: &str, target: &str, read_only| MemoryMount { name: name.into(), target: target.into(), read_only };
    let mut writer =
        place.shell("dd if=/dev/zero of=/in/big bs=1M count=9 2>&1; echo kept > /other/file; ls -d /in /other");
    writer.memory = vec![sees("scratch", "/in", false), sees("other", "/other", false)];
    let (_, log) = place.run(&sandbox, "writer", &writer).await;
    assert!(log.contains("No space left on device") && log.ends_with("/in\n/other\n"), "{log}");
    // They last as long as the pod, and another container may only read them.
    let mut reader = place.shell("cat /seen/file; echo no > /seen/file; ls /in");
    reader.memory = vec![sees("other", "/seen", true)];
    let (_, log) = place.run(&sandbox, "reader", &reader).await;
    assert!(log.starts_with("kept\n") && log.contains("Read-only file system"), "{log}");
    assert!(log.contains("cannot access '/in'"), "{log}");
    // Without its end, as after a kill of the daemon: what is left goes with `remove_all`, in the drop of the place.
    assert_ne!(groups(place.directory.path()), Vec::<PathBuf>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_program_was_started_from_and_with_cannot_be_changed_by_it() {
    let place = Place::new();
    let sandbox = place.sandbox().await;
    // The builder of a container is a program of the host, and it is what this name leads to when it is run.
    let setup = place.shell("ln -s /proc/self/exe /tmp/nc; chmod 666 /proc/self/fd/0; touch /tmp/ready; sleep 1000");
    let mut running = place.runtime.start_container(&sandbox, "c", 0, &setup).await.unwrap();
    let run = running.directory().to_owned();
    let wait = "until [ -e /tmp/ready ]; do :; done; chmod 666 /proc/self/fd/0";
    let (code, _, errors) = place.exec(&run, &["sh", "-c", wait], None, false).await;
    assert!(code != 0 && errors.contains("Read-only file system"), "the host's null device, by exec: {errors}");
    let command = Command { command: ["/tmp/nc", "-l", "9000"].map(str::to_owned).to_vec(), ..Command::default() };
    let listening = place.runtime.exec(&run, &command).unwrap();
    // Until that process is there; its mode is set to what it is.
    let change = "while :; do for p in /proc/[0-9]*; do tr '\\0' ' ' < $p/cmdline 2> /dev/null | grep -q '^/tmp/nc -l' && \
                  { chmod 755 $p/exe; exit; }; done; done";
    let (code, _, errors) = place.exec(&run, &["sh", "-c", change], None, false).await;
    assert!(code != 0 && errors.contains("Read-only file system"), "the host's own program: {code} {errors}");
    drop(listening);
    assert!(running.signal(Signal::KILL).unwrap());
    running.wait().await.unwrap();
    let log = local::runtime::logs::read(&setup.log, local::runtime::logs::Selection::default());
    assert!(String::from_utf8_lossy(&log).contains("Read-only file system"), "the host's null device");
}

#[tokio::test(flavor = "multi_thread")]
async fn exit_codes_signals_and_output_are_true() {
    let place = Place::new();
    let sandbox = place.sandbox().await;
    let (exit, log) = place.run(&sandbox, "three", &place.shell("echo out; echo err >&2; exit 3")).await;
    assert_eq!((exit.code, exit.signal), (3, None));
    assert!(log.contains("out\n") && log.contains("err\n"), "{log}");
    let (exit, _) = place.run(&sandbox, "killed", &place.shell("kill -9 $$")).await;
    assert_eq!((exit.code, exit.signal), (137, Some(9)));
    // What a container leaves behind ends with it, also when it holds the output, and whatever it calls itself.
    for script in ["sleep 1000 &", r"printf '\377' >/proc/$$/comm; (while :; do sleep 1000; done) &"] {
        assert_eq!(place.run(&sandbox, "leaves", &place.shell(script)).await.0.code, 0, "{script}");
    }
    let mut absent = place.shell("");
    absent.command = vec!["no-such-program".into()];
    let why = place.runtime.start_container(&sandbox, "absent", 0, &absent).await.unwrap_err().to_string();
    assert!(why.contains("executable file not found in $PATH"), "{why}");
    sandbox.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_sees_its_own_namespaces_and_files_only() {
    let place = Place::new();
    let canary = "canary-7c1f";
    let secret = place.path("data/secret");
    std::fs::write(&secret, canary).unwrap();
    std::fs::create_dir(place.path("volume")).unwrap();
    let sandbox = place.sandbox().await;
    let mut spec = place.shell(
        "hostname; echo pid1: $(cat /proc/1/comm); ls /proc | grep -c '^[0-9]'; cat /etc/greeting; \
         cat /volume/in; echo more > /volume/out; echo x > /frozen/out; ls -A /root /home /opt /srv /var/log; \
         cat /proc/self/status | grep -E 'CapEff|CapBnd|NoNewPrivs|Seccomp:'; id -u; ls /proc/self/fd | wc -l; \
         echo x > /usr/x; echo x > /proc/sys/kernel/hostname; ls /sys; mknod /tmp/d b 254 0;",
    );
    std::fs::write(place.path("volume/in"), "volume\n").unwrap();
    spec.files = vec![File { path: "/etc/greeting".into(), text: "hello\n".into() }];
    spec.mounts = vec![
        Mount { source: place.path("volume"), target: "/volume".into(), read_only: false },
        Mount { source: place.path("volume"), target: "/frozen".into(), read_only: true },
    ];
    let (_, log) = place.run(&sandbox, "c", &spec).await;
    assert!(log.starts_with("host-of-pod\n"), "{log}");
    assert!(log.contains("pid1: exe\n"), "{log}");
    assert!(log.contains("hello\nvolume\n"), "{log}");
    assert!(log.contains("NoNewPrivs:\t1") && log.contains("Seccomp:\t2"), "{log}");
    assert!(log.contains("CapBnd:\t00000000000005fb") && log.contains("CapEff:\t00000000000005fb"), "{log}");
    assert_eq!(log.matches("Read-only file system").count(), 3, "/frozen, /usr, /proc/sys: {log}");
    assert!(log.contains("/tmp/d: Operation not permitted"), "{log}");
    assert_eq!(std::fs::read_to_string(place.path("volume/out")).unwrap(), "more\n");
    // Nothing but the volumes and /usr is of the host; user 0 may look everywhere and finds no canary.
    let hosts = ["root", "home", "etc", "var", "run", "srv", "opt", "tmp"];
    let canaries: Vec<PathBuf> = hosts
        .iter()
        .map(|name| Path::new("/").join(name).join(format!("tg-{canary}-{}", std::process::id())))
        .collect();
    for path in &canaries {
        std::fs::write(path, canary).unwrap();
    }
    let search = format!(
        "grep -rls {canary} / --exclude-dir=usr --exclude-dir=proc --exclude-dir=dev; \
         for p in /proc/[0-9]*; do ls $p/root/ $p/cwd/ 2>/dev/null; cat $p/environ 2>/dev/null | tr '\\0' '\\n' | grep {canary}; done; \
         cat /proc/1/root/etc/passwd; ls -l /proc/1/exe; ls /proc/1/fd; cat /proc/1/maps; true"
    );
    let (exit, log) = place.run(&sandbox, "search", &place.shell(&search.replace(canary, "canary-7[c]1f"))).await;
    for path in &canaries {
        std::fs::remove_file(path).unwrap();
    }
    assert_eq!(exit.code, 0);
    assert!(!log.contains("tg-canary") && !log.contains("secret"), "{log}");
    assert!(log.matches("Permission denied").count() >= 3, "process 1 is closed: {log}");
    sandbox.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn user_0_in_a_pod_gains_nothing() {
    let place = Place::new();
    let sandbox = place.sandbox().await;
    let attempts = [
        "unshare -U true",
        "unshare -n true",
        "unshare -Ur true",
        "mount -t tmpfs x /mnt",
        "mount -o remount,rw /usr",
        "umount /proc",
        "nsenter -t 1 -m true",
        "chroot / true",
        "ip link add d0 type dummy",
        "hostname other",
        "dmesg",
        "date -s 2000-01-01",
        "strace -p 1",
        "cat /proc/kcore",
        "cat /proc/1/environ",
        "sysctl -w kernel.panic=1",
        "python3 -c 'import socket; socket.socket(socket.AF_PACKET, socket.SOCK_RAW)'",
        "python3 -c 'import socket; socket.socket(socket.AF_INET, socket.SOCK_RAW, 6)'",
        "python3 -c 'import socket; socket.socket(40, 1)'",
        "python3 -c 'import socket; s=socket.socket(); s.setsockopt(1, 36, 7)'",
        "python3 -c 'import ctypes,sys; sys.exit(0 if ctypes.CDLL(None).syscall(425, 8, 0) >= 0 else 1)'",
        // The x32 interface's `unshare`, a new user namespace by clone3.
        "python3 -c 'import ctypes,sys; sys.exit(0 if ctypes.CDLL(None).syscall(0x40000000 + 272, 0x10000000) == 0 else 1)'",
        "python3 -c 'import ctypes,sys; sys.exit(0 if ctypes.CDLL(None, use_errno=True).syscall(435, 0, 0) >= 0 or ctypes.get_errno() != 38 else 1)'",
    ];
    let script: Vec<String> = attempts
        .iter()
        .enumerate()
        .map(|(index, attempt)| format!("{attempt} >/dev/null 2>&1 && echo gained {index}; "))
        .collect();
    let script = script.concat();
    let (exit, log) =
        place.run(&sandbox, "attacker", &place.shell(&format!("{script} echo control; true && echo works"))).await;
    assert_eq!((exit.code, log.as_str()), (0, "control\nworks\n"));
    sandbox.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn another_user_holds_no_capability() {
    let place = Place::new();
    let sandbox = place.sandbox().await;
    let mut spec = place.shell("id -u; id -g; id -G; grep -E 'CapEff|CapPrm|CapInh|CapAmb' /proc/self/status; touch /x; echo ok > /tmp/x && cat /tmp/x");
    spec.user = 1337;
    spec.group = 1338;
    spec.more_groups = vec![2000];
    spec.directory = "/tmp".into();
    let (_, log) = place.run(&sandbox, "c", &spec).await;
    assert!(log.starts_with("1337\n1338\n1338 2000\n"), "{log}");
    assert_eq!(log.matches("\t0000000000000000\n").count(), 4, "{log}");
    assert!(log.contains("cannot touch '/x'") && log.contains("ok\n"), "{log}");
    let mut frozen = place.shell("echo x > /x");
    frozen.read_only_root = true;
    let (_, log) = place.run(&sandbox, "frozen", &frozen).await;
    assert!(log.contains("Read-only file system"), "{log}");
    sandbox.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn exec_has_what_the_container_has_and_its_exit_code() {
    let place = Place::new();
    let sandbox = place.sandbox().await;
    let mut running =
        place.runtime.start_container(&sandbox, "c", 0, &place.shell("echo up; exec sleep 1000")).await.unwrap();
    let run = running.directory().to_owned();
    assert_eq!(
        place.exec(&run, &["cat"], Some(b"there and back"), false).await,
        (0, "there and back".into(), String::new())
    );
    let (code, output, errors) = place.exec(&run, &["sh", "-c", "echo o; echo e >&2; exit 7"], None, false).await;
    assert_eq!((code, output.as_str(), errors.as_str()), (7, "o\n", "e\n"));
    assert_eq!(place.exec(&run, &["sh", "-c", "kill -15 $$"], None, false).await.0, 143);
    let (code, _, errors) = place.exec(&run, &["absent"], None, false).await;
    assert_eq!(code, 127);
    assert!(errors.contains("executable file not found in $PATH"), "{errors}");
    let look = "grep -E 'CapEff|NoNewPrivs|Seccomp:' /proc/self/status; hostname; unshare -U true; readlink /proc/self/ns/pid /proc/self/ns/mnt; tr '\\0' ' ' < /proc/1/cmdline; ls /proc | grep -c '^[0-9]'";
    let (_, output, errors) = place.exec(&run, &["sh", "-c", look], None, false).await;
    assert!(output.contains("00000000000005fb\nNoNewPrivs:\t1\nSeccomp:\t2\nhost-of-pod\n"), "{output}{errors}");
    assert!(errors.contains("Operation not permitted"), "{errors}");
    // A terminal: its size is what it was set to, and input is echoed.
    let wanted = Command {
        command: ["sh", "-c", "read x; stty size; tty -s && echo terminal $x"].map(str::to_owned).to_vec(),
        stdin: true,
        tty: true,
    };
    let mut session = place.runtime.exec(&run, &wanted).unwrap();
    session.terminal.as_ref().unwrap().resize(101, 33).unwrap();
    session.stdin.as_mut().unwrap().write_all(b"typed\n").await.unwrap();
    let mut output = String::new();
    tokio::time::timeout(BOUND, session.stdout.read_to_string(&mut output)).await.unwrap().unwrap();
    assert!(output.contains("33 101\r\nterminal typed"), "{output}");
    assert_eq!(session.exit.await.unwrap(), 0);
    assert!(running.signal(Signal::TERM).unwrap());
    assert_eq!(running.wait().await.unwrap().signal, Some(15));
    let (code, _, errors) = place.exec(&run, &["true"], None, false).await;
    assert_eq!(code, 1, "{errors}");
    assert!(errors.contains("has ended"), "{errors}");
    sandbox.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_applets_serve_as_soon_as_they_count_as_started() {
    let place = Place::new();
    let sandbox = place.sandbox().await;
    let mut server = place.shell("");
    server.command = ["tcp-echo", "9000,9001", "hello"].map(str::to_owned).to_vec();
    server.tells_ready = true;
    let running = place.runtime.start_container(&sandbox, "server", 0, &server).await.unwrap();
    let run = running.directory().to_owned();
    for (input, answer) in [
        ("port 9000\n", "hello port 9000\n"),
        ("a\nb\n", "hello a\nhello b\n"),
        ("tail", ""),
        ("a\ntail", "hello a\n"),
        ("", ""),
    ] {
        for host in ["127.0.0.1", "::1", "localhost"] {
            let (code, output, errors) = place.exec(&run, &["nc", host, "9001"], Some(input.as_bytes()), false).await;
            assert_eq!((code, output.as_str(), errors.as_str()), (0, answer, ""), "{host} {input:?}");
        }
    }
    let (code, output, errors) = place.exec(&run, &["nc", "127.0.0.1", "9009"], Some(b"x\n"), false).await;
    assert_eq!((code, output.as_str()), (1, ""));
    assert_eq!(errors, "nc: can't connect to remote host (127.0.0.1): Connection refused\n");
    assert_eq!(place.exec(&run, &["nc", "-z", "-w", "2", "127.0.0.1", "9000"], None, false).await.0, 0);
    assert_eq!(place.exec(&run, &["nc", "-x", "h", "1"], None, false).await.0, 1);
    sandbox.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn nc_listens_by_tcp_and_udp_and_waits_no_longer_than_it_is_told() {
    let place = Place::new();
    let sandbox = place.sandbox().await;
    // A question is put once the other side listens, as the kernel's tables say, and each input ends once both have heard.
    let words = "listens() { until grep -q \":$1 .* $2 \" /proc/net/$3; do :; done; }
        say() { echo $1; until test -s /tmp/heard -a -s /tmp/got; do :; done; }
        ask() { say question | nc \"$@\" >/tmp/got; wait; cat /tmp/got /tmp/heard; }\n";
    let cases = [
        ("tcp", "say answer | nc -l 8080 >/tmp/heard & listens 1F90 0A tcp6; ask 127.0.0.1 8080", "answer\nquestion\n"),
        (
            "tcp-v6",
            "say answer | nc -v -l -p 8081 2>&1 >/tmp/heard | sed 's/from.*/from/' & listens 1F91 0A tcp6; ask ::1 8081",
            "connect from\nanswer\nquestion\n",
        ),
        (
            "udp",
            "echo answer | nc -u -l -w 1 8082 >/tmp/heard & listens 1F92 07 udp6; echo question | nc -u -w 5 127.0.0.1 8082; wait; cat /tmp/heard",
            "answer\nquestion\n",
        ),
        (
            "silent",
            "sleep 1000 | nc -l 8083 & listens 1F93 0A tcp6; mkfifo /tmp/held; nc -w 1 127.0.0.1 8083 <>/tmp/held 2>&1; echo $?",
            "nc: timed out\n1\n",
        ),
    ];
    for (name, script, wanted) in cases {
        let (exit, said) = place.run(&sandbox, name, &place.shell(&format!("{words}{script}"))).await;
        assert_eq!((exit.code, said.as_str()), (0, wanted), "{name}");
    }
    sandbox.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_ends_without_the_daemon_and_nothing_else_does() {
    let place = Place::new();
    let other = Place::new();
    let stranger = other.sandbox().await;
    let living = other.runtime.start_container(&stranger, "c", 0, &other.shell("sleep 1000")).await.unwrap();
    {
        let sandbox = place.sandbox().await;
        let running =
            place.runtime.start_container(&sandbox, "c", 0, &place.shell("sleep 1000 & sleep 1000")).await.unwrap();
        drop((sandbox, running));
    }
    let (data, run) = (place.path("data"), place.path("run"));
    assert!(mine(&data).len() >= 3, "the pod lives on");
    // Also when the records are gone.
    std::fs::remove_dir_all(run.join("processes")).unwrap();
    remove_all(&run, &data).unwrap();
    assert_eq!(mine(&data), Vec::<String>::new());
    remove_all(&run, &data).unwrap();
    assert!(living.signal(Signal::CONT).unwrap(), "another mesh's pod lives on");
    stranger.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_starts_quickly() {
    let place = Place::new();
    let mut times = Vec::new();
    for round in 0..20 {
        let begin = Instant::now();
        let sandbox =
            place.runtime.start_sandbox(&format!("pod-{round}"), &place.netns, "h", &PodSpec::default()).await.unwrap();
        let mut server = place.shell("");
        server.command = ["tcp-echo", "9000", "hello"].map(str::to_owned).to_vec();
        server.tells_ready = true;
        let running = place.runtime.start_container(&sandbox, "c", 0, &server).await.unwrap();
        let started = begin.elapsed();
        let again = Instant::now();
        assert_eq!(place.exec(running.directory(), &["true"], None, false).await.0, 0);
        times.push((started, again.elapsed()));
        sandbox.stop().await.unwrap();
    }
    times.sort();
    println!("start (serving) median {:?} worst {:?}", times[10].0, times[19].0);
    times.sort_by_key(|time| time.1);
    println!("exec median {:?} worst {:?}", times[10].1, times[19].1);
}
