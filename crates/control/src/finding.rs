//! One closed table of everything Tidegate says about written objects, so that admission, `analyze` and the documentation
//! cannot differ.
//!
//! Codes of the policy core (`TG001.` schema, `TG002.` to `TG006.` admission, `TG01..` meaning on TCP, `TG02..` values, `TG03..`
//! not applied, `TG04..` PeerAuthentication) are in `policy::finding`. Those here: `TG000.` what cannot be read, `TG0010` names, `TG0016` fields, `TG05..` what
//! depends on other objects, `TG06..` what is only said by `analyze`. Each has a section in `docs/findings.md`.

use std::fmt;

use policy::finding::{Code as PolicyCode, Finding, Severity};

/// The documentation, which is also what `explain CODE` prints.
const STORIES: &str = include_str!("../../../docs/findings.md");

/// How much a finding weighs where it is shown with its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// It cannot be read, or an API server refuses it.
    Error,
    /// Most likely not what its author meant.
    Warning,
    /// Worth knowing; it makes no run fail.
    Note,
}

impl Level {
    /// The word that is printed.
    pub fn word(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Note => "note",
        }
    }
}

/// In which order findings are worth reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Worth {
    /// What cannot be read.
    Unreadable,
    /// What an API server refuses.
    Refused,
    /// Rules that never match on TCP.
    Void,
    /// Rules that match more than is written.
    Widened,
    /// Rules of which nothing is left.
    Dead,
    /// Rules that others hide.
    Shadowed,
    /// Written forms that mean something else than they look.
    Trap,
    /// What is referred to and not there.
    Reference,
    /// Everything else.
    Style,
}

/// One line of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// `TG` and 4 digits.
    pub number: &'static str,
    /// The stable word, the number itself if it has no other.
    pub word: &'static str,
    /// How much it weighs unless a context says otherwise.
    pub level: Level,
    /// Its place among findings.
    pub worth: Worth,
    /// What it is about, in one sentence.
    pub summary: &'static str,
}

impl Entry {
    /// Its section of the documentation, without the heading.
    pub fn story(&self) -> &'static str {
        let heading = format!("\n## {} ", self.number);
        let section = STORIES.split_once(heading.as_str()).and_then(|(_, rest)| rest.split_once('\n'));
        section.map_or("", |(_, text)| text.split_once("\n## ").map_or(text, |(own, _)| own)).trim()
    }
}

/// Every entry there is.
pub fn table() -> impl Iterator<Item = Entry> {
    let ours = Code::ALL.iter().map(|code| code.entry());
    ours.chain(PolicyCode::ALL.iter().map(|code| of_policy(*code)))
}

/// The entry with this number or word; capital letters are not told apart.
pub fn entry(written: &str) -> Option<Entry> {
    table().find(|entry| entry.number.eq_ignore_ascii_case(written) || entry.word.eq_ignore_ascii_case(written))
}

/// What the documentation says of a code, by its number or word; none if it is no code.
pub fn story(code: &str) -> Option<String> {
    let entry = entry(code)?;
    let word = if entry.word == entry.number { String::new() } else { format!(" ({})", entry.word) };
    Some(format!("{}{word}, {}: {}\n\n{}\n", entry.number, entry.level.word(), entry.summary, entry.story()))
}

/// The entry of a code of the policy core.
pub fn of_policy(code: PolicyCode) -> Entry {
    let level = match code.severity() {
        Severity::Schema | Severity::Refused => Level::Error,
        // What hangs on a gateway or a waypoint is enforced there.
        Severity::Advice if is_meant(code) || code == PolicyCode::TargetRefsIgnored => Level::Note,
        Severity::Warning | Severity::Advice => Level::Warning,
    };
    let worth = match code {
        PolicyCode::RuleVoid | PolicyCode::AllowsNothing => Worth::Void,
        PolicyCode::RuleWidened | PolicyCode::DenyHttpOnly | PolicyCode::DenyAllTcp => Worth::Widened,
        PolicyCode::RuleDead => Worth::Dead,
        PolicyCode::TrialNotEnforced
        | PolicyCode::AuditNoEffect
        | PolicyCode::NeedsProxyPath
        | PolicyCode::ProfilesDisagree => Worth::Style,
        _ if code.severity() == Severity::Advice || code.severity() == Severity::Warning => Worth::Trap,
        _ => Worth::Refused,
    };
    Entry { number: code.number(), word: code.word(), level, worth, summary: code.summary() }
}

