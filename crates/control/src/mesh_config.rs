//! Settings of the whole mesh, from ConfigMap `istio` in `istio-system`, key `mesh`: Istio's names first, ours under `tidegate:`.
//!
//! A bad value never weakens anything: it is a finding, and the stricter choice stands in for it. Admission refuses such a
//! ConfigMap in the first place; this is for what reaches the reader otherwise.

use api::Objects;
use policy::{Profile, ProviderKind, SameNode, Settings};
use serde_json::Value;

/// Where the ConfigMap is. It does not move with `rootNamespace`: that is one of the things it says.
pub const NAMESPACE: &str = "istio-system";
/// Its name.
pub const NAME: &str = "istio";
/// The key that holds the settings.
pub const KEY: &str = "mesh";
/// More aliases than this are a mistake: each multiplies every principal of every policy.
const ALIASES_MAX: usize = 64;

/// Everything the ConfigMap says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MeshConfig {
    /// What changes decisions.
    pub settings: Settings,
    /// Whether Tidegate's own warnings refuse a policy.
    pub strict: bool,
    /// What happens to open connections that are no longer permitted.
    pub existing: Existing,
    /// What is wrong with it.
    pub findings: Vec<ConfigFinding>,
}

/// What happens to open connections that a change no longer permits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Existing {
    /// They are reset at once.
    #[default]
    Close,
    /// They may end by themselves for a while.
    Drain,
    /// They stay.
    Keep,
}

/// Something wrong with the settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigFinding {
    /// Where: `tidegate.profile`.
    pub path: String,
    /// What is wrong, and what holds instead.
    pub message: String,
    /// Whether a value is bad; otherwise a key is only ignored.
    pub bad: bool,
}

/// The settings as the objects have them; without a ConfigMap, the defaults.
pub fn of(objects: &Objects) -> MeshConfig {
    match objects.find("", "configmaps", Some(NAMESPACE), NAME) {
        Some(map) => of_config_map(map.value()),
        None => MeshConfig::default(),
    }
}

/// The settings that a ConfigMap holds.
pub fn of_config_map(map: &Value) -> MeshConfig {
    match map.get("data").and_then(|data| data.get(KEY)) {
        None => MeshConfig::default(),
        Some(Value::String(text)) => of_text(text),
        Some(_) => broken(&format!("`data.{KEY}` is not text: write the settings as a YAML block below `{KEY}: |-`")),
    }
}

/// The settings that a text holds: the value of the key, or a file of the same form.
pub fn of_text(text: &str) -> MeshConfig {
    match single(text) {
        Ok(Value::Null) => MeshConfig::default(),
        Ok(Value::Object(fields)) => {
            let mut reader = Reader::default();
            for (key, value) in &fields {
                reader.top(key, value);
            }
            reader.config
        }
        Ok(_) => broken("the settings are not a mapping: write `name: value` lines"),
        Err(error) => broken(&error),
    }
}

/// The one document of a text.
fn single(text: &str) -> Result<Value, String> {
    let documents = api::yaml::documents(text);
    if let Some(problem) = documents.iter().find_map(api::yaml::Document::fatal) {
        return Err(format!("line {}, column {}: {}", problem.span.line, problem.span.column, problem.message));
    }
    let mut filled = documents.into_iter().filter(|document| !document.is_empty());
    let first = filled.next().map_or(Value::Null, |document| document.value);
    if filled.next().is_some() {
        Err("the settings are several documents: write them as one".to_owned())
    } else {
        Ok(first)
    }
}

fn broken(message: &str) -> MeshConfig {
    let finding =
        ConfigFinding { path: KEY.to_owned(), message: format!("{message}; all settings are the defaults"), bad: true };
    MeshConfig { findings: vec![finding], ..MeshConfig::default() }
}

#[derive(Default)]
struct Reader {
    config: MeshConfig,
}

impl Reader {
    fn top(&mut self, key: &str, value: &Value) {
        match key {
            "rootNamespace" => match value.as_str() {
                // Istio reads an empty one as the default.
                Some("") => {}
                Some(name) if is_label(name) => name.clone_into(&mut self.config.settings.root_namespace),
                _ => self.bad(key, value, "the name of a namespace", NAMESPACE),
            },
            "trustDomain" => match value.as_str() {
                Some(domain) if is_trust_domain(domain) => domain.clone_into(&mut self.config.settings.trust_domain),
                _ => self.bad(key, value, "a trust domain such as `cluster.local`", "cluster.local"),
            },
            "trustDomainAliases" => self.aliases(value),
            "extensionProviders" => self.providers(value),
            "tidegate" => match value {
                Value::Object(fields) => fields.iter().for_each(|(key, value)| self.own(key, value)),
                _ => self.bad(key, value, "a mapping", "all of it is the defaults"),
            },
            _ => self.ignored(key),
        }
    }

