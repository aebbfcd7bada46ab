//! What is worth saying about a policy that is readable: nothing here refuses, nothing here changes a verdict (S-102, S-103).
//! Only what the policy itself shows; what depends on workloads and services is said where they are known.

use super::reader::{Path, Reader};
use crate::address::Block;
use crate::compile::Effect;
use crate::compile::rule::{CompiledEntry, CompiledRule, compile_rule};
use crate::finding::Code;
use crate::identity::SCHEME;
use crate::mesh::{Profile, Settings};
use crate::spec::{Action, Attribute, AuthorizationPolicy, Entry, Match, Rule, Scope, Value, Values};

/// Adds the findings.
pub(super) fn findings(reader: &mut Reader, policy: &AuthorizationPolicy, settings: &Settings) {
    whole(reader, policy, settings);
    let spec = Path::Root.member("spec");
    let rules = spec.member("rules");
    let other = Settings { profile: settings.profile.other(), ..settings.clone() };
    let mut any_can_match = false;
    for (index, rule) in policy.rules.iter().enumerate() {
        let path = rules.index(index);
        let compile = |settings: &Settings| compile_rule(rule, policy.action, &policy.id.namespace, settings);
        let (here, there) = (compile(settings), compile(&other));
        any_can_match |= here.can_match();
        effect(reader, policy.action, &here, &path);
        if policy.action == Action::Deny && here.can_match() && is_unconditional(&here) {
            let message = "the DENY rule reaches every TCP connection to the workloads that the policy selects";
            reader.find(Code::DenyAllTcp, &path, message);
        }
        if here.can_match() != there.can_match() || is_unconditional(&here) != is_unconditional(&there) {
            let (one, two) = (in_words(&here), in_words(&there));
            let message =
                format!("profiles disagree: {} {one}, {} {two}", settings.profile.word(), other.profile.word());
            reader.find(Code::ProfilesDisagree, &path, message);
        }
        values(reader, rule, settings, &path);
    }
    if policy.action == Action::Allow && !policy.rules.is_empty() && !any_can_match {
        let message = "no rule of this ALLOW policy can match TCP; every connection to the selected workloads is denied unless another ALLOW policy matches";
        reader.find(Code::AllowsNothing, &rules, message);
    }
}

impl Profile {
    fn other(self) -> Self {
        match self {
            Self::Sidecar => Self::Ambient,
            Self::Ambient => Self::Sidecar,
        }
    }
}

/// What concerns the policy as a whole.
fn whole(reader: &mut Reader, policy: &AuthorizationPolicy, settings: &Settings) {
    let spec = Path::Root.member("spec");
    let ambient = settings.profile == Profile::Ambient;
    match &policy.scope {
        Scope::Targets => {
            let message =
                "a policy with target references applies to gateways only, it is not enforced on any workload";
            reader.find(Code::TargetRefsIgnored, &spec, message); // S-25
        }
        Scope::Labels(labels) if labels.is_empty() && ambient => {
            let message = "a selector without labels selects nothing in the ambient profile; leave `selector` out to select everything";
            reader.find(Code::SelectorSelectsNothing, &spec.member("selector"), message); // S-27
        }
        Scope::Labels(_) | Scope::All => {}
    }
    let path = spec.member("action");
    match policy.action {
        Action::Audit | Action::Custom if ambient => {
            let message =
                format!("{} is not applied in the ambient profile, the policy has no effect", policy.action.word());
            reader.find(Code::ActionNotApplied, &path, message); // S-35
        }
        Action::Audit => {
            let message = "AUDIT is not built yet: nothing is marked, and no verdict changes";
            reader.find(Code::AuditNoEffect, &path, message);
        }
        Action::Custom => {
            let message = "CUSTOM needs an external authorizer, which is not asked yet: connections that its rules match are refused (NeedsProxyPath)";
            reader.find(Code::NeedsProxyPath, &path, message);
        }
        Action::Allow | Action::Deny => {}
    }
    if policy.trial {
        let message =
            "the policy is in dry run: it is stored and evaluated, not enforced; remove the annotation to enforce it";
        let metadata = Path::Root.member("metadata");
        let annotations = metadata.member("annotations");
        reader.find(Code::TrialNotEnforced, &annotations.member(super::DRY_RUN), message);
    }
}

/// S-102: what became of a rule.
fn effect(reader: &mut Reader, action: Action, rule: &CompiledRule, path: &Path<'_>) {
    let action = action.word();
    match &rule.effect {
        Effect::Effective => {}
        Effect::Void(by) => {
            let message = format!(
                "the {action} rule never matches TCP, because `{by}` has no meaning there; remove the field or move it to a rule of its own"
            );
            reader.find(Code::RuleVoid, path, message);
        }
        Effect::Widened(dropped) => {
            let message = format!("on TCP {} is ignored: the {action} rule matches more than it says", listed(dropped));
            reader.find(Code::RuleWidened, path, message);
        }
        Effect::Dead(dropped) => {
            let message = format!(
                "on TCP {} is ignored and nothing is left to match: the {action} rule has no effect",
                listed(dropped)
            );
            reader.find(Code::RuleDead, path, message);
        }
    }
}

