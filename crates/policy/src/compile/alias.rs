//! Trust domain aliases (S-62 to S-66), applied to values before matching; sidecar only (S-67).

use crate::mesh::Settings;

/// The name that always means "my own trust domain" (S-65).
const OWN: &str = "cluster.local";

/// The values that one principal value stands for.
pub(crate) fn principal(value: &str, settings: &Settings) -> Vec<String> {
    let Some((first, rest)) = value.split_once('/') else {
        return vec![value.to_owned()];
    };
    // S-63: exactly five parts, the first not `*`.
    if first == "*" || rest.split('/').count() != 4 {
        return vec![value.to_owned()];
    }
    // S-64
    if first != OWN && !trust_domains(settings).any(|member| matches_either_way(first, member)) {
        return vec![value.to_owned()];
    }
    let mut values: Vec<String> = Vec::new();
    for member in trust_domains(settings) {
        let kept = first.strip_prefix('*').is_some_and(|end| member.ends_with(end));
        let one = if kept { value.to_owned() } else { format!("{member}/{rest}") };
        if !values.contains(&one) {
            values.push(one);
        }
    }
    values
}

/// The values that one trust domain value stands for (S-66).
pub(crate) fn trust_domain(value: &str, settings: &Settings) -> Vec<String> {
    if trust_domains(settings).any(|member| member == value) {
        trust_domains(settings).map(str::to_owned).collect()
    } else {
        vec![value.to_owned()]
    }
}

fn trust_domains(settings: &Settings) -> impl Iterator<Item = &str> {
    std::iter::once(settings.trust_domain.as_str()).chain(settings.trust_domain_aliases.iter().map(String::as_str))
}

fn matches_either_way(one: &str, other: &str) -> bool {
    one == other || fits(one, other) || fits(other, one)
}

/// Does the text fit the pattern, read as a prefix or suffix pattern of S-49.
fn fits(pattern: &str, text: &str) -> bool {
    match (pattern.strip_prefix('*'), pattern.strip_suffix('*')) {
        (Some(end), _) => text.ends_with(end),
        (None, Some(start)) => text.starts_with(start),
        (None, None) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::{principal, trust_domain};
    use crate::mesh::Settings;

    fn settings(trust_domain: &str, aliases: &[&str]) -> Settings {
        Settings {
            trust_domain: trust_domain.to_owned(),
            trust_domain_aliases: aliases.iter().map(|alias| (*alias).to_owned()).collect(),
            ..Settings::default()
        }
    }

    #[test]
    fn s_62_to_s_65() {
        for (own, aliases, value, expected) in [
            ("td1", &[][..], "cluster.local/ns/a/sa/b", &["td1/ns/a/sa/b"][..]),
            ("td1", &["old"], "cluster.local/ns/a/sa/b", &["td1/ns/a/sa/b", "old/ns/a/sa/b"]),
            ("td1", &["old"], "old/ns/a/sa/b", &["td1/ns/a/sa/b", "old/ns/a/sa/b"]),
            ("td1", &["old"], "other/ns/a/sa/b", &["other/ns/a/sa/b"]),
            ("td1", &["old"], "td1/ns/a/*", &["td1/ns/a/*"]),
            ("td1", &["old"], "td1/ns/a/sa/*", &["td1/ns/a/sa/*", "old/ns/a/sa/*"]),
            ("td1", &["old"], "*/ns/a/sa/b", &["*/ns/a/sa/b"]),
            ("td1", &["old"], "*", &["*"]),
            ("td1", &["old"], "td*/ns/a/sa/b", &["td1/ns/a/sa/b", "old/ns/a/sa/b"]),
            ("td1", &["old"], "*d1/ns/a/sa/b", &["*d1/ns/a/sa/b", "old/ns/a/sa/b"]),
            ("td1", &["td1", "*ld"], "old/ns/a/sa/b", &["td1/ns/a/sa/b", "*ld/ns/a/sa/b"]),
        ] {
            assert_eq!(principal(value, &settings(own, aliases)), expected, "{value}");
        }
    }

    #[test]
    fn s_66() {
        let settings = settings("td1", &["old"]);
        assert_eq!(trust_domain("old", &settings), ["td1", "old"]);
        assert_eq!(trust_domain("cluster.local", &settings), ["cluster.local"]);
        assert_eq!(trust_domain("td*", &settings), ["td*"]);
    }
}