    fn own(&mut self, key: &str, value: &Value) {
        let path = format!("tidegate.{key}");
        match (key, value.as_str(), value.as_bool()) {
            ("profile", Some("sidecar"), _) => self.config.settings.profile = Profile::Sidecar,
            ("profile", Some("ambient"), _) => self.config.settings.profile = Profile::Ambient,
            // The sidecar profile is the stricter of the two where they differ on a DENY.
            ("profile", ..) => self.bad(&path, value, "`sidecar` or `ambient`", "sidecar"),
            ("strict", _, Some(strict)) => self.config.strict = strict,
            ("strict", ..) => {
                self.config.strict = true;
                self.bad(&path, value, "`true` or `false`", "true");
            }
            ("sameNode", Some("attested"), _) => self.config.settings.same_node = SameNode::Attested,
            ("sameNode", Some("mtls"), _) => self.config.settings.same_node = SameNode::Mtls,
            ("sameNode", ..) => {
                self.config.settings.same_node = SameNode::Mtls;
                self.bad(&path, value, "`attested` or `mtls`", "mtls");
            }
            ("existing", Some("close"), _) => self.config.existing = Existing::Close,
            ("existing", Some(word @ ("drain" | "keep")), _) => {
                self.config.existing = if word == "drain" { Existing::Drain } else { Existing::Keep };
                self.note(
                    &path,
                    format!("`{word}` is not built yet: connections that are no longer permitted are reset"),
                );
            }
            ("existing", ..) => self.bad(&path, value, "`close`, `drain` or `keep`", "close"),
            _ => self.ignored(&path),
        }
    }

    fn aliases(&mut self, value: &Value) {
        let Some(list) = value.as_array() else {
            return self.bad("trustDomainAliases", value, "a list of trust domains", "no alias");
        };
        if list.len() > ALIASES_MAX {
            self.bad(
                "trustDomainAliases",
                &list.len().into(),
                &format!("at most {ALIASES_MAX} entries"),
                "the first ones",
            );
        }
        for (index, alias) in list.iter().take(ALIASES_MAX).enumerate() {
            match alias.as_str() {
                Some(domain) if is_trust_domain(domain) => {
                    self.config.settings.trust_domain_aliases.push(domain.to_owned());
                }
                _ => self.bad(&format!("trustDomainAliases[{index}]"), alias, "a trust domain", "nothing in its place"),
            }
        }
    }

    fn providers(&mut self, value: &Value) {
        let Some(list) = value.as_array() else {
            return self.bad("extensionProviders", value, "a list of providers", "no provider");
        };
        for (index, provider) in list.iter().enumerate() {
            let path = format!("extensionProviders[{index}]");
            let Some(name) = provider.get("name").and_then(Value::as_str).filter(|name| !name.is_empty()) else {
                self.bad(&path, provider, "a mapping with a `name`", "nothing in its place");
                continue;
            };
            let kind = if provider.get("envoyExtAuthzGrpc").is_some() {
                ProviderKind::Grpc
            } else if provider.get("envoyExtAuthzHttp").is_some() {
                ProviderKind::Http
            } else {
                self.note(&path, format!("`{name}` is not an external authorizer: ignored"));
                continue;
            };
            self.config.settings.providers.insert(name.to_owned(), kind);
        }
    }

    fn bad(&mut self, path: &str, value: &Value, expected: &str, instead: &str) {
        let message = format!("{value} is not {expected}; {instead} holds instead");
        self.config.findings.push(ConfigFinding { path: path.to_owned(), message, bad: true });
    }

    fn ignored(&mut self, path: &str) {
        self.note(path, "has no effect in Tidegate".to_owned());
    }

    fn note(&mut self, path: &str, message: String) {
        self.config.findings.push(ConfigFinding { path: path.to_owned(), message, bad: false });
    }
}

