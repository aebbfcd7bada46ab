//! The exact cut of everything a decision can depend on: identity × source address × destination address × port × server name × labels
//! of the destination. Within one cell every connection gets the same decision, so that one representative speaks for all, and "for all
//! connections" is meant literally: `compare` two snapshots, `search` one for a verdict, ask `rules` which of them change nothing.
//!
//! What counts as a connection: any source address with any peer, that is nobody or one identity `spiffe://TD/ns/NS/sa/SA`, whatever the
//! three names are. The two are independent of each other, also where the mesh knows whose address it is: so more connections are looked
//! at than can occur, and what is proved holds for those that do. Certificates with several names, or with one of another form, are
//! outside. Answers of external authorizers are free. Where a named bound is met the answer is inconclusive, never "proved".

mod bits;
mod compare;
mod everywhere;
mod fate;
mod glob;
mod grid;
mod ground;
mod identity;
mod labels;
mod region;
mod search;
mod side;
mod term;
mod tree;
mod words;

#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;

pub use grid::Cut;
pub(crate) use grid::{last_address, ports};
pub use words::{addresses_in_words, ports_in_words};

use self::region::Known;
use self::side::Place;
use crate::compile::Effect;
use crate::compile::rule::{CompiledRule, compile_rule};
use crate::decide::Connection;
use crate::identity::Peer;
use crate::mesh::{Mesh, PolicyId, Settings, Workload, WorkloadId};
use crate::snapshot::Snapshot;
use crate::spec::{Action, Rule};

/// What was met before there was an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Bound {
    /// The patterns of names are cut into more classes than can be borne: too many stars in too many places.
    Classes,
    /// The attributes combine into more cells than can be borne.
    Cells,
    /// The selectors combine into more kinds of workloads than can be borne.
    Labels,
    /// More external authorizers on one workload than can be told apart.
    Authorizers,
}

/// Connections in words, as ranges and by one of them. All parts hold together: the region is their product.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Region {
    /// Who.
    pub peers: PeerClass,
    /// From where; both families if both.
    pub sources: Vec<RangeInclusive<IpAddr>>,
    /// To which of its addresses; empty if it makes no difference.
    pub destinations: Vec<RangeInclusive<IpAddr>>,
    /// To which ports. Port 0 may be among them, although no process can listen there.
    pub ports: Vec<RangeInclusive<u16>>,
    /// With which server names.
    pub server_names: NameClass,
    /// The external authorizers that must allow for it to be so.
    pub allowed_by: Vec<String>,
    /// The external authorizers of which one must refuse for it to be so.
    pub refused_by: Vec<String>,
    /// One of these connections, with the answers of authorizers that show it.
    pub witness: Connection,
}

/// Peers of which the policies make no difference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerClass {
    /// As the object of "from": `any workload of namespace foo`, `everyone`, `clients without identity`.
    pub words: String,
    /// One of them, a workload of the mesh where there is one.
    pub representative: Peer,
}

/// Server names of which the policies make no difference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameClass {
    /// As an addition: empty if any will do, otherwise like `with server name a.example` or `without server name`.
    pub words: String,
    /// One of them; `None` is a connection without server name.
    pub representative: Option<String>,
}

/// How two sets of policies stand to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Relation {
    /// Both permit the same connections.
    Equivalent,
    /// The second permits less and nothing else.
    MoreRestrictive,
    /// The second permits more and loses nothing.
    MorePermissive,
    /// Each permits something that the other denies.
    Incomparable,
    /// Not known, because of this bound; regions that were found are differences all the same.
    Inconclusive(Bound),
}

/// What differs between two snapshots for one destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Comparison {
    /// In one word.
    pub relation: Relation,
    /// Denied before, permitted after: disjoint, and all of it unless inconclusive or more.
    pub opened: Vec<Region>,
    /// Permitted before, denied after: disjoint, and all of it unless inconclusive or more.
    pub closed: Vec<Region>,
    /// There is more than is told: in so many places do they differ.
    pub more: bool,
}

/// What is compared: a workload, or all workloads that there might be with some labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// A workload of one mesh or of both.
    Workload(WorkloadId),
    /// Any workload that the selectors of both meshes cannot tell from this one.
    Labelled {
        /// In words: `any workload of namespace foo with app=db`.
        words: String,
        /// One of them; both snapshots of the `Difference` have it.
        example: Box<Workload>,
    },
}

/// What differs between two meshes, over all destinations.
#[derive(Debug)]
pub struct Difference {
    /// Over all destinations.
    pub relation: Relation,
    /// The destinations with a difference or without an answer: workloads first, then what selectors tell apart.
    pub destinations: Vec<(Destination, Comparison)>,
    /// Workloads of the first mesh only; they are judged by the policies of both.
    pub only_before: Vec<WorkloadId>,
    /// Workloads of the second mesh only.
    pub only_after: Vec<WorkloadId>,
    /// The snapshots that were compared, with workloads of the other one and the examples of labelled destinations as workloads: witnesses can be decided again.
    pub before: Snapshot,
    /// The other one.
    pub after: Snapshot,
}

