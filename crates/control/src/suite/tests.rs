use std::collections::BTreeSet;

use policy::{Answer, Profile, Reason};
use serde_json::Value;

use super::{Ask, Because, Client, Expect, Problem, Target, Who, read, shape};

const HEAD: &str = "apiVersion: tidegate.io/v1alpha1\nkind: PolicyTest\nmetadata: {name: t}\nspec:\n  cases:\n";
const SENTENCES: &str =
    "apiVersion: tidegate.io/v1alpha1\nkind: PolicyAssertion\nmetadata: {name: t}\nspec:\n  assertions:\n";

fn schema() -> Value {
    serde_json::from_str(include_str!("../../../../docs/policytest.schema.json")).unwrap()
}

fn words(value: &Value) -> BTreeSet<&str> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

/// What is wrong with a text, each with its line and column.
fn faults(text: &str) -> String {
    let found = read(text);
    assert!(found.suites.is_empty(), "nothing of a wrong suite is run: {text}");
    let line = |problem: &Problem| format!("{}:{} {}", problem.span.line, problem.span.column, problem.message);
    found.problems.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_json_schema_says_what_the_reader_takes() {
    let schema = schema();
    let definitions = schema["$defs"].as_object().unwrap();
    for shape in shape::ALL {
        let definition = &definitions[shape.name];
        assert_eq!(definition["type"], "object", "{}", shape.name);
        assert_eq!(definition["additionalProperties"], false, "{}", shape.name);
        assert_eq!(words(&definition["required"]), shape.required.iter().copied().collect(), "{}", shape.name);
        let properties: BTreeSet<&str> =
            definition["properties"].as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(properties, shape.fields().collect(), "{}", shape.name);
    }
    let of = |pointer: &str| words(schema.pointer(pointer).unwrap());
    assert_eq!(of("/$defs/case/properties/expect/enum"), shape::CASE_EXPECTS.iter().copied().collect());
    assert_eq!(of("/$defs/assertion/properties/expect/enum"), shape::ASSERTION_EXPECTS.iter().copied().collect());
    assert_eq!(of("/$defs/profile/enum"), shape::PROFILES.iter().copied().collect());
    assert_eq!(
        of("/$defs/case/properties/authorizers/additionalProperties/enum"),
        shape::ANSWERS.iter().copied().collect()
    );
    let reasons = shape::REASONS.iter().map(|reason| reason.word()).collect();
    assert_eq!(of("/$defs/because/anyOf/0/enum"), reasons);
    assert_eq!(
        of("/$defs/document/properties/kind/enum"),
        BTreeSet::from([super::POLICY_TEST, super::POLICY_ASSERTION])
    );
    assert_eq!(schema["$defs"]["document"]["properties"]["apiVersion"]["const"], super::API_VERSION);
}

#[test]
fn everything_that_can_be_written_is_read() {
    let text = include_str!("../../../../docs/policytest.example.yaml");
    let found = read(text);
    assert_eq!(found.problems, Vec::new());
    let [cases_of, assertion] = found.suites.as_slice() else { panic!("{found:#?}") };
    assert_eq!((cases_of.name.as_str(), cases_of.namespace.as_deref()), ("tcp-echo", Some("foo")));
    assert_eq!(cases_of.inputs, ["manifests/*.yaml"]);
    assert_eq!(cases_of.mesh_config.as_deref(), Some("mesh.yaml"));
    let names: Vec<&str> = cases_of.items.iter().map(|item| item.name.as_str()).collect();
    assert_eq!(
        names,
        [
            "sleep may use the first port",
            "deploy/sleep to tcp-echo.foo:9002",
            "10.9.0.1 without identity to tcp-echo.foo:9000",
            "cluster.local/ns/bar/sa/batch at 10.0.0.9 to tcp-echo.foo:9001 with server name echo.example",
        ]
    );
    let cases: Vec<_> = cases_of
        .items
        .iter()
        .map(|item| match &item.ask {
            Ask::Case(case) => case,
            other @ Ask::Assertion(_) => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(cases[0].because, Some(Because::Policy("foo/tcp-policy".to_owned(), Some(0))));
    assert_eq!(cases[1].because, Some(Because::Reason(Reason::AllowNoMatch)));
    assert_eq!(cases[2].from.who, Who::Nobody);
    assert_eq!((cases[3].expect, cases[3].address), (Expect::Deny, Some("10.0.0.3".parse().unwrap())));
    assert_eq!(cases[3].authorizers["opa"], Answer::Deny);
    let profiles: Vec<&[Profile]> = cases_of.items.iter().map(|item| item.profiles.as_slice()).collect();
    let both: &[Profile] = &[Profile::Sidecar, Profile::Ambient];
    assert_eq!(profiles, [both, both, &[Profile::Ambient], both]);

    let names: Vec<&str> = assertion.items.iter().map(|item| item.name.as_str()).collect();
    assert_eq!(
        names,
        [
            "only payments reaches the database",
            "everything from service account ops/backup, principal other.domain/ns/a/sa/b or workload deploy/web \
             reaches app=db,tier=data in namespace payments or workload pod/db-0 on ports 5432 and 9000-9010",
            "nothing from addresses 10.0.0.0/8 or clients with an identity outside clients without identity \
             reaches any workload on any port but port 22",
        ]
    );
    let Ask::Assertion(first) = &assertion.items[0].ask else { panic!() };
    assert_eq!(
        (first.expect, first.not_from.as_slice()),
        (Expect::Deny, [Client::Namespace("payments".to_owned())].as_slice())
    );
    assert_eq!(first.ports, [5432..=5432]);
    let Ask::Assertion(second) = &assertion.items[1].ask else { panic!() };
    assert!(matches!(&second.to[0], Target::Labelled { namespace: Some(_), labels } if labels.len() == 2));
}

#[test]
fn objects_beside_tests_are_passed_over() {
    let found = read("apiVersion: v1\nkind: Pod\n---\n# nothing\n---\napiVersion: tidegate.io/v1alpha1\nkind: Other\n");
    assert_eq!((found.suites.len(), found.problems.len(), found.others), (0, 0, 2));
}

/// What is written as the first line below `cases:`, and how it is wrong. The line is the sixth.
const WRONG_CASES: &[(&str, &str)] = &[
    (
        "- {from: a, to: b, port: 1, expect: allow, becuase: c/d}",
        "6:46 unknown field `becuase`; did you mean `because`?",
    ),
    (
        "- {from: a, to: b, port: 1, expect: allow, zzzzzzzz: 1}",
        "6:46 unknown field `zzzzzzzz`; there are from, to, port, expect, name, because, profile, serverName, authorizers",
    ),
    ("- {from: a, port: 1}", "6:5 `to` is missing\n6:5 `expect` is missing"),
    ("- a", "6:5 a case is a mapping of from, to, port, expect, name, because, profile, serverName, authorizers"),
    ("- {from: a, to: b, port: 70000, expect: allow}", "6:22 70000 is not a port; a number from 0 to 65535 is"),
    (
        "- {from: a, to: b, port: -1, expect: perhaps}",
        "6:22 -1 is not a port; a number from 0 to 65535 is\n6:32 \"perhaps\" is none of the words of `expect`: allow, deny, depends",
    ),
    ("- {from: a, to: b, port: 1, expect: on}", "6:31 true is none of the words of `expect`: allow, deny, depends"),
    (
        "- {from: {}, to: b, port: 1, expect: deny}",
        "6:6 a client needs a `workload`, an `identity` (`none` for plaintext) or an `address`",
    ),
    (
        "- {from: {workload: a, identity: none}, to: b, port: 1, expect: deny}",
        "6:6 a client is known by its `workload` or by its `identity`: leave one of them out",
    ),
    (
        "- {from: {identity: foo/bar}, to: b, port: 1, expect: deny}",
        "6:13 `foo/bar` is not an identity; `TRUST_DOMAIN/ns/NAMESPACE/sa/SERVICE_ACCOUNT` and `none` are",
    ),
    (
        "- {from: {address: 10.0.0.0/8}, to: b, port: 1, expect: deny}",
        "6:13 `10.0.0.0/8` is not an address; `10.0.0.1` and `fd00::1` are",
    ),
    ("- {from: a, to: {address: 10.0.0.1}, port: 1, expect: deny}", "6:15 `workload` is missing"),
    (
        "- {from: a, to: b, port: 1, expect: deny, because: tcp-policy}",
        "6:45 `tcp-policy` is no reason; `NAMESPACE/POLICY`, `NAMESPACE/POLICY[RULE]` (counted from 0) or one of no-allow-policies, allow-match, allow-no-match, deny-match, mtls-required, custom-denied, custom-bad-provider",
    ),
    (
        "- {from: a, to: b, port: 1, expect: deny, because: 'a/b[x]'}",
        "6:45 `a/b[x]` is no reason; `NAMESPACE/POLICY`, `NAMESPACE/POLICY[RULE]` (counted from 0) or one of no-allow-policies, allow-match, allow-no-match, deny-match, mtls-required, custom-denied, custom-bad-provider",
    ),
    (
        "- {from: a, to: b, port: 1, expect: depends, because: deny-match}",
        "6:48 what depends on HTTP has no single reason: leave `because` out",
    ),
    (
        "- {from: a, to: b, port: 1, expect: deny, authorizers: {opa: maybe}}",
        "6:59 \"maybe\" is none of the words of `opa`: allow, deny",
    ),
    (
        "- {from: a, to: b, port: 1, expect: deny, profile: waypoint}",
        "6:45 \"waypoint\" is none of the words of `profile`: sidecar, ambient, both",
    ),
    (
        "- {from: a, to: b, port: 1, expect: deny}\n  - {from: a, to: b, port: 1, expect: allow}",
        "7:5 `a to b:1` stands twice, first in line 6; give one of them another `name`",
    ),
    (
        "- {from: a, to: b, port: 1, port: 2, expect: deny}",
        "6:31 the key `port` stands twice; kubectl takes the last one: remove one",
    ),
    ("  []", "5:3 `cases` is empty: nothing would be tested"),
    ("  {}", "5:3 this is a list: begin each item with `- `"),
];

/// The same below `assertions:`.
const WRONG_ASSERTIONS: &[(&str, &str)] = &[
    ("- {expect: depends}", "6:6 \"depends\" is none of the words of `expect`: allow, deny"),
    ("- {expect: deny, from: []}", "6:20 `from` is empty; leave it out, or name what it should hold"),
    ("- {expect: deny, from: foo}", "6:20 this is a list: begin each item with `- `"),
    (
        "- {expect: deny, from: [foo]}",
        "6:27 a client is a mapping of namespace, serviceAccount, identity, workload, ipBlock",
    ),
    (
        "- {expect: deny, from: [{namespace: a, workload: b}]}",
        "6:27 a client is known by exactly one field; write further ones as further items",
    ),
    (
        "- {expect: deny, from: [{}]}",
        "6:27 a client is known by exactly one field; write further ones as further items",
    ),
    ("- {expect: deny, from: [{serviceAccount: a}]}", "6:28 `a` is not a service account; `NAMESPACE/NAME` is"),
    (
        "- {expect: deny, from: [{ipBlock: '10.0.0.0/33'}]}",
        "6:28 `10.0.0.0/33` is not an address block; `10.0.0.0/8` and `fd00::/8` are",
    ),
    ("- {expect: deny, to: [{}]}", "6:25 this says nothing; leave `to` out for every workload"),
    (
        "- {expect: deny, to: [{workload: a, labels: {b: c}}]}",
        "6:25 a `workload` is one workload: leave out `namespace` and `labels`",
    ),
    (
        "- {expect: deny, to: [{labels: {b: 1}}]}",
        "6:26 `labels` is a mapping of texts that is not empty; put numbers and `true` in quotes",
    ),
    ("- {expect: deny, ports: ['10-9']}", "6:28 \"10-9\" is not a range of ports; `9000-9010` is, lower end first"),
    ("- {expect: deny, notPorts: [x]}", "6:31 \"x\" is not a port; a number from 0 to 65535 is"),
];

/// Whole documents.
const WRONG_DOCUMENTS: &[(&str, &str)] = &[
    (
        "apiVersion: tidegate.io/v2\nkind: PolicyTest\nmetadata: {name: t}\nspec: {}\n",
        "1:1 version `tidegate.io/v2` is not known; `tidegate.io/v1alpha1` is",
    ),
    ("apiVersion: tidegate.io/v1alpha1\nkind: PolicyTest\nspec: {cases: []}\n", "1:1 `metadata` is missing"),
    (
        "apiVersion: tidegate.io/v1alpha1\nkind: PolicyTest\nmetadata: {name: ''}\nspec: {cases: []}\n",
        "3:12 \"\" is not a text",
    ),
    (
        "apiVersion: tidegate.io/v1alpha1\nkind: PolicyTest\nmetadata: {name: a}\nspec: {assertions: []}\n",
        "4:8 unknown field `assertions`; there are cases, inputs, meshConfig, namespace, profile\n4:1 `cases` is missing",
    ),
    ("a: [\n", "1:4 unclosed bracket '['"),
];

#[test]
fn what_is_wrong_is_told_with_its_place() {
    let below = |head: &str, rows: &[(&str, &str)]| -> Vec<(String, String)> {
        rows.iter().map(|(text, wanted)| (format!("{head}  {text}\n"), (*wanted).to_owned())).collect()
    };
    let rows = [below(HEAD, WRONG_CASES), below(SENTENCES, WRONG_ASSERTIONS)].concat();
    let whole = WRONG_DOCUMENTS.iter().map(|(text, wanted)| ((*text).to_owned(), (*wanted).to_owned()));
    let mut wrong = Vec::new();
    for (text, wanted) in rows.into_iter().chain(whole) {
        let found = faults(&text);
        if found != wanted {
            wrong.push(format!("{text}  found:  {found}\n  wanted: {wanted}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