fn in_words(rule: &CompiledRule) -> &'static str {
    match (rule.can_match(), is_unconditional(rule)) {
        (false, _) => "never matches the rule",
        (true, true) => "matches it with every connection",
        (true, false) => "matches it with some connections",
    }
}

/// Does the rule match every connection.
fn is_unconditional(rule: &CompiledRule) -> bool {
    let empty = |entry: &CompiledEntry| entry.checks.is_empty() && !entry.never;
    let open = |entries: &[CompiledEntry]| entries.is_empty() || entries.iter().any(empty);
    rule.can_match() && open(&rule.from) && open(&rule.to) && rule.when.iter().all(empty)
}

fn listed(fields: &[std::sync::Arc<str>]) -> String {
    let mut names: Vec<String> = fields.iter().map(|field| format!("`{field}`")).collect();
    names.dedup();
    names.join(", ")
}

/// What single values show.
fn values(reader: &mut Reader, rule: &Rule, settings: &Settings, path: &Path<'_>) {
    let parts = [("from", "source", &rule.from), ("to", "operation", &rule.to), ("when", "", &rule.when)];
    for (name, inner, entries) in parts {
        for (index, Entry { matches }) in entries.iter().enumerate() {
            let list = path.member(name);
            let entry = list.index(index);
            let place = if inner.is_empty() { entry } else { entry.member(inner) };
            for found in matches {
                one_match(reader, found, inner.is_empty(), settings, &place);
            }
        }
    }
}

fn one_match(reader: &mut Reader, found: &Match, is_condition: bool, settings: &Settings, place: &Path<'_>) {
    let (positive, negative) =
        if is_condition { ("values".to_owned(), "notValues".to_owned()) } else { twins(&found.written) };
    if found.attribute == Attribute::ServerName && settings.profile == Profile::Sidecar {
        let message = "`connection.sni` is not seen before bytes are, and there is no proxy yet: connections that depend on it are refused (NeedsProxyPath)";
        reader.find(Code::NeedsProxyPath, place, message);
    }
    if found.attribute == Attribute::TrustDomain && !is_condition && settings.profile == Profile::Ambient {
        let message = "`trustDomains` is ignored in the ambient profile; write the trust domain into `principals`";
        reader.find(Code::TrustDomainsIgnored, place, message); // S-45
    }
    for (name, list) in [(positive, &found.wanted), (negative, &found.unwanted)] {
        let path = place.member(&name);
        for (index, value) in list.iter().flat_map(Values::iter).enumerate() {
            one_value(reader, found.attribute, value, settings, &path.index(index));
        }
    }
}

/// The names of a field and of its twin, from either of them.
fn twins(written: &str) -> (String, String) {
    let recased = |text: &str, case: fn(&char) -> char| {
        let mut letters = text.chars();
        let first = letters.next().map(|letter| case(&letter));
        first.into_iter().chain(letters).collect::<String>()
    };
    let positive =
        written.strip_prefix("not").map_or_else(|| written.to_owned(), |rest| recased(rest, char::to_ascii_lowercase));
    let negative = format!("not{}", recased(&positive, char::to_ascii_uppercase));
    (positive, negative)
}

fn one_value(reader: &mut Reader, attribute: Attribute, value: &Value, settings: &Settings, path: &Path<'_>) {
    match attribute {
        Attribute::Principal if value.text().contains(SCHEME) => {
            let without = value.text().replace(SCHEME, "");
            let message =
                format!("`{value}` never matches: principals are written without `{SCHEME}`; write `{without}`");
            reader.find(Code::PrincipalScheme, path, message); // S-50
        }
        Attribute::Namespace if settings.profile == Profile::Sidecar => {} // S-52: every star counts
        Attribute::Principal | Attribute::ServerName | Attribute::Namespace => literal_star(reader, value.text(), path),
        Attribute::SourceIp | Attribute::RemoteIp | Attribute::DestinationIp => {
            let why = match value.block() {
                Some(Block::Never) => "an address with a zone",
                Some(block) if block.is_mapped() => {
                    "an IPv4-mapped block; peers of this kind count as IPv4, write the IPv4 address"
                }
                _ => return,
            };
            reader.find(Code::BlockNeverMatches, path, format!("`{value}` matches no peer: it is {why}")); // S-14, S-57
        }
        Attribute::ServiceAccount
        | Attribute::TrustDomain
        | Attribute::Port
        | Attribute::Metadata
        | Attribute::Http
        | Attribute::Request
        | Attribute::Unknown => {}
    }
}

/// S-49: only one star, at one end, is a wildcard.
fn literal_star(reader: &mut Reader, text: &str, path: &Path<'_>) {
    let rest = text.strip_prefix('*').or_else(|| text.strip_suffix('*')).unwrap_or(text);
    if rest.contains('*') {
        let message =
            format!("`{text}`: only one `*`, first or last, is a wildcard; the star inside is taken literally");
        reader.find(Code::LiteralStar, path, message);
    }
}
