//! Findings: facts about written policy, each with a code, a field path and a sentence. One closed table of codes, so that
//! admission, offline analysis and documentation cannot differ.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Where in a document a finding points.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FieldPath(Vec<Step>);

/// One step of a field path.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Step {
    /// A member of an object.
    Member(String),
    /// An element of a list, counted from 0.
    Index(usize),
}

impl FieldPath {
    /// A path of members only, separated by dots.
    pub fn of(dotted: &str) -> Self {
        Self(dotted.split('.').filter(|step| !step.is_empty()).map(|step| Step::Member(step.to_owned())).collect())
    }

    /// This path and then a member.
    #[must_use]
    pub fn member(&self, name: &str) -> Self {
        let mut steps = self.0.clone();
        steps.push(Step::Member(name.to_owned()));
        Self(steps)
    }

    /// This path and then an element.
    #[must_use]
    pub fn index(&self, index: usize) -> Self {
        let mut steps = self.0.clone();
        steps.push(Step::Index(index));
        Self(steps)
    }

    /// The steps from the root of the document.
    pub fn steps(&self) -> &[Step] {
        &self.0
    }

    /// As a JSON pointer (RFC 6901), to find the place in the document.
    pub fn pointer(&self) -> String {
        let mut text = String::new();
        for step in &self.0 {
            text.push('/');
            match step {
                Step::Member(name) => text.push_str(&name.replace('~', "~0").replace('/', "~1")),
                Step::Index(index) => text.push_str(&index.to_string()),
            }
        }
        text
    }
}

impl fmt::Display for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, step) in self.0.iter().enumerate() {
            match step {
                Step::Index(index) => write!(f, "[{index}]")?,
                Step::Member(name) if name.contains(['.', '/', '[']) => write!(f, "[{name}]")?,
                Step::Member(name) if position == 0 => f.write_str(name)?,
                Step::Member(name) => write!(f, ".{name}")?,
            }
        }
        Ok(())
    }
}

/// How much a finding weighs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// The object's schema refuses it, before admission sees it.
    Schema,
    /// Admission refuses it.
    Refused,
    /// Admission accepts it with Istio's own warning.
    Warning,
    /// Accepted; Tidegate says more than Istio does.
    Advice,
}

/// One fact about a written policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Which kind of fact.
    pub code: Code,
    /// Where.
    pub path: FieldPath,
    /// What is so, and what to do: lower case, no full stop, user input in backticks.
    pub message: String,
}

impl Finding {
    /// Puts the parts together.
    pub fn new(code: Code, path: FieldPath, message: impl Into<String>) -> Self {
        Self { code, path, message: message.into() }
    }

    /// Does it make the object inadmissible.
    pub fn refuses(&self) -> bool {
        matches!(self.code.severity(), Severity::Schema | Severity::Refused)
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} ({})", self.path, self.message, self.code.word())
    }
}

/// A value read from a document, with everything there is to say about it.
#[derive(Clone, Debug)]
pub struct Parsed<T> {
    /// What the document means if it is used in spite of its findings; `None` if it has no readable shape at all.
    pub value: Option<T>,
    /// In the order of the document, schema first.
    pub findings: Vec<Finding>,
}

impl<T> Parsed<T> {
    /// Would admission take the object.
    pub fn admissible(&self) -> bool {
        self.value.is_some() && !self.findings.iter().any(Finding::refuses)
    }

    /// The value if admission would take it.
    pub fn admitted(self) -> Option<T> {
        if self.admissible() { self.value } else { None }
    }
}

