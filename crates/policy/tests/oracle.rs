//! The engine against the naive evaluator, over generated meshes, policies and connections: 10^5 compared decisions.
//! `TIDEGATE_POLICY_SCALE` multiplies them; `./check` runs 10^6 of them with optimization, `./check --long` 10^8.
#![cfg(test)]
#![expect(clippy::disallowed_methods, reason = "the scale comes from the environment")]

#[path = "support/generate.rs"]
mod generate;
#[path = "support/naive.rs"]
mod naive;
#[path = "support/values.rs"]
mod values;

use std::collections::BTreeMap;

use generate::{Random, Wish, World};
use policy::compile::Effect;
use policy::decide::ShadowVerdict;
use policy::explain::Explanation;
use policy::spec::Attribute;
use policy::{Connection, Decision, Profile, Reason, Snapshot};

const WORLDS: u64 = 500;
const CONNECTIONS: usize = 52;

fn scale() -> u64 {
    std::env::var("TIDEGATE_POLICY_SCALE").ok().and_then(|text| text.parse().ok()).unwrap_or(1)
}

/// How often each thing was met, so that none of the clauses is compared in name only.
#[derive(Default)]
struct Met(BTreeMap<String, u64>);

impl Met {
    fn add(&mut self, what: String) {
        *self.0.entry(what).or_default() += 1;
    }

    fn decision(&mut self, explained: &Explanation) {
        let decision = &explained.decision;
        self.add(format!("reason {}", decision.reason.word()));
        self.add(format!("audit {}", decision.audit.is_some()));
        self.add(format!("consulted {}", decision.consulted));
        for (name, shadow) in [("allow", &decision.shadow.allow), ("deny", &decision.shadow.deny)] {
            self.add(format!("trial {name} {:?}", shadow.as_ref().map(|shadow| shadow.allowed)));
        }
        self.add(format!("if enforced {:?}", decision.shadow.if_enforced));
        for rule in &explained.rules {
            let effect = match rule.effect {
                Effect::Effective => "effective",
                Effect::Widened(_) => "widened",
                Effect::Void(_) => "void",
                Effect::Dead(_) => "dead",
            };
            self.add(format!("rule {effect} {:?}", rule.matched));
            for field in rule.fields.iter().filter(|field| field.matched.is_some()) {
                let part = field.field.split('[').next().unwrap();
                self.add(format!("{part} {:?} {:?}", field.attribute, field.matched));
            }
        }
    }

    fn assert_all(&self, profile: Profile, admissible: bool) {
        let mut wanted: Vec<String> =
            ["no-allow-policies", "allow-match", "allow-no-match", "deny-match", "mtls-required"]
                .iter()
                .map(|reason| format!("reason {reason}"))
                .collect();
        let shadows = ["None", "Some(false)", "Some(true)"];
        wanted.extend(shadows.iter().flat_map(|one| [format!("trial allow {one}"), format!("trial deny {one}")]));
        wanted.extend(shadows.iter().map(|one| format!("if enforced {one}")));
        for effect in ["effective", "widened"] {
            wanted.extend([format!("rule {effect} Some(false)"), format!("rule {effect} Some(true)")]);
        }
        wanted.push("rule void Some(false)".to_owned());
        let mut parts = vec![
            ("from", Attribute::Principal),
            ("from", Attribute::Namespace),
            ("from", Attribute::ServiceAccount),
            ("from", Attribute::SourceIp),
            ("to", Attribute::Port),
            ("when", Attribute::Principal),
            ("when", Attribute::Namespace),
            ("when", Attribute::SourceIp),
            ("when", Attribute::DestinationIp),
            ("when", Attribute::Port),
        ];
        if profile == Profile::Ambient {
            wanted.push("rule dead Some(false)".to_owned());
        } else {
            let reasons = ["custom-denied", "custom-bad-provider", "needs-proxy-path"];
            wanted.extend(reasons.iter().map(|reason| format!("reason {reason}")));
            wanted.extend(["audit true".to_owned(), "consulted true".to_owned()]);
            parts.extend([
                ("from", Attribute::RemoteIp),
                ("from", Attribute::TrustDomain),
                ("when", Attribute::RemoteIp),
                ("when", Attribute::TrustDomain),
                ("when", Attribute::ServiceAccount),
                ("when", Attribute::ServerName),
                ("when", Attribute::Metadata),
            ]);
        }
        wanted.extend(
            parts.iter().flat_map(|(part, what)| ["false", "true"].map(|it| format!("{part} {what:?} Some({it})"))),
        );
        let missing: Vec<_> = wanted.iter().filter(|one| !self.0.contains_key(*one)).collect();
        assert!(missing.is_empty(), "{profile:?}, admissible: {admissible}: never met {missing:?}");
    }
}

