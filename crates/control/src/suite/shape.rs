//! The fields of each mapping of the two kinds, as tables: what the reader takes is what `docs/policytest.schema.json` says,
//! and a test compares the two.

/// The fields of one mapping.
#[derive(Debug)]
pub struct Shape {
    /// Its name in the JSON Schema (`$defs`), and in messages.
    pub name: &'static str,
    /// Fields that must be there.
    pub required: &'static [&'static str],
    /// Fields that may be there.
    pub optional: &'static [&'static str],
}

impl Shape {
    /// Every field.
    pub fn fields(&self) -> impl Iterator<Item = &'static str> {
        self.required.iter().chain(self.optional).copied()
    }
}

/// A whole document of either kind.
pub const DOCUMENT: Shape =
    Shape { name: "document", required: &["apiVersion", "kind", "metadata", "spec"], optional: &[] };
/// `metadata`.
pub const METADATA: Shape =
    Shape { name: "metadata", required: &["name"], optional: &["namespace", "labels", "annotations"] };
/// `spec` of a `PolicyTest`.
pub const TEST: Shape =
    Shape { name: "test", required: &["cases"], optional: &["inputs", "meshConfig", "namespace", "profile"] };
/// `spec` of a `PolicyAssertion`.
pub const ASSERTIONS: Shape = Shape {
    name: "assertions",
    required: &["assertions"],
    optional: &["inputs", "meshConfig", "namespace", "profile"],
};
/// One of `cases`.
pub const CASE: Shape = Shape {
    name: "case",
    required: &["from", "to", "port", "expect"],
    optional: &["name", "because", "profile", "serverName", "authorizers"],
};
/// `from` of a case, where it is not the name of a workload.
pub const FROM: Shape = Shape { name: "from", required: &[], optional: &["workload", "identity", "address"] };
/// `to` of a case, where it is not the name of a workload.
pub const TO: Shape = Shape { name: "to", required: &["workload"], optional: &["address"] };
/// One of `assertions`.
pub const ASSERTION: Shape = Shape {
    name: "assertion",
    required: &["expect"],
    optional: &["name", "from", "notFrom", "to", "ports", "notPorts", "profile"],
};
/// One of the clients of an assertion: exactly one of its fields.
pub const CLIENT: Shape = Shape {
    name: "client",
    required: &[],
    optional: &["namespace", "serviceAccount", "identity", "workload", "ipBlock"],
};
/// One of the workloads of an assertion.
pub const TARGET: Shape = Shape { name: "target", required: &[], optional: &["workload", "namespace", "labels"] };

/// Every mapping there is.
pub const ALL: &[&Shape] = &[&DOCUMENT, &METADATA, &TEST, &ASSERTIONS, &CASE, &FROM, &TO, &ASSERTION, &CLIENT, &TARGET];

/// Words of `expect` in a case.
pub const CASE_EXPECTS: &[&str] = &["allow", "deny", "depends"];
/// Words of `expect` in an assertion.
pub const ASSERTION_EXPECTS: &[&str] = &["allow", "deny"];
/// Words of `profile`.
pub const PROFILES: &[&str] = &["sidecar", "ambient", "both"];
/// Words of `authorizers`.
pub const ANSWERS: &[&str] = &["allow", "deny"];
/// The words that stand for kinds of identities in `identity`.
pub const IDENTITIES: &[&str] = &["any", "none"];
/// Words of `because` that are no policy.
pub const REASONS: &[policy::Reason] = &[
    policy::Reason::NoAllowPolicies,
    policy::Reason::AllowMatch,
    policy::Reason::AllowNoMatch,
    policy::Reason::DenyMatch,
    policy::Reason::MtlsRequired,
    policy::Reason::CustomDenied,
    policy::Reason::CustomBadProvider,
];