/// What is told and was meant: a trial, a mark, a difference that only matters elsewhere.
fn is_meant(code: PolicyCode) -> bool {
    matches!(
        code,
        PolicyCode::TrialNotEnforced
            | PolicyCode::AuditNoEffect
            | PolicyCode::ProfilesDisagree
            | PolicyCode::NeedsProxyPath
    )
}

/// The table of codes that depend on other objects: variant, number, level, worth, whether `strict` refuses it, summary.
macro_rules! codes {
    ($($variant:ident $number:literal $level:ident $worth:ident $strict:literal $summary:literal;)*) => {
        /// The kinds of finding that the policy core cannot have, because they depend on more than one policy.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Code { $(#[doc = $summary] $variant,)* }

        impl Code {
            /// All of them, in order.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// Its line of the table.
            pub fn entry(self) -> Entry {
                match self {
                    $(Self::$variant => Entry {
                        number: $number, word: $number, level: Level::$level, worth: Worth::$worth, summary: $summary,
                    },)*
                }
            }

            /// Whether it is most likely a mistake of the author, which `strict` refuses.
            fn is_mistake(self) -> bool {
                match self { $(Self::$variant => $strict,)* }
            }
        }
    };
}

codes! {
    NotText "TG0001" Error Unreadable false "The input cannot be read as text.";
    NotYaml "TG0002" Error Unreadable false "The text is not YAML.";
    DuplicateKey "TG0003" Error Unreadable false "A key stands twice in one mapping.";
    NotAnObject "TG0004" Error Unreadable false "The document is not a Kubernetes object.";
    VersionUnknown "TG0005" Error Unreadable false "The API version is not one that is served.";
    DuplicateObject "TG0006" Warning Trap false "The same object stands twice in the set.";
    SuppressionUnknown "TG0007" Warning Style false "A suppression names a code that does not exist.";
    SuppressionUnused "TG0008" Warning Style false "A suppression hides nothing.";
    SettingBad "TG0009" Error Refused false "A setting of the mesh cannot be read.";
    NameRefused "TG0010" Error Refused false "Kubernetes refuses the name.";
    FieldUnknown "TG0016" Note Style false "An object that is no policy has a field that Kubernetes does not know.";
    SelectorSelectsNothing "TG0501" Warning Reference true "The selector matches no pod and no template.";
    NamespaceUnknown "TG0502" Warning Reference true "A namespace is named that is not there.";
    ServiceAccountUnknown "TG0503" Warning Reference true "A service account is named that is not there.";
    ServicePort "TG0504" Warning Trap true "A rule names the port of a service where the port of its pods is meant.";
    NotInMesh "TG0505" Warning Reference true "The policy selects a workload that is not in the mesh.";
    HttpPort "TG0506" Note Style false "A rule uses HTTP fields on a port that carries HTTP, which is enforced as TCP.";
    KindWithoutEffect "TG0507" Note Style false "A kind that is stored and does nothing.";
    SettingIgnored "TG0508" Note Style false "A setting of the mesh that does nothing.";
    Injection "TG0509" Warning Style false "Something about a pod that is being injected.";
    AnnotationWithoutEffect "TG0510" Warning Style true "An annotation of ours that nothing reads yet.";
    NeverMatches "TG0601" Warning Dead false "No connection can match the rule.";
    Shadowed "TG0602" Warning Shadowed false "Other rules decide every connection of the rule before it.";
    Redundant "TG0603" Warning Shadowed false "The rule changes no decision, because others say the same.";
    HalfOfAnd "TG0604" Warning Trap false "A stray dash makes two alternatives of what looks like one rule.";
    EmptyMeansAny "TG0605" Warning Trap false "An empty list restricts nothing.";
    NoRulesMeansNone "TG0606" Warning Trap false "An ALLOW policy without rules allows nothing.";
    PrunedWidens "TG0607" Warning Trap false "Without strict validation an unknown field is dropped, and what is left matches more.";
    PlaintextClients "TG0608" Warning Trap false "A rule wants an identity where clients have none.";
    BlockCoversCluster "TG0609" Warning Trap false "An address block covers nodes or pods of the cluster itself.";
    BlocksProbe "TG0610" Warning Trap false "Default deny refuses the probe of a kubelet.";
    BlocksScrape "TG0611" Warning Trap false "Default deny refuses the scrape that an annotation asks for.";
    TrialLeftover "TG0612" Warning Style false "A trial that has nothing left to try.";
    AlternativeSources "TG0613" Note Trap false "Two sources that restrict different things are alternatives.";
}

