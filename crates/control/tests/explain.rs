//! Explanations: verdicts in a sentence, traces by profile, and edits that have the effect they say.
#![cfg(test)]

use control::bundle::{Bundle, DEFAULT_NAMESPACE, Text, read};
use control::explain::{Asked, Report, Setting, ends, report, smallest, text, verdict_sentence};
use policy::Profile;
use policy::ask::{Asker, Verdict};

const WORKLOADS: &str = "\
apiVersion: apps/v1
kind: Deployment
metadata: {name: echo, namespace: foo}
spec: {template: {metadata: {labels: {app: echo}}, spec: {}}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: sleep, namespace: foo}
spec: {template: {metadata: {labels: {app: sleep}}, spec: {serviceAccountName: sleep}}}
---
apiVersion: v1
kind: Pod
metadata: {name: far, namespace: bar, annotations: {sidecar.istio.io/inject: \"false\"}}
spec: {}
---
apiVersion: v1
kind: Service
metadata: {name: echo, namespace: foo}
spec: {selector: {app: echo}, ports: [{name: tcp, port: 9000}, {name: tcp-other, port: 9001}, {name: http, port: 80}]}
";

fn policy(name: &str, spec: &str) -> (String, String) {
    let body = format!("  {}\n", spec.replace('\n', "\n  "));
    let head = "# a comment\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata:\n";
    (format!("{name}.yaml"), format!("{head}  name: {name}\n  namespace: foo\nspec:\n{body}"))
}

fn bundle(policies: &[(String, String)]) -> Bundle {
    let named = |name: &str, text: &str| Text { name: name.to_owned(), bytes: text.as_bytes().to_vec() };
    let mut texts = vec![named("workloads.yaml", WORKLOADS)];
    texts.extend(policies.iter().map(|(name, text)| named(name, text)));
    let bundle = read(texts, DEFAULT_NAMESPACE);
    assert_eq!(bundle.problems(), []);
    bundle
}

struct Explained {
    sentence: String,
    shown: String,
    report: Report,
}

/// Explains, and tries both edits.
fn explain(policies: &[(String, String)], asked: &Asked<'_>, profile: Profile) -> Explained {
    let bundle = bundle(policies);
    let translated = bundle.translate(Some(profile), None);
    let ends = ends(asked, &translated.mesh, bundle.objects()).unwrap();
    let mut report = report(&bundle, &translated.mesh, &translated.translator, &ends);
    let setting = Setting { bundle: &bundle, namespace: DEFAULT_NAMESPACE, profile: Some(profile), config: None };
    let edit = |wanted: Verdict| {
        if report.answer.verdict == wanted { None } else { smallest(&setting, &translated.mesh, &ends, &wanted) }
    };
    (report.allows, report.denies) = (edit(Verdict::Allow), edit(Verdict::Deny));
    // Where everything is one text, among documents of other namespaces, the edit is the same.
    let other = |name: &str| format!("---\n# elsewhere\n{}---\n", policy(name, "{}").1.replace("foo", "elsewhere"));
    let joined: String = policies.iter().flat_map(|(name, text)| [other(name), text.clone()]).collect();
    let whole = self::bundle(&[("whole.yaml".to_owned(), joined)]);
    let setting = Setting { bundle: &whole, ..setting };
    for (wanted, found) in [(Verdict::Allow, &report.allows), (Verdict::Deny, &report.denies)] {
        let again = (report.answer.verdict != wanted).then(|| smallest(&setting, &translated.mesh, &ends, &wanted));
        assert_eq!(again.flatten().map(|one| one.says), found.as_ref().map(|one| one.says.clone()));
    }
    assert_eq!(Asker::new(translated.mesh).verdict(&ends.to, &ends.question), report.answer.verdict);
    let sentence = verdict_sentence(&ends, &report);
    let reports = [report];
    let shown = text(&ends, &reports);
    let [report] = reports;
    Explained { sentence, shown, report }
}

fn asked(from: &str, port: u16) -> Asked<'_> {
    Asked { from, to: "foo/echo", port, namespace: "foo", ..Asked::default() }
}

const ALLOW_FOO: &str = "selector: {matchLabels: {app: echo}}\nrules:\n- from:\n  - source:\n      namespaces: [\"foo\"]\n  to:\n  - operation:\n      ports:\n      - \"9000\" # the first\n      - \"9001\"";
const ALLOW_GET: &str = "rules:\n- to:\n  - operation:\n      ports: [\"9000\"]\n      methods: [\"GET\"]";
const DENY_9000: &str = "action: DENY\nrules:\n- to:\n  - operation:\n      ports: [\"9000\", \"9001\"]";
const DENY_ALL: &str = "action: DENY\nrules:\n- {}";
const ALLOW_RANGE: &str = "rules:\n- from:\n  - source:\n      ipBlocks: [10.0.0.0/8]\n      notIpBlocks: [10.1.0.1]";
const ALLOW_NOTHING: &str = "{}";

/// Verdict and edits: specs of policies, who, which port, the beginning of the sentence, and what the two edits say.
#[test]
fn verdicts_and_the_edits_that_turn_them() {
    for (specs, from, port, verdict, allows, denies) in [
        (vec![ALLOW_FOO], "sleep", 9000, "ALLOWED", None, Some("take 9000 out of `ports` of rule 0 of foo/p0")),
        (vec![ALLOW_FOO], "sleep", 9002, "DENIED", Some("add 9002 to `ports` of rule 0 of foo/p0"), None),
        (
            vec![ALLOW_FOO],
            "cluster.local/ns/bar/sa/x",
            9000,
            "DENIED",
            Some("add bar to `namespaces` of rule 0 of foo/p0"),
            None,
        ),
        (
            vec![ALLOW_FOO],
            "cluster.local/ns/bar/sa/x",
            9002,
            "DENIED",
            Some("add bar to `namespaces` of, add 9002 to `ports` of rule 0 of foo/p0"),
            None,
        ),
        (vec![ALLOW_GET], "sleep", 9000, "DENIED", Some("take `methods` out of rule 0 of foo/p0"), None),
        (vec![DENY_9000], "sleep", 9000, "DENIED", Some("take 9000 out of `ports` of rule 0 of foo/p0"), None),
        (vec![DENY_ALL], "sleep", 9000, "DENIED", Some("except 9000 by `notPorts` from rule 0 of foo/p0"), None),
        (
            vec![DENY_9000, ALLOW_FOO],
            "cluster.local/ns/bar/sa/x",
            9000,
            "DENIED",
            Some("take 9000 out of `ports` of rule 0 of foo/p0; then add bar to `namespaces` of rule 0 of foo/p1"),
            None,
        ),
        (vec![DENY_9000], "sleep", 9002, "ALLOWED", None, Some("add a rule for this connection to foo/p0")),
        (vec![], "sleep", 9000, "ALLOWED", None, Some("add the policy foo/deny-to-echo-9000")),
        (vec![ALLOW_NOTHING], "sleep", 9000, "DENIED", Some("add a rule for this connection to foo/p0"), None),
        (
            vec![ALLOW_RANGE],
            "10.1.0.1",
            9000,
            "DENIED",
            Some("take 10.1.0.1 out of `notIpBlocks` of rule 0 of foo/p0"),
            None,
        ),
        (vec![ALLOW_RANGE], "192.0.2.1", 9000, "DENIED", Some("add 192.0.2.1 to `ipBlocks` of rule 0 of foo/p0"), None),
    ] {
        let policies: Vec<_> =
            specs.iter().enumerate().map(|(index, spec)| policy(&format!("p{index}"), spec)).collect();
        let found = explain(&policies, &asked(from, port), Profile::Sidecar);
        let context = format!("{specs:?} {from} {port}\n{}", found.shown);
        assert!(found.sentence.starts_with(verdict), "{context}");
        let says = |edit: &Option<control::explain::Proposal>| edit.as_ref().map(|edit| edit.says.clone());
        assert_eq!(says(&found.report.allows).as_deref(), allows, "{context}");
        assert_eq!(says(&found.report.denies).as_deref(), denies, "{context}");
    }
}

/// What `patch` makes of the diff is what was tried: comments stay, and nothing but the edit changes.
#[test]
fn a_diff_is_of_the_authors_own_text() {
    let found = explain(&[policy("p0", ALLOW_FOO)], &asked("sleep", 9002), Profile::Sidecar);
    let expected = "--- a/p0.yaml\n+++ b/p0.yaml\n@@ -15,3 +15,4 @@\n       ports:\n       - \"9000\" # the first\n       - \"9001\"\n";
    let diff = found.report.allows.unwrap().diff;
    assert_eq!(diff, expected.replace("       ", "         ") + "+        - \"9002\"\n");
}

#[test]
fn a_trace_says_what_became_of_each_field_in_each_profile() {
    let deny = policy("p0", "action: DENY\nrules:\n- to:\n  - operation:\n      methods: [\"GET\"]");
    for (profile, verdict, words) in [
        (
            Profile::Sidecar,
            "DENIED",
            ["wider than written: `methods` dropped", "dropped, so the rule matches more than is written"],
        ),
        (
            Profile::Ambient,
            "ALLOWED",
            ["dead: nothing is left of it without `methods`", "so nothing is left of this entry"],
        ),
    ] {
        let found = explain(std::slice::from_ref(&deny), &asked("sleep", 9000), profile);
        assert!(found.sentence.starts_with(verdict), "{}", found.sentence);
        for words in words {
            assert!(found.shown.contains(words), "{words}\n{}", found.shown);
        }
    }
    let allow = policy("p0", ALLOW_GET);
    let found = explain(&[allow], &asked("sleep", 9000), Profile::Sidecar);
    assert!(found.shown.contains("void: never matches TCP, because of `methods`"), "{}", found.shown);
    assert!(
        found.shown.contains("nearest miss: foo/p0 rule 0 never matches on TCP because of `methods`"),
        "{}",
        found.shown
    );
}

#[test]
fn what_is_not_known_is_said() {
    let range = [policy("p0", ALLOW_RANGE)];
    let found = explain(&range, &asked("sleep", 9000), Profile::Sidecar);
    assert_eq!(
        found.sentence,
        "DEPENDS: foo/sleep (service account sleep) to port 9000 of foo/echo: it depends on the source's address; give --from-address"
    );
    let known = Asked { from_address: Some("10.2.0.1".parse().unwrap()), ..asked("sleep", 9000) };
    assert!(explain(&range, &known, Profile::Sidecar).sentence.starts_with("ALLOWED"));
    let get = [policy("p0", "rules:\n- to:\n  - operation:\n      methods: [\"GET\"]")];
    let http = explain(&get, &asked("sleep", 80), Profile::Sidecar);
    assert!(
        http.sentence.starts_with("DEPENDS") && http.sentence.ends_with("it depends on HTTP (`methods`)"),
        "{}",
        http.sentence
    );
    assert!(
        http.shown.contains("carries HTTP (service `echo`, name http); Tidegate enforces it as TCP and denies it"),
        "{}",
        http.shown
    );
    let outside = explain(&[], &asked("bar/far", 9000), Profile::Sidecar);
    assert!(outside.sentence.contains("bar/far (not in the mesh, no identity)"), "{}", outside.sentence);
    assert!(
        outside.shown.contains("note: bar/far has no identity: until it is injected no rule can name it"),
        "{}",
        outside.shown
    );
    let to = Asked { to: "bar/far", ..asked("sleep", 9000) };
    assert!(
        explain(&[], &to, Profile::Sidecar).shown.contains("bar/far is not in the mesh: nothing is enforced there")
    );
}

#[test]
fn an_end_that_is_not_there_is_a_sentence() {
    let bundle = bundle(&[]);
    let mesh = bundle.mesh(None, None);
    for (asked, words) in [
        (asked("sleap", 1), "did you mean `foo/sleep`"),
        (Asked { to: "192.0.2.7", ..asked("sleep", 1) }, "no workload has the address 192.0.2.7"),
        (
            Asked {
                from_address: Some("10.0.0.1".parse().unwrap()),
                to_address: Some("fd00::1".parse().unwrap()),
                ..asked("sleep", 1)
            },
            "two families",
        ),
    ] {
        let why = ends(&asked, &mesh, bundle.objects()).unwrap_err();
        assert!(why.contains(words), "{why}");
    }
}

#[test]
fn text_of_manifests_reaches_no_terminal_as_a_command() {
    let evil = policy("p0", "rules:\n- from:\n  - source:\n      principals: [\"\\x1b[2Jx\"]");
    let found = explain(&[evil], &asked("sleep", 9000), Profile::Sidecar);
    assert!(found.shown.contains("[2Jx") && !found.shown.contains('\u{1b}'), "{}", found.shown);
}