/// The table of codes: variant, word, number where the word is not one, severity, summary.
macro_rules! codes {
    ($($variant:ident $word:literal $($number:literal)? $severity:ident $summary:literal;)*) => {
        /// The kind of a finding.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Code { $(#[doc = $summary] $variant,)* }

        impl Code {
            /// Every code, in the order of the table.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The stable word of the code.
            pub fn word(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }

            /// The number under which it is documented, `TG` and 4 digits.
            pub fn number(self) -> &'static str {
                match self { $(Self::$variant => [$($number,)? $word][0],)* }
            }

            /// How much it weighs.
            pub fn severity(self) -> Severity {
                match self { $(Self::$variant => Severity::$severity,)* }
            }

            /// What it is about, in one sentence.
            pub fn summary(self) -> &'static str {
                match self { $(Self::$variant => $summary,)* }
            }
        }
    };
}

codes! {
    SchemaType "schema-type" "TG0011" Schema "A value has another type than the field.";
    SchemaEnum "schema-enum" "TG0012" Schema "A value is none of the words that the field knows.";
    SchemaUnknownField "schema-unknown-field" "TG0013" Schema "The field does not exist.";
    SchemaRequired "schema-required" "TG0014" Schema "A field that must be there is missing.";
    SchemaMaxItems "schema-max-items" "TG0015" Schema "A list or a value is longer than allowed.";
    RulesRequired "rules-required" "TG0021" Refused "DENY and CUSTOM need rules.";
    ProviderRequired "provider-required" "TG0022" Refused "CUSTOM needs the name of a provider.";
    ProviderForbidden "provider-forbidden" "TG0023" Refused "Only CUSTOM has a provider.";
    CustomUnsupportedField "custom-unsupported-field" "TG0024" Refused "CUSTOM cannot look at identities.";
    FromSourceNil "from-source-nil" "TG0025" Refused "A `from` entry has no `source`.";
    FromSourceEmpty "from-source-empty" "TG0026" Refused "A `source` has no values.";
    ToOperationNil "to-operation-nil" "TG0027" Refused "A `to` entry has no `operation`.";
    ToOperationEmpty "to-operation-empty" "TG0028" Refused "An `operation` has no values.";
    EmptyValue "empty-value" "TG0029" Refused "A list holds an empty string.";
    BadPort "bad-port" "TG0030" Refused "A port is not a number from 0 to 65535.";
    BadIp "bad-ip" "TG0031" Refused "An address cannot be read.";
    BadCidr "bad-cidr" "TG0032" Refused "An address block cannot be read.";
    SaExclusive "sa-exclusive" "TG0033" Refused "`serviceAccounts` excludes `principals` and `namespaces`.";
    SaFormat "sa-format" "TG0034" Refused "A service account is not `name` or `namespace/name`.";
    SaWildcard "sa-wildcard" "TG0035" Refused "Service accounts have no wildcards.";
    SaTooMany "sa-too-many" "TG0036" Refused "A list of service accounts is too long.";
    BadWildcard "bad-wildcard" "TG0037" Refused "A trust domain has its wildcard in a wrong place.";
    TdSlash "td-slash" "TG0038" Refused "A trust domain holds a slash.";
    KeyEmpty "key-empty" "TG0039" Refused "A condition has an empty key.";
    ValuesMissing "values-missing" "TG0040" Refused "A condition has no values.";
    UnknownAttribute "unknown-attribute" "TG0041" Refused "A condition key is not known.";
    ReplacedAttribute "replaced-attribute" "TG0042" Refused "A condition key was replaced by another field.";
    DeprecatedAttribute "deprecated-attribute" "TG0043" Refused "A condition key existed only in v1alpha1.";
    BadKeyFormat "bad-key-format" "TG0044" Refused "A condition key lacks its bracketed part.";
    DryRunValue "dry-run-value" "TG0045" Refused "The dry-run annotation is not a boolean.";
    DryRunAction "dry-run-action" "TG0046" Refused "Dry run exists for ALLOW and DENY only.";
    DryRunUnsupportedKind "dry-run-unsupported-kind" "TG0047" Refused "Dry run exists for AuthorizationPolicy only.";
    SelectorExclusive "selector-exclusive" "TG0048" Refused "`selector`, `targetRef` and `targetRefs` exclude one another.";
    SelectorEmptyKey "selector-empty-key" "TG0049" Refused "A selector label has an empty key.";
    SelectorWildcard "selector-wildcard" "TG0050" Refused "Selector labels have no wildcards.";
    TargetRefKind "target-ref-kind" "TG0051" Refused "A target of this kind is not supported.";
    TargetRefNamespace "target-ref-namespace" "TG0052" Refused "A target must be in the namespace of the policy.";
    TargetRefName "target-ref-name" "TG0053" Refused "The name of a target is empty or too long.";
    PortLevelNeedsSelector "port-level-needs-selector" "TG0054" Refused "`portLevelMtls` needs a selector with labels.";
    PortLevelRange "port-level-range" "TG0055" Refused "A port of `portLevelMtls` is not from 1 to 65535.";
    PortLevelEmpty "port-level-empty" "TG0056" Refused "`portLevelMtls` has no entries.";
    SelectorNoLabels "selector-no-labels" "TG0061" Warning "The selector has no labels.";
    DenyHttpOnly "deny-http-only" "TG0062" Warning "A DENY rule has HTTP fields only and reaches all TCP.";
    RuleVoid "TG0101" Advice "The rule never matches a TCP connection.";
    RuleWidened "TG0102" Advice "The rule matches more than is written: fields without meaning on TCP are dropped.";
    RuleDead "TG0103" Advice "Nothing is left of the rule on TCP, so it never matches.";
    DenyAllTcp "TG0104" Advice "The rule denies every TCP connection.";
    ProfilesDisagree "TG0105" Advice "The rule means something else in the other profile.";
    TrustDomainsIgnored "TG0106" Advice "`trustDomains` has no effect in the ambient profile.";
    AllowsNothing "TG0107" Advice "The ALLOW policy has no rule that can match, and so denies everything it selects.";
    PrincipalScheme "TG0201" Advice "A principal with the `spiffe://` scheme never matches.";
    LiteralStar "TG0202" Advice "A star is taken literally.";
    BlockNeverMatches "TG0203" Advice "The address block matches no peer.";
    TargetRefsIgnored "TG0301" Advice "A policy with target references applies to no workload.";
    TrialNotEnforced "TG0302" Advice "The policy is in dry run and not enforced.";
    AuditNoEffect "TG0303" Advice "AUDIT is not built yet and changes no verdict.";
    NeedsProxyPath "TG0304" Advice "The rule needs bytes of the connection, which the kernel path does not see.";
    ActionNotApplied "TG0305" Advice "The ambient profile does not apply this action.";
    SelectorSelectsNothing "TG0306" Advice "A selector without labels selects nothing in the ambient profile.";
    RootSelectorIgnored "TG0401" Advice "A PeerAuthentication with labels in the root namespace is ignored.";
}

#[cfg(test)]
mod tests {
    use super::{Code, FieldPath};

    #[test]
    fn words_are_unique() {
        let mut words: Vec<_> = Code::ALL.iter().map(|code| code.word()).collect();
        words.sort_unstable();
        words.dedup();
        assert_eq!(words.len(), Code::ALL.len());
        let mut numbers: Vec<_> = Code::ALL.iter().map(|code| code.number()).collect();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), Code::ALL.len());
        assert!(numbers.iter().all(|number| number.len() == 6 && number.starts_with("TG")), "{numbers:?}");
    }

    #[test]
    fn paths() {
        let path = FieldPath::of("spec.rules").index(2).member("to").index(0).member("operation").member("ports");
        assert_eq!(path.to_string(), "spec.rules[2].to[0].operation.ports");
        assert_eq!(path.pointer(), "/spec/rules/2/to/0/operation/ports");
        let annotation = FieldPath::of("metadata.annotations").member("istio.io/dry-run");
        assert_eq!(annotation.to_string(), "metadata.annotations[istio.io/dry-run]");
        assert_eq!(annotation.pointer(), "/metadata/annotations/istio.io~1dry-run");
    }
}
