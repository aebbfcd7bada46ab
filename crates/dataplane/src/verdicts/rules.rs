//! The rules of a pod's table. What a packet meets, in order:
//!
//! 1. It came in by `lo`: passes. 127/8, `::1` and the pod's own address never use another link.
//! 2. It is TCP and no first packet (SYN without ACK, whatever its other flags): passes.
//! 3. It is not TCP: passes.
//! 4. It is a first packet to the pod's own address: the maps of its family decide, else the family's fallback.
//! 5. Anything else is dropped: headers that cannot be followed, a piece of a TCP header, a foreign destination.
//!
//! IPv4 fragments are whole when the input hook sees them. IPv6 fragments are not, unless the kernel is told to put them
//! together first, and connection tracking would be the dear way to tell it: a rule with a `tproxy` expression, in a chain
//! that nothing calls, does the same and costs nothing per packet. Where the kernel lacks it every IPv6 fragment is dropped
//! after step 1: of a piece that is not the first, the fast way of loading reads bytes that are no TCP header.
//!
//! Whether a connection is accepted is written on its socket: the SYN gets a mark, and with `tcp_fwmark_accept` the
//! socket inherits it. That is how an incoming connection is told from an outgoing one later.

use std::net::{Ipv4Addr, Ipv6Addr};

use linux::nft::{Base, Meta, REGISTER, Rule, Transaction, Verdict};

use super::cells::{ALLOW, DENY, Half};

/// The mark of accepted connections: `Tide`.
pub(crate) const ACCEPTED_MARK: u32 = 0x5469_6465;
/// The log group of refusals; the namespace is the pod's own, so any number is free.
pub(crate) const LOG_GROUP: u16 = 1;
/// That of first packets that were let in: a queue of its own, so that no flood of them pushes a refusal out.
pub(crate) const ACCEPT_LOG_GROUP: u16 = 2;
/// Enough for an IPv6 header, some extension headers and the fixed TCP header.
pub(crate) const LOG_BYTES: u32 = 160;
/// Before the generation in the text of a logged packet.
pub(crate) const LOG_PREFIX: &str = "tidegate generation ";
/// Above this rate, of each kind, first packets are counted, not logged: what one flooded pod may cost the reader, about
/// a tenth of a CPU.
const LOGGED_PER_SECOND: u64 = 20_000;
/// As much at once as a second brings.
const LOGGED_AT_ONCE: u32 = 20_000;

pub(super) const INPUT: &str = "input";
pub(super) const DEFRAGMENT: &str = "defragment";
pub(super) const FOUR: &str = "four";
pub(super) const SIX: &str = "six";
/// Counters: accepted, refused, refused and logged, dropped in step 5.
pub(super) const ACCEPTED: &str = "accepted";
pub(super) const REFUSED: &str = "refused";
pub(super) const LOGGED: &str = "logged";
pub(super) const MALFORMED: &str = "malformed";

const LOOPBACK: u32 = 1;
const TCP: u8 = 6;
const IPV4: u8 = 2;
const IPV6: u8 = 10;
/// Where the flags stand in the TCP header; SYN is 0x02, ACK is 0x10.
const FLAGS: u32 = 13;
const SYN_OR_ACK: u8 = 0x12;
const SYN: u8 = 0x02;
const DESTINATION_PORT: u32 = 2;

/// Writes the chains that do not depend on the table.
pub(super) fn frame(write: &mut Transaction, v4: Ipv4Addr, v6: Ipv6Addr, defragment: bool) {
    let tcp = || Rule::begin().meta(Meta::TransportProtocol, REGISTER).equals(REGISTER, &[TCP]);
    let flags = |rule: Rule| rule.payload(Base::Transport, FLAGS, 1, REGISTER).mask(REGISTER, &[SYN_OR_ACK]);
    let to = |family: u8, offset: u32, address: &[u8], chain: &str| {
        tcp()
            .meta(Meta::NetworkFamily, REGISTER)
            .equals(REGISTER, &[family])
            .payload(Base::Network, offset, u32::try_from(address.len()).unwrap_or_default(), REGISTER)
            .equals(REGISTER, address)
            .payload(Base::Transport, FLAGS, 1, REGISTER)
            .verdict(&Verdict::goto(chain))
    };
    let loopback = Rule::begin().meta(Meta::InputInterface, REGISTER).equals(REGISTER, &LOOPBACK.to_ne_bytes());
    write.flush_chain(INPUT).rule(INPUT, &loopback.verdict(&Verdict::Accept));
    if !defragment {
        write.rule(INPUT, &Rule::begin().is_ipv6_fragment().count(MALFORMED).verdict(&Verdict::Drop));
    }
    write
        .rule(INPUT, &flags(tcp()).differs(REGISTER, &[SYN]).verdict(&Verdict::Accept))
        .rule(
            INPUT,
            &Rule::begin().meta(Meta::TransportProtocol, REGISTER).differs(REGISTER, &[TCP]).verdict(&Verdict::Accept),
        )
        .rule(INPUT, &to(IPV4, 16, &v4.octets(), FOUR))
        .rule(INPUT, &to(IPV6, 24, &v6.octets(), SIX))
        .rule(INPUT, &Rule::begin().count(MALFORMED).verdict(&Verdict::Drop));
    if defragment {
        // Port 9 is nobody's: the rule is never run.
        write.flush_chain(DEFRAGMENT).rule(DEFRAGMENT, &Rule::begin().transparent_ipv6(9));
    }
}

/// Writes the chain of one family: its maps, of which one at most knows a packet, then its fallback.
pub(super) fn family(write: &mut Transaction, chain: &str, maps: &[&str], half: &Half) {
    let source = |rule: Rule| {
        if chain == FOUR {
            rule.payload(Base::Network, 12, 4, REGISTER)
        } else {
            rule.payload(Base::Network, 8, 16, REGISTER)
        }
    };
    // The port follows the address in the next free register.
    let port = if chain == FOUR { REGISTER + 1 } else { REGISTER + 4 };
    write.flush_chain(chain);
    for map in maps {
        let lookup =
            source(Rule::begin()).payload(Base::Transport, DESTINATION_PORT, 2, port).verdict_of(map, REGISTER);
        write.rule(chain, &lookup);
    }
    write.rule(chain, &Rule::begin().verdict(&Verdict::goto(half.fallback().chain())));
}

/// Writes the chains of both outcomes, which log with the generation of the table. Accepted: marked, counted, logged, let
/// in. Refused: counted, logged, answered with a reset.
pub(super) fn outcomes(write: &mut Transaction, generation: u64) {
    let prefix = format!("{LOG_PREFIX}{generation}");
    let limited = || Rule::begin().limit(LOGGED_PER_SECOND, LOGGED_AT_ONCE);
    write
        .flush_chain(ALLOW)
        .rule(ALLOW, &Rule::begin().set_mark(ACCEPTED_MARK).count(ACCEPTED))
        .rule(ALLOW, &limited().log(ACCEPT_LOG_GROUP, &prefix, LOG_BYTES, 1))
        .rule(ALLOW, &Rule::begin().verdict(&Verdict::Accept));
    write
        .flush_chain(DENY)
        .rule(DENY, &Rule::begin().count(REFUSED))
        .rule(DENY, &limited().count(LOGGED).log(LOG_GROUP, &prefix, LOG_BYTES, 1))
        .rule(DENY, &Rule::begin().reject_with_reset());
}
