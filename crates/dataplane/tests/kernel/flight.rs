//! First packets that the old table let in and that are still on their way when the new one is in force.

use std::net::SocketAddr;
use std::time::Instant;

use dataplane::Trouble;
use linux::netlink::{Protocol, Socket};
use linux::nft::{
    Base, BaseChain, ChainKind, Family, Hook, Meta, REGISTER, Rule, Table, Transaction, Verdict as NftVerdict,
};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};

use super::harness::{Bed, Pod, deny, echoes, is_refused, is_reset, serve, wait_until};

/// Rules of each of the two chains that hold a packet up: it meets their product, a second or so on today's processors.
const HOLD: usize = 6_000;

/// Every first packet that the verdict accepted takes long to reach its socket: a chain behind the verdict calls another
/// one thousands of times. The packet stays where a packet in flight is, inside the stack's read-side section.
fn hold_up_accepted(pod: &Pod) {
    let table = Table::named(Family::Inet, "slow");
    let behind = BaseChain { kind: ChainKind::Filter, hook: Hook::Input, priority: 10, accept: true };
    let never = Rule::begin().meta(Meta::InputInterface, REGISTER).equals(REGISTER, &[0xff; 4]);
    let mut lay = Transaction::on(&table);
    lay.create_table().chain("again").chain("slowly").base_chain("behind", behind);
    let flags = Rule::begin().meta(Meta::TransportProtocol, REGISTER).equals(REGISTER, &[6]);
    let flags = flags.payload(Base::Transport, 13, 1, REGISTER).mask(REGISTER, &[0x12]).equals(REGISTER, &[2]);
    lay.rule("behind", &flags.verdict(&NftVerdict::jump("slowly")));
    for _ in 0..HOLD {
        lay.rule("again", &never.clone().verdict(&NftVerdict::Drop));
        lay.rule("slowly", &Rule::begin().verdict(&NftVerdict::jump("again")));
    }
    let commit = || {
        let mut socket = Socket::open(Protocol::Netfilter).unwrap();
        socket.reserve_send(8 << 20).unwrap();
        lay.commit(&mut socket).unwrap();
    };
    pod.net.netns.run(commit).unwrap();
}

#[test]
fn a_packet_in_flight_when_the_table_changes_leaves_no_connection_behind() {
    let mut bed = Bed::new();
    let (server, client) = (bed.pod("foo", "server"), bed.pod("foo", "client"));
    let echo = serve(&server, 9000);
    hold_up_accepted(&server);
    bed.enforce(&[]);
    let to = server.v4(9000);
    // Opened before: to open one the kernel may wait for packets in flight.
    let mut counting = server.net.netns.run(|| Socket::open(Protocol::Netfilter)).unwrap().unwrap();
    let mut accepted = || Table::named(Family::Inet, dataplane::verdicts::TABLE).packets(&mut counting, "accepted");
    let connecting = {
        let client = client.clone();
        std::thread::spawn(move || client.connect(to))
    };
    let begun = Instant::now();
    wait_until("the old table has let the packet in", || accepted().unwrap() == 1);
    let report = bed.enforce(&[("foo", "p", deny("server", &["foo/client"], &[9000]))]);
    println!("in flight for {:?} when it was acknowledged", begun.elapsed());
    assert!(report.workloads[server.id()].changed);
    // The packet goes on behind the new table. Either its connection was reset, or it was never made.
    if let Ok(mut slipped) = connecting.join().unwrap() {
        assert!(is_reset(&mut slipped), "what the old table let in is open under the new one");
    }
    assert!(is_refused(&client.connect(to)));
    assert!(echo.accepted() <= 1);
}

#[test]
fn without_a_barrier_nothing_counts_as_in_force_and_the_report_says_why() {
    let kernel = dataplane::selftest::run().unwrap();
    // From here on this thread, and every one that it starts, has no barrier, as on a kernel without it.
    let filter = SeccompFilter::new(
        [(libc::SYS_membarrier, Vec::new())].into(),
        SeccompAction::Allow,
        SeccompAction::Errno(libc::ENOSYS.cast_unsigned()),
        std::env::consts::ARCH.try_into().unwrap(),
    );
    let program: BpfProgram = filter.unwrap().try_into().unwrap();
    seccompiler::apply_filter(&program).unwrap();

    let mut bed = Bed::on(kernel);
    let (server, client) = (bed.pod("foo", "server"), bed.pod("foo", "client"));
    serve(&server, 9000);
    bed.policies(&[]);
    bed.publish_report();
    let mut open = client.connect(server.v4(9000)).unwrap();
    assert!(echoes(&mut open));
    bed.policies(&[("foo", "p", deny("server", &["foo/client"], &[9000]))]);
    for _ in 0..2 {
        let report = bed.publish_report();
        let enforcement = &report.workloads[server.id()];
        let trouble = enforcement.trouble.as_deref().expect("a workload that may have connections left over");
        assert!(matches!(trouble, Trouble::InFlight), "{trouble}");
        assert_eq!(
            trouble.to_string(),
            "connections may be left over: the kernel offers no barrier for packets in flight"
        );
        assert_eq!(enforcement.generation, 0, "nothing counts as in force");
    }
    // What could be done was done.
    assert!(is_reset(&mut open));
    assert!(is_refused(&client.connect(SocketAddr::new(server.net.v4.into(), 9000))));
    let error = bed.runtime.block_on(bed.dataplane.status()).unwrap_err();
    assert_eq!(
        linux::error::with_causes(&error),
        "this kernel cannot enforce verdicts: cannot wait for packets in flight; `tidegate check` lists what is missing: \
         cannot wait for packets in flight (membarrier); a kernel with CONFIG_MEMBARRIER and without `nohz_full` is \
         needed: Function not implemented (os error 38)"
    );
}