/// What a search looks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Wanted {
    /// A connection that is permitted, or is if its authorizers allow it.
    Permitted,
    /// A connection that is denied, or is if one of its authorizers refuses it.
    Denied,
}

/// What a search found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proof {
    /// There is no such connection; so many cells were looked at.
    Proved {
        /// Never 0: a search among no connections at all is `Vacuous`.
        cells: usize,
    },
    /// There are such connections: some of them, disjoint, at least one. The first one's witness is the witness.
    Refuted(Vec<Region>),
    /// No connection is among those that were asked about.
    Vacuous,
    /// Not known, because of this bound.
    Inconclusive(Bound),
}

/// The connections that a search is about: those that a rule matches, in the language of policies. "Nothing outside namespace payments"
/// is `notNamespaces: [payments]`, which clients without identity fulfil, too (S-56).
#[derive(Clone, Debug)]
pub struct Among {
    pub(crate) rule: Arc<CompiledRule>,
}

impl Among {
    /// The connections that match a rule written in a policy of this namespace; or the field that has no meaning on TCP.
    pub fn new(rule: &Rule, namespace: &str, settings: &Settings) -> Result<Self, Arc<str>> {
        let rule = compile_rule(rule, Action::Allow, namespace, settings);
        match &rule.effect {
            Effect::Effective => Ok(Self { rule: Arc::new(rule) }),
            Effect::Void(field) => Err(Arc::clone(field)),
            Effect::Widened(fields) | Effect::Dead(fields) => {
                Err(fields.first().map_or_else(|| Arc::from("an empty field"), Arc::clone))
            }
        }
    }
}

/// One rule of one policy.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RuleName {
    /// The policy.
    pub policy: Arc<PolicyId>,
    /// The rule, counted from 0 in the document.
    pub rule: usize,
}

/// What a rule is good for: for a trial among the trials of its action (S-70), otherwise among all that is enforced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Without it some connection would be decided, marked or asked about otherwise.
    Effective,
    /// No connection that its stage gets to see matches it.
    Dead,
    /// All it matches is decided before it comes to it, at least in part by an earlier stage: by these rules.
    Shadowed {
        /// Together they hide it; none of them alone can be left out.
        by: Vec<RuleName>,
    },
    /// All it matches is matched by other rules of its own action, too: by these.
    Redundant {
        /// Together they cover it; none of them alone can be left out.
        by: Vec<RuleName>,
    },
    /// A DENY rule that refuses only what nothing would permit.
    Idle,
}

/// A rule and what it is good for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleFate {
    /// The rule.
    pub rule: RuleName,
    /// What it is good for.
    pub fate: Fate,
}

/// What differs for one destination, as `decide` judges connections to it. A destination that one snapshot does not know is denied
/// there.
pub fn compare(before: &Snapshot, after: &Snapshot, destination: &WorkloadId) -> Comparison {
    compare::compare(place(before, destination), place(after, destination), &Known::new(vec![before, after]))
}

/// What differs for any destination: the workloads of either, judged by the policies of both, and whatever other workloads the selectors could tell apart.
pub fn compare_meshes(before: &Mesh, after: &Mesh) -> Difference {
    everywhere::compare_meshes(before, after)
}

/// All workloads that there might be, as far as the selectors of a mesh can tell them apart; the labels of each example are those that
/// its selectors ask for and no others.
pub fn kinds(mesh: &Mesh) -> Result<Vec<Destination>, Bound> {
    Ok(labels::kinds(&[mesh], true)?.into_iter().map(labels::Kind::into_destination).collect())
}

/// Is there a connection to this destination with this verdict.
pub fn search(snapshot: &Snapshot, destination: &WorkloadId, wanted: Wanted, among: &Among) -> Proof {
    search::search(place(snapshot, destination), wanted, among, &Known::new(vec![snapshot]))
}

/// The same for many destinations, in their order: those to which the same applies are searched once.
pub fn search_each(snapshot: &Snapshot, destinations: &[WorkloadId], wanted: Wanted, among: &Among) -> Vec<Proof> {
    everywhere::search_each(snapshot, destinations, wanted, among)
}

/// What each rule that applies to a workload is good for there, in the order of policies and rules.
pub fn rules(snapshot: &Snapshot, destination: &WorkloadId) -> Result<Vec<RuleFate>, Bound> {
    fate::fates(place(snapshot, destination))
}

/// What each rule of a mesh is good for over all workloads that there are and might be: effective where it is anywhere. Rules of
/// policies that apply to no workload at all are left out.
pub fn rules_everywhere(mesh: &Mesh) -> Vec<(RuleName, Result<Fate, Bound>)> {
    everywhere::rules_everywhere(mesh)
}

fn place<'a>(snapshot: &'a Snapshot, destination: &WorkloadId) -> Place<'a> {
    Place { snapshot, state: snapshot.workload(destination).map(|state| &**state) }
}
