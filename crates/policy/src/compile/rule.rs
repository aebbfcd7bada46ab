//! One written rule to what it means for a profile and an action: HTTP-only attributes (S-39 to S-45), values that bypassed
//! admission (S-47, S-48), trust domain aliases.

use std::sync::Arc;

use super::alias;
use crate::identity::SCHEME;
use crate::matcher::{Blocks, Set, TextSet, Truth, View, namespace_glob};
use crate::mesh::{Profile, Settings};
use crate::spec::{Action, Attribute, Entry, Match, Rule, Value, Values};

/// A rule ready to be evaluated. Entries stand at the same positions as in the written rule.
#[derive(Clone, Debug)]
pub(crate) struct CompiledRule {
    pub(crate) from: Vec<CompiledEntry>,
    pub(crate) to: Vec<CompiledEntry>,
    pub(crate) when: Vec<CompiledEntry>,
    pub(crate) effect: Effect,
}

/// A source, operation or condition ready to be evaluated.
#[derive(Clone, Debug)]
pub(crate) struct CompiledEntry {
    pub(crate) checks: Vec<Check>,
    /// Matches nothing, because nothing is left of it (S-43).
    pub(crate) never: bool,
}

/// One attribute to look at.
#[derive(Clone, Debug)]
pub(crate) struct Check {
    pub(crate) attribute: Attribute,
    pub(crate) wanted: Option<Set>,
    pub(crate) unwanted: Option<Set>,
    /// The position of the match in the written entry.
    pub(crate) written: usize,
}

impl Check {
    pub(crate) fn truth(&self, view: &View<'_>) -> Truth {
        // S-37
        let wanted = self.wanted.as_ref().map_or(Truth::True, |set| set.truth(view));
        let unwanted = self.unwanted.as_ref().map_or(Truth::True, |set| set.truth(view).not());
        wanted.and(unwanted)
    }
}

/// What became of a rule on TCP (S-102).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It means what is written.
    Effective,
    /// It matches more than is written: these fields were dropped.
    Widened(Vec<Arc<str>>),
    /// It never matches, because of this field.
    Void(Arc<str>),
    /// It never matches, because nothing is left of one of its parts; these fields were dropped.
    Dead(Vec<Arc<str>>),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    From,
    To,
    When,
}

struct Context<'a> {
    settings: &'a Settings,
    action: Action,
    namespace: &'a str,
    void: Option<Arc<str>>,
    dropped: Vec<Arc<str>>,
}

/// Compiles one rule of a policy in this namespace.
pub(crate) fn compile_rule(rule: &Rule, action: Action, namespace: &str, settings: &Settings) -> CompiledRule {
    let mut context = Context { settings, action, namespace, void: None, dropped: Vec::new() };
    let mut part =
        |entries: &[Entry], part: Part| entries.iter().map(|entry| context.entry(entry, part)).collect::<Vec<_>>();
    let (from, to, when) = (part(&rule.from, Part::From), part(&rule.to, Part::To), part(&rule.when, Part::When));
    let all_dead = |entries: &[CompiledEntry]| !entries.is_empty() && entries.iter().all(|entry| entry.never);
    let dead = all_dead(&from) || all_dead(&to) || when.iter().any(|entry| entry.never);
    let Context { void, dropped, .. } = context;
    let effect = match void {
        Some(by) => Effect::Void(by),
        None if dead => Effect::Dead(dropped),
        None if dropped.is_empty() => Effect::Effective,
        None => Effect::Widened(dropped),
    };
    CompiledRule { from, to, when, effect }
}

