//! Capabilities: a process keeps those it is left, and no program that it runs can have more.

use rustix::thread::{CapabilitySet, CapabilitySets};

use crate::Error;
use crate::userns::Ids;

/// What a container may hold: enough for daemons that start as root and change to a user of their own, nothing that
/// reaches the network's or the host's configuration. Docker's set without `NET_RAW`, `MKNOD`, `SYS_CHROOT`, `SETFCAP` and
/// `AUDIT_WRITE`, which no program of the tool box needs.
pub const CONTAINER: [(&str, CapabilitySet); 9] = [
    ("CHOWN", CapabilitySet::CHOWN),
    ("DAC_OVERRIDE", CapabilitySet::DAC_OVERRIDE),
    ("FOWNER", CapabilitySet::FOWNER),
    ("FSETID", CapabilitySet::FSETID),
    ("KILL", CapabilitySet::KILL),
    ("SETGID", CapabilitySet::SETGID),
    ("SETUID", CapabilitySet::SETUID),
    ("SETPCAP", CapabilitySet::SETPCAP),
    ("NET_BIND_SERVICE", CapabilitySet::NET_BIND_SERVICE),
];

/// Numbers of capabilities that a kernel may know (41 today); dropping one that it does not know says so.
const NUMBERS: u32 = 64;

/// Makes the calling thread a user who holds exactly the named capabilities of [`CONTAINER`] (others are ignored), for
/// good; users other than 0 hold none. No program can gain privileges by its file any more. `ids` are those that the caller
/// can name.
pub fn become_confined(
    ids: &Ids,
    (user, group, more_groups): (u32, u32, &[u32]),
    names: &[String],
) -> Result<(), Error> {
    let is_kept = |name: &str| user == 0 && names.iter().any(|wanted| wanted == name);
    let kept = CONTAINER
        .iter()
        .filter(|(name, _)| is_kept(name))
        .fold(CapabilitySet::empty(), |set, (_, capability)| set | *capability);
    let failed = |doing: &'static str| {
        move |errno: rustix::io::Errno| Error::Process { doing: doing.to_owned(), source: errno.into() }
    };
    for number in 0..NUMBERS {
        let one = CapabilitySet::from_bits_retain(1 << number);
        if kept.contains(one) {
            continue;
        }
        match rustix::thread::remove_capability_from_bounding_set(one) {
            Ok(()) => {}
            // The kernel knows no further number.
            Err(rustix::io::Errno::INVAL) => break,
            Err(errno) => return Err(failed("drop a capability")(errno)),
        }
    }
    // The bounding set is what a program of user 0 gets; the user changes while the right to change it is held.
    crate::process::become_user(ids, user, group, more_groups)?;
    rustix::thread::clear_ambient_capability_set().map_err(failed("clear the ambient capabilities"))?;
    let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    rustix::thread::set_capabilities(None, sets).map_err(failed("give up capabilities"))?;
    rustix::thread::set_no_new_privs(true).map_err(failed("forbid new privileges"))
}