fn compare(profile: Profile, admissible: bool, first_seed: u64) {
    let mut met = Met::default();
    let (mut all, mut permitted) = (0_u64, 0_u64);
    for seed in first_seed..first_seed + WORLDS * scale() {
        let mut random = Random(seed);
        let world = generate::world(&mut random, Wish { profile, admissible, policies_max: 6 });
        let snapshot = policy::compile(&world.mesh(), 1, None);
        for _ in 0..CONNECTIONS {
            let connection = generate::connection(&mut random, &world);
            let decision = compare_one(&snapshot, &world, &connection, seed);
            all += 1;
            permitted += u64::from(decision.is_permitted());
            // Traces cost more than decisions: those of the first worlds will do.
            if seed < first_seed + WORLDS {
                met.decision(&explained(&snapshot, &world, &connection, &decision, seed));
            }
        }
    }
    assert!(permitted > all / 20 && permitted < all * 19 / 20, "the comparison is one-sided: {permitted} of {all}");
    met.assert_all(profile, admissible);
}

fn compare_one(snapshot: &Snapshot, world: &World, connection: &Connection, seed: u64) -> Decision {
    let destination = &world.workloads[0];
    let wanted = naive::decide(&world.documents, &world.settings, destination, connection);
    let decision = snapshot.decide(&destination.id, connection);
    assert_eq!(decision.is_permitted(), decision.reason.permits());
    if wanted.reason == "unanswered" {
        // The clauses do not speak of an authorizer without an answer: whatever else is said, it is a denial.
        assert!(!decision.is_permitted(), "seed {seed}");
        return decision;
    }
    let rule = decision.policy.as_ref().zip(decision.rule).map(|(policy, rule)| format!("{policy}#{rule}"));
    let matched = |shadow: &ShadowVerdict| {
        let rule = shadow.matched.as_ref().map(|(policy, rule)| format!("{policy}#{rule}"));
        (shadow.allowed, rule.unwrap_or_default())
    };
    let found = naive::Verdict {
        reason: decision.reason.word().to_owned(),
        rule: rule.unwrap_or_default(),
        audit: decision.audit.is_some(),
        consulted: decision.consulted,
        shadow_allow: decision.shadow.allow.as_ref().map(matched),
        shadow_deny: decision.shadow.deny.as_ref().map(matched),
        if_enforced: decision.shadow.if_enforced,
    };
    assert_eq!(found, wanted, "seed {seed}\n{connection:?}\n{}", serde_json::json!(world.documents));
    decision
}

/// Law: explain = decide.
fn explained(
    snapshot: &Snapshot,
    world: &World,
    connection: &Connection,
    decision: &Decision,
    seed: u64,
) -> Explanation {
    let explained = snapshot.explain(&world.workloads[0].id, connection);
    let other = &explained.decision;
    assert_eq!((other.reason, other.rule, &other.policy), (decision.reason, decision.rule, &decision.policy), "{seed}");
    assert_eq!((&other.shadow, &other.audit, other.consulted), (&decision.shadow, &decision.audit, decision.consulted));
    assert!(explained.nearest.is_none() || decision.reason == Reason::AllowNoMatch);
    let destination = &world.workloads[0].id;
    let recorded = snapshot.outcome_as_tcp(destination, connection);
    assert_eq!(recorded, snapshot.explain_at_syn(destination, connection).outcome(), "{seed}");
    explained
}

#[test]
fn sidecar_admitted() {
    compare(Profile::Sidecar, true, 0);
}

#[test]
fn sidecar_bypassing_admission() {
    compare(Profile::Sidecar, false, 1 << 32);
}

#[test]
fn ambient_admitted() {
    compare(Profile::Ambient, true, 2 << 32);
}

#[test]
fn ambient_bypassing_admission() {
    compare(Profile::Ambient, false, 3 << 32);
}
