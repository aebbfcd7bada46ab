//! The policies as the HTTP engine would apply them to the requests that suit an expectation worst (S-85).

use std::sync::Arc;

use policy::spec::{Action, Attribute, AuthorizationPolicy, Entry, Rule};
use policy::{Mesh, Profile, ProviderKind};

use super::super::Expect;

/// A mesh that permits whatever some request could get permitted (for `deny`), or denies whatever some request could get denied
/// (for `allow`). `None` where no request makes a difference.
pub(super) fn worst(mesh: &Mesh, expect: Expect) -> Option<Mesh> {
    let differs = mesh.settings.profile == Profile::Sidecar // S-86
        && (mesh.policies.iter().any(|policy| policy.rules.iter().any(looks_at_requests))
            || mesh.policies.iter().any(|policy| policy.action == Action::Custom));
    if !differs {
        return None;
    }
    let mut mesh = mesh.clone();
    for provider in mesh.settings.providers.values_mut() {
        *provider = ProviderKind::Grpc; // S-74: of HTTP both kinds are asked
    }
    for policy in &mut mesh.policies {
        if policy.rules.iter().any(looks_at_requests) {
            *policy = Arc::new(as_worst(policy, expect));
        }
    }
    Some(mesh)
}

fn as_worst(policy: &AuthorizationPolicy, expect: Expect) -> AuthorizationPolicy {
    // For `deny` the worst request is the one that the ALLOW rules match, and the others do not.
    let matches = (policy.action == Action::Allow) == (expect != Expect::Allow);
    let mut policy = policy.clone();
    if !matches {
        policy.rules.retain(|rule| !looks_at_requests(rule));
        return policy;
    }
    for rule in &mut policy.rules {
        for (entries, any) in [(&mut rule.from, true), (&mut rule.to, true), (&mut rule.when, false)] {
            for entry in entries.iter_mut() {
                entry.matches.retain(|one| !is_of_request(one.attribute));
            }
            // A source or an operation of which nothing is left is every one of them; a condition always holds then.
            if any && entries.iter().any(|entry| entry.matches.is_empty()) {
                entries.clear();
            } else {
                entries.retain(|entry| !entry.matches.is_empty());
            }
        }
    }
    policy
}

fn looks_at_requests(rule: &Rule) -> bool {
    let entries = [&rule.from, &rule.to, &rule.when].into_iter().flatten();
    entries.flat_map(|entry: &Entry| &entry.matches).any(|one| is_of_request(one.attribute))
}

/// S-58: it is on TCP that the remote address is the peer's; of a request it may be what a header says.
fn is_of_request(attribute: Attribute) -> bool {
    matches!(attribute, Attribute::Http | Attribute::RemoteIp)
}
