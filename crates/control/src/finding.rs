//! What Tidegate says about an object beyond what the policy core finds: things that depend on other objects.
//!
//! Codes of the core (`TG01..` meaning on TCP, `TG02..` values, `TG03..` not applied, `TG04..` PeerAuthentication) are in
//! `policy::finding`; those here begin at `TG05`.

use std::fmt;

use policy::finding::{Code as PolicyCode, Finding, Severity};

/// The kinds of remark that depend on other objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Code {
    /// The selector matches no pod and no template.
    SelectorSelectsNothing,
    /// A rule names a namespace that is not there.
    NamespaceUnknown,
    /// A rule names a service account that is not there.
    ServiceAccountUnknown,
    /// A rule names the port of a service where the port of its pods is meant.
    ServicePort,
    /// The policy selects a pod that is not in the mesh.
    NotInMesh,
    /// A rule uses HTTP fields on a port that carries HTTP, which is enforced as TCP.
    HttpPort,
    /// A kind that is stored and does nothing.
    KindWithoutEffect,
    /// A setting of the mesh that does nothing.
    SettingIgnored,
    /// Something about a pod that is being injected.
    Injection,
    /// An annotation of ours that nothing reads yet.
    AnnotationWithoutEffect,
}

impl Code {
    /// All of them, in order.
    pub const ALL: [Self; 10] = [
        Self::SelectorSelectsNothing,
        Self::NamespaceUnknown,
        Self::ServiceAccountUnknown,
        Self::ServicePort,
        Self::NotInMesh,
        Self::HttpPort,
        Self::KindWithoutEffect,
        Self::SettingIgnored,
        Self::Injection,
        Self::AnnotationWithoutEffect,
    ];

    /// The stable word.
    pub fn word(self) -> &'static str {
        match self {
            Self::SelectorSelectsNothing => "TG0501",
            Self::NamespaceUnknown => "TG0502",
            Self::ServiceAccountUnknown => "TG0503",
            Self::ServicePort => "TG0504",
            Self::NotInMesh => "TG0505",
            Self::HttpPort => "TG0506",
            Self::KindWithoutEffect => "TG0507",
            Self::SettingIgnored => "TG0508",
            Self::Injection => "TG0509",
            Self::AnnotationWithoutEffect => "TG0510",
        }
    }

    /// Whether it is most likely a mistake of the author, which `strict` refuses.
    fn is_mistake(self) -> bool {
        match self {
            Self::SelectorSelectsNothing
            | Self::NamespaceUnknown
            | Self::ServiceAccountUnknown
            | Self::ServicePort
            | Self::NotInMesh
            | Self::AnnotationWithoutEffect => true,
            Self::HttpPort | Self::KindWithoutEffect | Self::SettingIgnored | Self::Injection => false,
        }
    }
}

/// One thing to tell the author of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remark {
    /// The stable word of its kind.
    pub code: &'static str,
    /// The field, empty for the whole object.
    pub path: String,
    /// What is so, and what to do.
    pub message: String,
    /// Whether `strict` refuses it.
    pub mistake: bool,
}

impl Remark {
    /// Puts the parts together.
    pub fn new(code: Code, path: &str, message: impl Into<String>) -> Self {
        Self { code: code.word(), path: path.to_owned(), message: message.into(), mistake: code.is_mistake() }
    }
}

impl From<&Finding> for Remark {
    fn from(finding: &Finding) -> Self {
        // What is told and was meant: a trial, a mark, a difference that only matters under the other profile.
        let meant = matches!(
            finding.code,
            PolicyCode::TrialNotEnforced
                | PolicyCode::AuditNoEffect
                | PolicyCode::ProfilesDisagree
                | PolicyCode::NeedsProxyPath
        );
        Self {
            code: finding.code.word(),
            path: finding.path.to_string(),
            message: finding.message.clone(),
            // Istio's own warnings stay warnings: what Istio accepts is refused only by Tidegate's own knowledge.
            mistake: finding.code.severity() == Severity::Advice && !meant,
        }
    }
}

impl fmt::Display for Remark {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.path.as_str() {
            "" => write!(formatter, "{}: {}", self.code, self.message),
            path => write!(formatter, "{}: {path}: {}", self.code, self.message),
        }
    }
}
