//! Every case of the conformance corpus (tests/conformance/FORMAT.md), in each profile it names.
#![cfg(test)]
#![expect(clippy::disallowed_methods, reason = "the corpus is read from files")]

#[path = "support/yaml.rs"]
mod yaml;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use policy::decide::{ShadowVerdict, StageName};
use policy::finding::{Code, Finding};
use policy::{
    Answer, Connection, Mesh, Peer, Profile, ProviderKind, Settings, Severity, Snapshot, Workload, WorkloadId, parse,
    transition,
};
use serde_json::Value;

/// What went wrong, by case.
type Failures = Vec<String>;

#[test]
fn corpus() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conformance");
    let mut failures = Failures::new();
    let (mut cases, mut runs) = (0, 0);
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        for document in yaml::documents(&std::fs::read_to_string(&path).unwrap()) {
            for case in document["cases"].as_array().unwrap() {
                cases += 1;
                for profile in profiles(case) {
                    runs += 1;
                    run(case, profile, &mut failures);
                }
            }
        }
    }
    assert!(failures.is_empty(), "{} of {cases} cases ({runs} runs):\n{}", failures.len(), failures.join("\n"));
    assert!(cases >= 124, "the corpus has 124 cases, {cases} were found");
}

fn profiles(case: &Value) -> Vec<Profile> {
    let one = |value: &Value| match value.as_str() {
        Some("ambient") => Profile::Ambient,
        _ => Profile::Sidecar,
    };
    case["profile"].as_array().map_or_else(|| vec![one(&case["profile"])], |all| all.iter().map(one).collect())
}

fn run(case: &Value, profile: Profile, failures: &mut Failures) {
    let id = case["id"].as_str().unwrap();
    let mut told = Failures::new();
    let settings = settings(&case["mesh"], profile);
    match case["kind"].as_str() {
        None | Some("evaluation") => evaluation(case, &settings, &mut told),
        Some("validation") => validation(case, &settings, &mut told),
        Some("transition") => change(case, &settings, &mut told),
        Some(other) => told.push(format!("unknown kind {other}")),
    }
    failures.extend(told.into_iter().map(|what| format!("{id} ({}): {what}", profile.word())));
}

fn settings(mesh: &Value, profile: Profile) -> Settings {
    let mut settings = Settings { profile, ..Settings::default() };
    if let Some(root) = mesh["rootNamespace"].as_str() {
        root.clone_into(&mut settings.root_namespace);
    }
    if let Some(domain) = mesh["trustDomain"].as_str() {
        domain.clone_into(&mut settings.trust_domain);
    }
    for alias in mesh["trustDomainAliases"].as_array().into_iter().flatten() {
        settings.trust_domain_aliases.push(alias.as_str().unwrap().to_owned());
    }
    for (name, provider) in mesh["providers"].as_object().into_iter().flatten() {
        let kind = if provider["type"] == "http" { ProviderKind::Http } else { ProviderKind::Grpc };
        settings.providers.insert(name.clone(), kind);
    }
    settings.multiple_custom_providers = mesh["multipleCustomProviders"].as_bool().unwrap_or(false);
    settings.ambient_dry_run = mesh["ambientDryRun"].as_bool().unwrap_or(true);
    settings
}

fn snapshot(case: &Value, policies: &str, settings: &Settings, generation: u64, told: &mut Failures) -> Snapshot {
    let bypass = case["bypassValidation"].as_bool().unwrap_or(false);
    let mut mesh = Mesh { settings: settings.clone(), workloads: vec![workload(&case["workload"])], ..Mesh::default() };
    for document in yaml::documents(policies) {
        let refused: Vec<Finding>;
        if document["kind"] == "PeerAuthentication" {
            let parsed = parse::peer_authentication(&document, settings);
            refused = parsed.findings.into_iter().filter(Finding::refuses).collect();
            mesh.peer_authentications.extend(parsed.value.map(Arc::new));
        } else {
            let parsed = parse::authorization_policy(&document, settings);
            refused = parsed.findings.into_iter().filter(Finding::refuses).collect();
            mesh.policies.extend(parsed.value.map(Arc::new));
        }
        if !bypass && !refused.is_empty() {
            told.push(format!("refused: {refused:?}"));
        }
    }
    policy::compile(&mesh, generation, None)
}