/// A name as Kubernetes demands it of namespaces.
fn is_label(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// What may stand as the first part of a SPIFFE id.
fn is_trust_domain(text: &str) -> bool {
    (1..=255).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.' | b'_'))
}

#[cfg(test)]
mod tests {
    use policy::{Profile, ProviderKind, SameNode};
    use serde_json::json;

    use super::{Existing, MeshConfig, of_config_map, of_text};

    #[test]
    fn istios_names_and_ours() {
        let config = of_text(
            "rootNamespace: mesh-root\ntrustDomain: example.org\ntrustDomainAliases: [old.org, older.org]\n\
             extensionProviders:\n- name: a\n  envoyExtAuthzGrpc: {service: x, port: 1}\n- name: b\n  envoyExtAuthzHttp: {}\n\
             tidegate:\n  profile: ambient\n  strict: true\n  sameNode: mtls\n  existing: close\n",
        );
        assert_eq!(config.findings, Vec::new());
        assert_eq!(config.settings.root_namespace, "mesh-root");
        assert_eq!(config.settings.trust_domain, "example.org");
        assert_eq!(config.settings.trust_domain_aliases, ["old.org", "older.org"]);
        assert_eq!(config.settings.providers.get("a"), Some(&ProviderKind::Grpc));
        assert_eq!(config.settings.providers.get("b"), Some(&ProviderKind::Http));
        assert_eq!(config.settings.profile, Profile::Ambient);
        assert_eq!(config.settings.same_node, SameNode::Mtls);
        assert!(config.strict);
        assert_eq!(config.existing, Existing::Close);
    }

    #[test]
    fn nothing_written_is_the_defaults() {
        for map in [
            json!({}),
            json!({ "data": {} }),
            json!({ "data": { "mesh": "" } }),
            json!({ "data": { "mesh": "# nothing\n" } }),
        ] {
            assert_eq!(of_config_map(&map), MeshConfig::default(), "{map}");
        }
    }

    #[test]
    fn unknown_keys_are_ignored_and_told() {
        let config = of_text("accessLogFile: /dev/stdout\ndefaultConfig: {}\ntidegate: {colour: red}\n");
        assert_eq!(config.settings, MeshConfig::default().settings);
        let paths: Vec<_> = config.findings.iter().map(|finding| (finding.path.as_str(), finding.bad)).collect();
        assert_eq!(paths, [("accessLogFile", false), ("defaultConfig", false), ("tidegate.colour", false)]);
    }

    #[test]
    fn a_bad_value_is_told_and_the_stricter_choice_holds() {
        let config = of_text(
            "rootNamespace: Not A Name\ntrustDomain: a/b\ntrustDomainAliases: [ok, 7, 'x/y']\nextensionProviders: [{}, {name: z}]\n\
             tidegate: {profile: ambiant, strict: 'yes', sameNode: attestd, existing: stay}\n",
        );
        let default = MeshConfig::default().settings;
        assert_eq!(config.settings.root_namespace, default.root_namespace);
        assert_eq!(config.settings.trust_domain, default.trust_domain);
        assert_eq!(config.settings.trust_domain_aliases, ["ok"]);
        assert_eq!(config.settings.profile, Profile::Sidecar);
        assert_eq!(config.settings.same_node, SameNode::Mtls);
        assert_eq!((config.strict, config.existing), (true, Existing::Close));
        let bad: Vec<_> =
            config.findings.iter().filter(|finding| finding.bad).map(|finding| finding.path.as_str()).collect();
        let expected = [
            "rootNamespace",
            "trustDomain",
            "trustDomainAliases[1]",
            "trustDomainAliases[2]",
            "extensionProviders[0]",
            "tidegate.profile",
            "tidegate.strict",
            "tidegate.sameNode",
            "tidegate.existing",
        ];
        assert_eq!(bad, expected);
    }

    #[test]
    fn a_text_that_is_not_a_mapping_is_one_bad_finding() {
        for text in ["- a\n", "just words", "a: [", "a: 1\n---\nb: 2\n"] {
            let config = of_text(text);
            assert_eq!(config.settings, MeshConfig::default().settings);
            assert_eq!((config.findings.len(), config.findings[0].bad), (1, true), "{text:?} {:?}", config.findings);
        }
        assert!(of_config_map(&json!({ "data": { "mesh": 7 } })).findings[0].bad);
    }

    #[test]
    fn what_is_not_built_yet_says_so() {
        let config = of_text("tidegate: {existing: keep}");
        assert_eq!(config.existing, Existing::Keep);
        assert!(config.findings[0].message.contains("not built yet") && !config.findings[0].bad);
    }
}