/// One thing to tell the author of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remark {
    /// Its line of the table.
    pub entry: Entry,
    /// The field, empty for the whole object.
    pub path: String,
    /// What is so, and what to do.
    pub message: String,
    /// Whether `strict` refuses it.
    pub mistake: bool,
    /// The value that may have been meant at this path.
    pub instead: Option<String>,
}

impl Remark {
    /// Puts the parts together.
    pub fn new(code: Code, path: &str, message: impl Into<String>) -> Self {
        let (path, message) = (path.to_owned(), message.into());
        Self { entry: code.entry(), path, message, mistake: code.is_mistake(), instead: None }
    }

    #[must_use]
    pub(crate) fn at_level(mut self, level: Level) -> Self {
        self.entry.level = level;
        self
    }

    #[must_use]
    pub(crate) fn instead(mut self, instead: Option<String>) -> Self {
        self.instead = instead;
        self
    }
}

impl From<&Finding> for Remark {
    fn from(finding: &Finding) -> Self {
        Self {
            entry: of_policy(finding.code),
            path: finding.path.to_string(),
            message: finding.message.clone(),
            // Istio's own warnings stay warnings: what Istio accepts is refused only by Tidegate's own knowledge.
            mistake: finding.code.severity() == Severity::Advice && !is_meant(finding.code),
            instead: None,
        }
    }
}

impl fmt::Display for Remark {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.path.as_str() {
            "" => write!(formatter, "{}: {}", self.entry.word, self.message),
            path => write!(formatter, "{}: {path}: {}", self.entry.word, self.message),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{STORIES, entry, table};

    #[test]
    fn numbers_and_words_are_unique() {
        let all: Vec<_> = table().collect();
        let words: BTreeSet<_> = all.iter().flat_map(|entry| [entry.number, entry.word]).collect();
        let numbers: BTreeSet<_> = all.iter().map(|entry| entry.number).collect();
        let named = all.iter().filter(|entry| entry.number != entry.word).count();
        assert_eq!((numbers.len(), words.len()), (all.len(), all.len() + named));
    }

    #[test]
    fn every_code_has_its_story_and_every_story_its_code() {
        for entry in table() {
            let heading = if entry.number == entry.word {
                format!("\n## {} {}\n", entry.number, entry.summary)
            } else {
                format!("\n## {} {}: {}\n", entry.number, entry.word, entry.summary)
            };
            assert!(STORIES.contains(&heading), "docs/findings.md lacks the line {}", heading.trim());
            assert!(entry.story().lines().count() >= 3, "{} is told in too few words", entry.number);
        }
        let told = STORIES.lines().filter(|line| line.starts_with("## TG")).count();
        assert_eq!(told, table().count(), "a section without a code, or one twice");
    }

    #[test]
    fn a_code_is_found_by_number_and_by_word() {
        assert_eq!(entry("tg0021"), entry("rules-required"));
        assert_eq!(entry("TG0101").unwrap().word, "TG0101");
        assert_eq!(entry("TG9999"), None);
    }
}