fn workload(value: &Value) -> Workload {
    let text = |name: &str| value[name].as_str().unwrap().to_owned();
    let labels = value["labels"].as_object().into_iter().flatten();
    Workload {
        id: WorkloadId::new(text("namespace"), text("name")),
        labels: labels.map(|(key, value)| (key.clone(), value.as_str().unwrap().to_owned())).collect(),
        service_account: "default".to_owned(),
        addresses: value["ips"].as_array().unwrap().iter().map(|ip| ip.as_str().unwrap().parse().unwrap()).collect(),
        in_mesh: true,
    }
}

fn connection(value: &Value, mesh: &Value) -> Connection {
    let ip = |value: &Value| value.as_str().unwrap().parse().unwrap();
    let peer = value["source"]["identity"].as_str().map_or(Peer::Anonymous, Peer::verified);
    let port = u16::try_from(value["destination"]["port"].as_u64().unwrap()).unwrap();
    let mut connection = Connection::new(ip(&value["source"]["ip"]), peer, ip(&value["destination"]["ip"]), port);
    connection.sni = value["sni"].as_str().map(str::to_owned);
    for (name, provider) in mesh["providers"].as_object().into_iter().flatten() {
        let answer = if provider["decision"] == "deny" { Answer::Deny } else { Answer::Allow };
        connection.answers.push((name.clone(), answer));
    }
    connection
}

/// The expectation for this profile.
fn expected(expect: &Value, profile: Profile) -> &Value {
    let own = &expect[profile.word()];
    if own.is_null() { expect } else { own }
}

fn evaluation(case: &Value, settings: &Settings, told: &mut Failures) {
    let snapshot = snapshot(case, case["policies"].as_str().unwrap_or_default(), settings, 1, told);
    let destination = workload(&case["workload"]).id;
    for (index, one) in case["connections"].as_array().unwrap().iter().enumerate() {
        let connection = connection(one, &case["mesh"]);
        let explanation = snapshot.explain(&destination, &connection);
        let decision = snapshot.decide(&destination, &connection);
        let ambient = settings.profile == Profile::Ambient;
        let mut check = |what: &str, found: String, wanted: &Value| {
            let wanted = wanted.as_str().map_or_else(|| wanted.to_string(), str::to_owned);
            if found != wanted {
                told.push(format!("connection {index}: {what} is {found}, wanted {wanted}"));
            }
        };
        let expect = expected(&one["expect"], settings.profile);
        let verdict = if decision.is_permitted() { "allow" } else { "deny" };
        check("verdict", verdict.to_owned(), &expect["verdict"]);
        check(
            "explained verdict",
            explanation.decision.is_permitted().to_string(),
            &Value::Bool(decision.is_permitted()),
        );
        if !expect["reason"].is_null() {
            check("reason", decision.reason.word().to_owned(), &expect["reason"]);
        }
        if let Some(policy) = expect["policy"].as_str() {
            let matching: Vec<String> = explanation
                .rules
                .iter()
                .filter(|rule| rule.matched == Some(true) && matches!(rule.stage, StageName::Allow | StageName::Deny))
                .map(|rule| rule.policy.to_string())
                .collect();
            if ambient && matching.iter().any(|one| one == policy) {
                continue;
            }
            check("policy", decision.policy.as_ref().map(ToString::to_string).unwrap_or_default(), &expect["policy"]);
        }
        if !expect["rule"].is_null() && !ambient {
            check("rule", decision.rule.map(|rule| rule.to_string()).unwrap_or_default(), &expect["rule"]);
        }
        if !expect["audit"].is_null() {
            check("audit", decision.audit.is_some().to_string(), &expect["audit"]);
        }
        if !expect["custom"].is_null() {
            check(
                "custom",
                if decision.consulted { "consulted" } else { "not-consulted" }.to_owned(),
                &expect["custom"],
            );
        }
        check_shadow(&expect["dryRun"]["allow"], "allow", decision.shadow.allow.as_ref(), ambient, &mut check);
        check_shadow(&expect["dryRun"]["deny"], "deny", decision.shadow.deny.as_ref(), ambient, &mut check);
    }
}

