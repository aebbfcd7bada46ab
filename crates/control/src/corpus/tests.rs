use policy::Profile;
use serde_json::{Value, json};

use super::{Place, read};

/// A case of one connection to port 9000, with more fields and what is expected.
fn file(more: &str, expect: &str) -> String {
    format!(
        "format: 1\ncases:\n- id: a\n  policies: |\n    apiVersion: security.istio.io/v1\n    kind: AuthorizationPolicy\n    \
         metadata: {{name: p, namespace: foo}}\n    spec: {{rules: [{{to: [{{operation: {{ports: ['9000']}}}}]}}]}}\n  \
         workload: {{name: w, namespace: foo, labels: {{n: 1}}, ips: [10.0.0.1]}}\n{more}  connections:\n  \
         - source: {{ip: 10.0.0.2}}\n    destination: {{ip: 10.0.0.1, port: 9000}}\n    expect: {expect}\n"
    )
}

/// What is wrong with each case in each of its profiles.
fn failures(text: &str) -> Vec<String> {
    let corpus = read(text);
    assert_eq!(corpus.problems, []);
    let mut failures = Vec::new();
    for case in &corpus.cases {
        for &profile in &case.profiles {
            let judged = case.judge(&case.answer(profile));
            failures.extend(judged.into_iter().map(|failure| format!("{}: {}", profile.word(), failure.message)));
        }
    }
    failures
}

fn answer(text: &str, profile: Profile) -> Value {
    read(text).cases[0].answer(profile).value
}

#[test]
fn only_what_is_expected_is_compared_and_everything_that_is() {
    let both = "  profile: [sidecar, ambient]\n";
    let cases: &[(&str, &str, &[&str])] = &[
        ("", "{verdict: allow}", &[]),
        ("", "{verdict: deny}", &["sidecar: connection 0: verdict: expected deny, found allow"]),
        ("", "{verdict: allow, reason: allow-match, policy: foo/p, rule: 0, audit: false, custom: not-consulted}", &[]),
        ("", "{rule: 1}", &["sidecar: connection 0: rule: expected 1, found 0"]),
        ("  profile: ambient\n", "{verdict: allow, rule: 1}", &[]),
        ("  profile: ambient\n", "{policy: foo/q}", &["ambient: connection 0: policy: expected foo/q, found foo/p"]),
        (
            both,
            "{sidecar: {verdict: allow}, ambient: {verdict: deny}}",
            &["ambient: connection 0: verdict: expected deny, found allow"],
        ),
        (both, "{sidecar: {verdict: allow}}", &["ambient: nothing is expected, so nothing can be judged"]),
        (
            "",
            "{dryRun: {allow: absent, deny: {result: denied}}}",
            &["sidecar: connection 0: dryRun.deny: expected {\"result\":\"denied\"}, found absent"],
        ),
        ("", "null", &["sidecar: nothing is expected, so nothing can be judged"]),
    ];
    for (more, expect, wanted) in cases {
        assert_eq!(&failures(&file(more, expect)), wanted, "{more}{expect}");
    }
}

#[test]
fn answers_need_no_expectation() {
    let found = answer(&file("", "null"), Profile::Ambient);
    let connection = json!({
        "verdict": "allow", "reason": "allow-match", "policy": "foo/p", "rule": 0, "audit": false, "custom": "not-consulted",
        "dryRun": {"allow": "absent", "deny": "absent"},
    });
    assert_eq!(found, json!({"id": "a", "profile": "ambient", "kind": "evaluation", "connections": [connection]}));
}

#[test]
fn an_object_that_admission_refuses_fails_its_case_unless_that_is_meant() {
    let text = file("", "{verdict: deny}").replace("'9000'", "'x'");
    let told = failures(&text);
    assert!(told.len() == 1 && told[0].contains("foo/p") && told[0].contains("bad-port"), "{told:?}");
    assert!(failures(&text.replace("- id: a", "- id: a\n  bypassValidation: true")).is_empty());
}

#[test]
fn validation_compares_sets_of_codes() {
    let case = |policies: &str, expect: &str| {
        failures(&format!("cases: [{{id: v, kind: validation, policies: '{policies}', expect: {expect}}}]"))
    };
    let bad = "{kind: AuthorizationPolicy, metadata: {name: p}, spec: {action: DENY}}";
    let good = "{kind: AuthorizationPolicy, metadata: {name: p}, spec: {selector: {}}}";
    assert_eq!(case(bad, "{valid: false, errors: [rules-required]}"), Vec::<String>::new());
    assert_eq!(case(bad, "{valid: false}"), Vec::<String>::new());
    assert_eq!(case(bad, "{valid: false, errors: [rules-required], stage: schema}").len(), 1);
    assert_eq!(case(bad, "{valid: true}").len(), 2);
    assert_eq!(case(bad, "{errors: [rules-required]}").len(), 1);
    assert_eq!(case(good, "{valid: true, warnings: [selector-no-labels]}"), Vec::<String>::new());
    assert_eq!(case(good, "{valid: true}"), ["sidecar: warnings: expected none, found selector-no-labels"]);
}

