//! Who asks for what: names, identities and addresses become a question.

use std::net::IpAddr;

use api::Objects;
use policy::address::canonical;
use policy::ask::Question;
use policy::identity::{PeerName, SCHEME};
use policy::{Mesh, Peer, SpiffeId, Workload, WorkloadId};

use crate::names;

/// The two ends as typed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asked<'a> {
    /// A name of a workload, an identity, an address, or `outside`.
    pub from: &'a str,
    /// The address that the peer speaks from, where `from` does not say.
    pub from_address: Option<IpAddr>,
    /// A name of a workload, or its address.
    pub to: &'a str,
    /// The address that it is sent to, where the workload has several or none.
    pub to_address: Option<IpAddr>,
    /// The workload port.
    pub port: u16,
    /// The server name.
    pub sni: Option<String>,
    /// The namespace of names that have none.
    pub namespace: &'a str,
}

/// The two ends, resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ends {
    /// The peer, in words.
    pub from: String,
    /// The destination.
    pub to: WorkloadId,
    /// What is asked.
    pub question: Question,
    /// What was assumed.
    pub notes: Vec<String>,
}

/// Resolves the two ends; otherwise a sentence on what is not there.
pub fn ends(asked: &Asked<'_>, mesh: &Mesh, objects: &Objects) -> Result<Ends, String> {
    let mut notes = Vec::new();
    let to = destination(asked, mesh, objects, &mut notes)?;
    let (from, peer, source) = source(asked, mesh, objects, &mut notes)?;
    let mut question = Question::new(peer, asked.port);
    question.source = asked.from_address.or(source);
    question.destination = asked.to_address.or_else(|| asked.to.parse().ok()).or_else(|| {
        let like = question.source?;
        let family = |address: &&IpAddr| address.is_ipv4() == like.is_ipv4();
        to.addresses.iter().find(family).or_else(|| to.addresses.first()).copied()
    });
    if question.destination.is_none() {
        question.destination = to.addresses.first().copied();
    }
    if let (Some(one), Some(other)) = (question.source.map(canonical), question.destination.map(canonical))
        && one.is_ipv4() != other.is_ipv4()
    {
        return Err(format!("{one} and {other} are of two families: no connection goes from one to the other"));
    }
    question.sni.clone_from(&asked.sni);
    Ok(Ends { from, to: to.id.clone(), question, notes })
}

fn destination<'m>(
    asked: &Asked<'_>,
    mesh: &'m Mesh,
    objects: &Objects,
    notes: &mut Vec<String>,
) -> Result<&'m Workload, String> {
    if let Ok(address) = asked.to.parse::<IpAddr>() {
        return at(address, mesh).ok_or_else(|| format!("no workload has the address {address}; name the workload"));
    }
    let found = names::workloads(asked.to, asked.namespace, objects)?;
    first(asked.to, &found, mesh, notes)
}

type Source = (String, Peer, Option<IpAddr>);

fn source(asked: &Asked<'_>, mesh: &Mesh, objects: &Objects, notes: &mut Vec<String>) -> Result<Source, String> {
    let text = asked.from;
    if text == "outside" {
        return Ok(("a client without identity".to_owned(), Peer::Anonymous, None));
    }
    if let Ok(address) = text.parse::<IpAddr>() {
        let address = canonical(address);
        return Ok(match at(address, mesh) {
            Some(workload) => of_workload(workload, mesh, Some(address), notes),
            None => (format!("{address} (outside the mesh)"), Peer::Anonymous, Some(address)),
        });
    }
    if let Some(peer) = identity(text) {
        return Ok((text.trim_start_matches(SCHEME).to_owned(), peer, None));
    }
    let found = names::workloads(text, asked.namespace, objects)?;
    let workload = first(text, &found, mesh, notes)?;
    // A source has the family of the destination that was given.
    let like = asked.to_address.or_else(|| asked.to.parse().ok());
    let family = |address: &&IpAddr| like.is_none_or(|like: IpAddr| like.is_ipv4() == address.is_ipv4());
    let address = workload.addresses.iter().find(family).copied();
    Ok(of_workload(workload, mesh, address, notes))
}

fn of_workload(workload: &Workload, mesh: &Mesh, address: Option<IpAddr>, notes: &mut Vec<String>) -> Source {
    if let Some(id) = workload.identity(&mesh.settings) {
        return (format!("{} (service account {})", workload.id, id.service_account()), Peer::Attested(id), address);
    }
    notes.push(format!(
        "{} has no identity: until it is injected no rule can name it by namespace, account or principal",
        workload.id
    ));
    (format!("{} (not in the mesh, no identity)", workload.id), Peer::Anonymous, address)
}

/// `spiffe://TD/ns/NS/sa/SA`, the same without its scheme, or any URI of a certificate.
fn identity(text: &str) -> Option<Peer> {
    let full = if text.contains("://") { text.to_owned() } else { format!("{SCHEME}{text}") };
    if let Some(id) = SpiffeId::parse(&full) {
        return Some(Peer::Attested(id));
    }
    text.contains("://").then(|| Peer::Verified(vec![PeerName::new(text)]))
}

fn at(address: IpAddr, mesh: &Mesh) -> Option<&Workload> {
    let address = canonical(address);
    mesh.workloads.iter().find(|workload| workload.addresses.iter().any(|own| canonical(*own) == address))
}

fn first<'m>(
    name: &str,
    found: &[WorkloadId],
    mesh: &'m Mesh,
    notes: &mut Vec<String>,
) -> Result<&'m Workload, String> {
    let mut there = mesh.workloads.iter().filter(|workload| found.contains(&workload.id));
    let Some(first) = there.next() else { return Err(format!("`{name}` is no workload of this mesh")) };
    let others = there.count();
    if others > 0 {
        notes.push(format!("`{name}` is {} workloads: {} stands for them", others + 1, first.id));
    }
    Ok(first)
}