fn check_shadow(
    expect: &Value,
    action: &str,
    found: Option<&ShadowVerdict>,
    ambient: bool,
    check: &mut impl FnMut(&str, String, &Value),
) {
    if expect.is_null() {
        return;
    }
    let what = format!("dry-run {action}");
    if expect == "absent" {
        check(&what, if found.is_some() { "present" } else { "absent" }.to_owned(), expect);
        return;
    }
    let result = found.map_or("absent", |found| if found.allowed { "allowed" } else { "denied" });
    check(&what, result.to_owned(), &expect["result"]);
    let matched = found.and_then(|found| found.matched.as_ref());
    if !expect["policy"].is_null() {
        check(&what, matched.map(|(policy, _)| policy.to_string()).unwrap_or_default(), &expect["policy"]);
    }
    if !expect["rule"].is_null() && !ambient {
        check(&what, matched.map(|(_, rule)| rule.to_string()).unwrap_or_default(), &expect["rule"]);
    }
}

fn validation(case: &Value, settings: &Settings, told: &mut Failures) {
    let (mut errors, mut warnings, mut schema) = (BTreeSet::new(), BTreeSet::new(), false);
    for document in yaml::documents(case["policies"].as_str().unwrap()) {
        let findings = match document["kind"].as_str() {
            Some("AuthorizationPolicy") => parse::authorization_policy(&document, settings).findings,
            Some("PeerAuthentication") => parse::peer_authentication(&document, settings).findings,
            _ => parse::dry_run_on_other_kind(&document).into_iter().collect(),
        };
        for code in findings.iter().map(|finding| finding.code) {
            schema |= code.severity() == Severity::Schema;
            match code.severity() {
                Severity::Schema | Severity::Refused => errors.insert(code.word()),
                Severity::Warning => warnings.insert(code.word()),
                Severity::Advice => false,
            };
        }
    }
    let expect = &case["expect"];
    let list = |name: &str| expect[name].as_array().into_iter().flatten().map(|code| code.as_str().unwrap()).collect();
    if errors != list("errors") || errors.is_empty() != (expect["valid"] == true) {
        told.push(format!("errors {errors:?}, wanted {expect}"));
    }
    if warnings != list("warnings") {
        told.push(format!("warnings {warnings:?}, wanted {expect}"));
    }
    if expect["stage"] == "schema" && !schema {
        told.push("was not refused by the schema".to_owned());
    }
}

fn change(case: &Value, settings: &Settings, told: &mut Failures) {
    let before = snapshot(case, case["before"].as_str().unwrap(), settings, 1, told);
    let after = snapshot(case, case["after"].as_str().unwrap(), settings, 2, told);
    let destination = workload(&case["workload"]).id;
    for (index, one) in case["connections"].as_array().unwrap().iter().enumerate() {
        let connection = connection(one, &case["mesh"]);
        let expect = expected(&one["expect"], settings.profile);
        let verdict = |snapshot: &Snapshot| {
            if snapshot.decide(&destination, &connection).is_permitted() { "allow" } else { "deny" }
        };
        let established = transition::istio(&before, &after, &destination, &connection).word();
        let found = [verdict(&before), verdict(&after), established];
        let wanted = ["before", "after", "established"].map(|name| expect[name].as_str().unwrap());
        if found != wanted {
            told.push(format!("connection {index}: {found:?}, wanted {wanted:?}"));
        }
    }
}

#[test]
fn every_error_code_of_the_format_exists() {
    let format = include_str!("conformance/FORMAT.md");
    let words: BTreeSet<&str> = Code::ALL.iter().map(|code| code.word()).collect();
    let (_, codes) = format.split_once("Error codes: ").unwrap();
    let (codes, _) = codes.split_once("## kind: transition").unwrap();
    let wanted: BTreeSet<&str> = codes.split('`').skip(1).step_by(2).collect();
    let missing: Vec<_> = wanted.difference(&words).collect();
    assert!(wanted.len() > 30 && missing.is_empty(), "{missing:?} of {wanted:?}");
}