impl Context<'_> {
    fn entry(&mut self, entry: &Entry, part: Part) -> CompiledEntry {
        let checks: Vec<Check> =
            entry.matches.iter().enumerate().filter_map(|(written, found)| self.check(found, part, written)).collect();
        // S-43: what is left empty matches nothing in ambient, everything in sidecar (S-42).
        let never = checks.is_empty() && self.settings.profile == Profile::Ambient;
        CompiledEntry { checks, never }
    }

    fn check(&mut self, found: &Match, part: Part, written: usize) -> Option<Check> {
        if is_http_only(found, part, self.settings.profile) {
            return match self.action {
                Action::Allow => self.void(found),                                 // S-41
                Action::Deny | Action::Audit | Action::Custom => self.drop(found), // S-42, S-43
            };
        }
        if found.attribute == Attribute::Unknown {
            return self.void(found); // S-47
        }
        if found.attribute == Attribute::TrustDomain && self.settings.profile == Profile::Ambient {
            return self.drop(found); // S-45
        }
        let unreadable = [&found.wanted, &found.unwanted]
            .into_iter()
            .flatten()
            .flatten()
            .any(|value| matches!(value, Value::Unreadable(_)));
        if unreadable && self.settings.profile == Profile::Sidecar && self.action == Action::Allow {
            return self.void(found); // S-47
        }
        let wanted = found.wanted.as_ref().and_then(|values| self.set(found.attribute, values));
        let unwanted = found.unwanted.as_ref().and_then(|values| self.set(found.attribute, values));
        if unreadable {
            self.dropped.push(Arc::clone(&found.written));
        }
        if wanted.is_none() && unwanted.is_none() {
            return None; // S-47, S-48: no value is left
        }
        Some(Check { attribute: found.attribute, wanted, unwanted, written })
    }

    fn void<T>(&mut self, found: &Match) -> Option<T> {
        self.void.get_or_insert_with(|| Arc::clone(&found.written));
        None
    }

    fn drop<T>(&mut self, found: &Match) -> Option<T> {
        self.dropped.push(Arc::clone(&found.written));
        None
    }

    /// The readable values as a set; `None` if there are none.
    fn set(&self, attribute: Attribute, values: &Values) -> Option<Set> {
        let texts = || values.iter().map(Value::text);
        let sidecar = self.settings.profile == Profile::Sidecar;
        Some(match attribute {
            Attribute::Principal => self.principals(values),
            Attribute::Namespace if sidecar => Set::NamespacesRaw(texts().map(namespace_glob).collect()),
            Attribute::Namespace => Set::Namespaces(TextSet::new(texts())),
            Attribute::ServiceAccount => Set::ServiceAccounts(texts().map(|text| self.account(text)).collect()),
            Attribute::TrustDomain => {
                let expanded = texts().flat_map(|text| alias::trust_domain(text, self.settings));
                Set::TrustDomains(expanded.map(Arc::from).collect())
            }
            Attribute::SourceIp | Attribute::RemoteIp => Set::Source(blocks(values)?), // S-58
            Attribute::DestinationIp => Set::Destination(blocks(values)?),
            Attribute::Port => Set::Ports(ports(values)?),
            Attribute::ServerName => Set::ServerName(TextSet::new(texts())),
            Attribute::Request => Set::Request,
            Attribute::Metadata | Attribute::Http | Attribute::Unknown => Set::Nothing, // S-61
        })
    }

    fn principals(&self, values: &Values) -> Set {
        let literal = self.settings.profile == Profile::Ambient; // S-67
        let expand = |text: &str| {
            if literal { vec![text.to_owned()] } else { alias::principal(text, self.settings) }
        };
        let mut usable: Vec<String> = values.iter().flat_map(|value| expand(value.text())).collect();
        usable.retain(|text| !text.contains(SCHEME)); // S-50
        if usable.is_empty() { Set::Nothing } else { Set::Principals(TextSet::new(usable)) }
    }

    /// S-54: a bare name is in the namespace of the policy.
    fn account(&self, text: &str) -> (Arc<str>, Arc<str>) {
        let (namespace, name) = text.split_once('/').unwrap_or((self.namespace, text));
        (Arc::from(namespace), Arc::from(name))
    }
}

fn blocks(values: &Values) -> Option<Blocks> {
    let readable = values.iter().filter_map(Value::block);
    let mut readable = readable.peekable();
    readable.peek()?;
    Some(Blocks::new(readable))
}

fn ports(values: &Values) -> Option<Vec<u16>> {
    let mut ports: Vec<u16> = values.iter().filter_map(Value::port).collect();
    ports.sort_unstable();
    ports.dedup();
    (!ports.is_empty()).then_some(ports)
}

/// S-39, S-40, S-44.
fn is_http_only(found: &Match, part: Part, profile: Profile) -> bool {
    match profile {
        Profile::Sidecar => found.attribute == Attribute::Http,
        Profile::Ambient if part == Part::When => !matches!(
            found.attribute,
            Attribute::SourceIp
                | Attribute::Namespace
                | Attribute::Principal
                | Attribute::DestinationIp
                | Attribute::Port
        ),
        Profile::Ambient => matches!(found.attribute, Attribute::Http | Attribute::RemoteIp),
    }
}
