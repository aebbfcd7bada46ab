//! The engine against the naive evaluator, over generated meshes, policies and connections.
//! `POLICY_SCALE` multiplies the number of worlds: 1 is about 10^5 compared decisions.
#![cfg(test)]
#![expect(clippy::disallowed_methods, reason = "the scale comes from the environment")]

#[path = "support/generate.rs"]
mod generate;
#[path = "support/naive.rs"]
mod naive;
#[path = "support/values.rs"]
mod values;

use generate::{Random, Wish};
use policy::decide::ShadowVerdict;
use policy::{Profile, Reason};

const WORLDS: u64 = 1_000;
const CONNECTIONS: usize = 52;

fn scale() -> u64 {
    std::env::var("POLICY_SCALE").ok().and_then(|text| text.parse().ok()).unwrap_or(1)
}

fn compare(profile: Profile, admissible: bool, first_seed: u64) {
    let mut permitted = 0_u64;
    let worlds = WORLDS / 2 * scale();
    for seed in first_seed..first_seed + worlds {
        let mut random = Random(seed);
        let world = generate::world(&mut random, Wish { profile, admissible, policies_max: 6 });
        let snapshot = policy::compile(&world.mesh(), 1, None);
        for _ in 0..CONNECTIONS {
            let connection = generate::connection(&mut random, &world);
            let destination = &world.workloads[0];
            let wanted = naive::decide(&world.documents, &world.settings, destination, &connection);
            let decision = snapshot.decide(&destination.id, &connection);
            let matched = |shadow: &ShadowVerdict| {
                let rule = shadow.matched.as_ref().map(|(policy, rule)| format!("{policy}#{rule}"));
                (shadow.allowed, rule.unwrap_or_default())
            };
            let rule = decision.policy.as_ref().zip(decision.rule).map(|(policy, rule)| format!("{policy}#{rule}"));
            let mut found = naive::Verdict {
                reason: decision.reason.word().to_owned(),
                rule: rule.unwrap_or_default(),
                audit: decision.audit.is_some(),
                consulted: decision.consulted,
                shadow_allow: decision.shadow.allow.as_ref().map(matched),
                shadow_deny: decision.shadow.deny.as_ref().map(matched),
            };
            if wanted.reason == "unanswered" {
                // The clauses do not speak of an authorizer without an answer: whatever else is said, it is a denial.
                assert!(!decision.is_permitted(), "seed {seed}");
                continue;
            }
            if found.reason == "mtls-required" {
                found.rule.clear();
            }
            permitted += u64::from(decision.is_permitted());
            assert_eq!(found, wanted, "seed {seed}\n{connection:?}\n{}", serde_json::json!(world.documents));
            assert_eq!(decision.is_permitted(), decision.reason.permits());
            let explained = snapshot.explain(&destination.id, &connection);
            assert_eq!(explained.decision.reason, decision.reason, "explain = decide, seed {seed}");
            assert_eq!(explained.decision.rule, decision.rule, "explain = decide, seed {seed}");
            assert!(explained.nearest.is_none() || decision.reason == Reason::AllowNoMatch);
        }
    }
    let all = worlds * CONNECTIONS as u64;
    assert!(permitted > all / 20 && permitted < all * 19 / 20, "the comparison is one-sided: {permitted} of {all}");
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