#[test]
fn what_cannot_be_read_is_told_with_its_place_and_the_rest_is_there() {
    let good = file("", "{verdict: allow}");
    let second = "- {id: b, workload: {name: w, namespace: foo}, connections: [{source: {ip: x}}]}\n";
    let corpus = read(&format!("{good}{second}"));
    assert_eq!(corpus.cases.len(), 1);
    assert_eq!(corpus.problems.len(), 1);
    assert!(corpus.problems[0].message.starts_with("case b: "), "{:?}", corpus.problems);
    assert_eq!(corpus.problems[0].place.line, good.lines().count() + 1);

    let place = |line, column| Place { line, column };
    for (text, wanted, word) in [
        ("", place(1, 1), "no cases"),
        ("a: b: c", place(1, 5), ""),
        ("cases: {}", place(1, 1), "`cases`"),
        ("format: 2\ncases: []", place(1, 1), "format 2"),
        ("cases:\n- 1", place(2, 3), "mapping"),
        ("cases:\n- {id: a, kind: x}", place(2, 11), "transition"),
        ("cases:\n- {id: a, profile: x, kind: validation}", place(2, 11), "ambient"),
        ("cases:\n- {id: a, kind: validation, policies: 'a: b: c'}", place(2, 29), "line 1, column 5"),
        ("cases:\n- {kind: validation}", place(2, 3), "`id`"),
        ("cases:\n- {id: a, mesh: {providers: {p: {type: x}}}}", place(2, 34), "grpc"),
    ] {
        let problems = read(text).problems;
        assert_eq!(problems.len(), 1, "{text}");
        assert_eq!(problems[0].place, wanted, "{text}: {problems:?}");
        assert!(problems[0].message.contains(word), "{text}: {problems:?}");
    }
}

#[test]
fn lists_several_documents_and_other_kinds_are_taken() {
    let policies = "kind: List\n    items:\n    - kind: AuthorizationPolicy\n      metadata: {name: q, namespace: foo}\n      \
                    spec: {action: DENY, rules: [{}]}\n    ---\n    kind: Service\n    metadata: {name: s}\n    ---\n    ";
    let text = file("", "{verdict: deny, reason: deny-match, policy: foo/q}");
    let text = text.replacen("apiVersion: ", &format!("{policies}apiVersion: "), 1);
    assert_eq!(failures(&text), Vec::<String>::new());
}

#[test]
fn the_letters_y_and_n_are_text_and_the_words_are_not() {
    let case = |word: &str| {
        let spec = "{action: DENY, rules: [{when: [{key: source.namespace, values: [WORD]}]}]}".replace("WORD", word);
        let policy = format!("{{kind: AuthorizationPolicy, metadata: {{name: p}}, spec: {spec}}}");
        answer(&format!("cases: [{{id: n, kind: validation, policies: '{policy}'}}]"), Profile::Sidecar)["valid"]
            .clone()
    };
    assert_eq!(["y", "N", "x", "yes", "true"].map(case), [true, true, true, false, false].map(Value::from));
}

#[test]
fn the_letters_y_and_n_are_text_as_keys_too() {
    let policy = "{kind: AuthorizationPolicy, metadata: {name: c, namespace: foo}, \
                  spec: {selector: {matchLabels: {y: n}}, action: CUSTOM, provider: {name: N}, rules: [{}]}}";
    let answered = |labels: &str, provider: &str| {
        let text = format!(
            "cases: [{{id: a, mesh: {{providers: {{{provider}: {{type: grpc, decision: deny}}}}}}, policies: '{policy}', \
             workload: {{name: w, namespace: foo, labels: {{{labels}}}, ips: [10.0.0.1]}}, \
             connections: [{{source: {{ip: 10.0.0.2}}, destination: {{ip: 10.0.0.1, port: 1}}}}]}}]"
        );
        answer(&text, Profile::Sidecar)["connections"][0]["reason"].clone()
    };
    for (labels, provider, wanted) in [
        ("y: n", "N", "custom-denied"),
        ("'y': 'n'", "'N'", "custom-denied"),
        ("y: n", "n", "custom-bad-provider"),
        ("Y: n", "N", "no-allow-policies"),
        ("'true': n", "N", "no-allow-policies"),
    ] {
        assert_eq!(answered(labels, provider), wanted, "{labels} {provider}");
    }
}

#[test]
fn numbers_that_yaml_1_1_does_not_know_are_text() {
    let codes = |port: &str| {
        let spec = format!("{{rules: [{{to: [{{operation: {{ports: [{port}]}}}}]}}]}}");
        let policy = format!("{{kind: AuthorizationPolicy, metadata: {{name: p}}, spec: {spec}}}");
        let case = format!("cases: [{{id: n, kind: validation, policies: '{policy}'}}]");
        answer(&case, Profile::Sidecar)["errors"].clone()
    };
    for text in ["09000", "0009000", "08"] {
        assert_eq!(codes(text), json!([]), "{text}");
    }
    for text in ["1e3", "1E3", "1e+3", "1.5e3", "-08", "0o17"] {
        assert_eq!(codes(text), json!(["bad-port"]), "{text}");
    }
    for number in ["9000", "0", "-1", "+1", "0017", "0x28", "0b11", "9_000", "1.5", "9000.", ".5", "1.5e+3", "-1.5E-3"]
    {
        assert_eq!(codes(number), json!(["schema-type"]), "{number}");
    }
    assert_eq!(codes("&e1 9000, *e1"), json!(["schema-type"]));
}
