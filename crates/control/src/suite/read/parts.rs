//! The parts of cases and assertions.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use policy::address::{Block, canonical};
use policy::finding::FieldPath;
use policy::identity::SCHEME;
use policy::{Answer, SpiffeId};
use serde_json::{Map, Value};

use super::super::shape;
use super::super::{Assertion, Because, Case, Client, Expect, From, Target, Who};
use super::Reader;

impl Reader<'_> {
    pub(super) fn case(&mut self, map: &Map<String, Value>, at: &FieldPath) -> Option<Case> {
        let from = self.from(map.get("from")?, &at.member("from"));
        let to = self.to(map.get("to")?, &at.member("to"));
        let port = self.port(map.get("port")?, &at.member("port"));
        let expect = self.expect(map, at, shape::CASE_EXPECTS);
        let because = map.get("because").filter(|value| !value.is_null());
        let because = because.map(|value| self.because(value, &at.member("because")));
        if expect == Some(Expect::Depends) && because.is_some() {
            self.fault(&at.member("because"), "what depends on HTTP has no single reason: leave `because` out");
        }
        let (to, address) = to?;
        Some(Case {
            from: from?,
            to,
            address,
            port: port?,
            server_name: self.text(map, "serverName", at),
            authorizers: self.authorizers(map, &at.member("authorizers")),
            expect: expect?,
            because: because.flatten(),
        })
    }

    pub(super) fn assertion(&mut self, map: &Map<String, Value>, at: &FieldPath) -> Option<Assertion> {
        let expect = self.expect(map, at, shape::ASSERTION_EXPECTS);
        Some(Assertion {
            from: self.each(map, "from", at, Self::client),
            not_from: self.each(map, "notFrom", at, Self::client),
            to: self.each(map, "to", at, Self::target),
            ports: self.each(map, "ports", at, Self::range),
            not_ports: self.each(map, "notPorts", at, Self::range),
            expect: expect?,
        })
    }

    /// The items of a list that is not empty: "empty means any" cannot be written down.
    fn each<T>(
        &mut self,
        map: &Map<String, Value>,
        field: &str,
        at: &FieldPath,
        read: fn(&mut Self, &Value, &FieldPath) -> Option<T>,
    ) -> Vec<T> {
        let at = at.member(field);
        let values = self.list(map.get(field), &at);
        if values.is_empty() && map.get(field).is_some_and(Value::is_array) {
            self.fault(&at, format!("`{field}` is empty; leave it out, or name what it should hold"));
        }
        values.iter().enumerate().filter_map(|(index, value)| read(self, value, &at.index(index))).collect()
    }

    fn expect(&mut self, map: &Map<String, Value>, at: &FieldPath, words: &[&'static str]) -> Option<Expect> {
        Some(match self.word(map, "expect", at, words)? {
            "allow" => Expect::Allow,
            "deny" => Expect::Deny,
            _ => Expect::Depends,
        })
    }

    fn from(&mut self, value: &Value, at: &FieldPath) -> Option<From> {
        if value.is_string() {
            return Some(From { who: Who::Workload(self.plain(value, at)?), address: None });
        }
        let map = self.shaped(value, at, &shape::FROM)?;
        let address = self.address(map, at);
        let workload = self.text(map, "workload", at);
        let identity = map.get("identity").filter(|value| !value.is_null());
        let who = match (workload, identity) {
            (Some(_), Some(_)) => {
                self.fault(at, "a client is known by its `workload` or by its `identity`: leave one of them out");
                return None;
            }
            (Some(workload), None) => Who::Workload(workload),
            (None, Some(value)) if value.as_str() == Some("none") => Who::Nobody,
            (None, Some(value)) => Who::Identity(self.identity(value, &at.member("identity"))?),
            // An address alone is a client outside the mesh.
            (None, None) if address.is_some() => Who::Nobody,
            (None, None) if map.get("address").is_some() => return None, // already told
            (None, None) => {
                self.fault(at, "a client needs a `workload`, an `identity` (`none` for plaintext) or an `address`");
                return None;
            }
        };
        Some(From { who, address })
    }

    fn to(&mut self, value: &Value, at: &FieldPath) -> Option<(String, Option<IpAddr>)> {
        if value.is_string() {
            return Some((self.plain(value, at)?, None));
        }
        let map = self.shaped(value, at, &shape::TO)?;
        Some((self.text(map, "workload", at)?, self.address(map, at)))
    }

    fn address(&mut self, map: &Map<String, Value>, at: &FieldPath) -> Option<IpAddr> {
        let text = self.text(map, "address", at)?;
        let address = text.parse::<IpAddr>().ok().map(canonical);
        if address.is_none() {
            self.fault(&at.member("address"), format!("`{text}` is not an address; `10.0.0.1` and `fd00::1` are"));
        }
        address
    }

    /// An identity, with its scheme or as policies write it.
    fn identity(&mut self, value: &Value, at: &FieldPath) -> Option<SpiffeId> {
        let text = self.plain(value, at)?;
        let principal = text.strip_prefix(SCHEME).unwrap_or(&text);
        let id = SpiffeId::parse(&format!("{SCHEME}{principal}"));
        if id.is_none() {
            self.fault(
                at,
                format!("`{text}` is not an identity; `TRUST_DOMAIN/ns/NAMESPACE/sa/SERVICE_ACCOUNT` and `none` are"),
            );
        }
        id
    }

    fn port(&mut self, value: &Value, at: &FieldPath) -> Option<u16> {
        let number = value.as_u64().and_then(|number| u16::try_from(number).ok());
        let port = number.or_else(|| policy::address::parse_port(value.as_str()?));
        if port.is_none() {
            self.fault(at, format!("{value} is not a port; a number from 0 to 65535 is"));
        }
        port
    }

    /// `5432` or `9000-9010`.
    fn range(&mut self, value: &Value, at: &FieldPath) -> Option<RangeInclusive<u16>> {
        let Some((first, last)) = value.as_str().and_then(|text| text.split_once('-')) else {
            return self.port(value, at).map(|port| port..=port);
        };
        let ends = policy::address::parse_port(first.trim()).zip(policy::address::parse_port(last.trim()));
        let range = ends.filter(|(first, last)| first <= last).map(|(first, last)| first..=last);
        if range.is_none() {
            self.fault(at, format!("{value} is not a range of ports; `9000-9010` is, lower end first"));
        }
        range
    }

    fn authorizers(&mut self, map: &Map<String, Value>, at: &FieldPath) -> BTreeMap<String, Answer> {
        let Some(value) = map.get("authorizers").filter(|value| !value.is_null()) else { return BTreeMap::new() };
        let Some(named) = value.as_object() else {
            self.fault(at, "`authorizers` is a mapping from the name of a provider to `allow` or `deny`");
            return BTreeMap::new();
        };
        let mut answers = BTreeMap::new();
        for name in named.keys() {
            match self.word(named, name, at, shape::ANSWERS) {
                Some("allow") => answers.insert(name.clone(), Answer::Allow),
                Some(_) => answers.insert(name.clone(), Answer::Deny),
                None => None,
            };
        }
        answers
    }

    /// `NAMESPACE/NAME`, `NAMESPACE/NAME[RULE]`, or the word of a reason.
    fn because(&mut self, value: &Value, at: &FieldPath) -> Option<Because> {
        let text = self.plain(value, at)?;
        if let Some(reason) = shape::REASONS.iter().find(|reason| reason.word() == text) {
            return Some(Because::Reason(*reason));
        }
        let (policy, rule) = match text.strip_suffix(']').and_then(|text| text.split_once('[')) {
            Some((policy, rule)) => (policy.to_owned(), rule.parse::<usize>().ok()),
            None => (text.clone(), None),
        };
        let whole = policy.split_once('/').is_some_and(|(namespace, name)| {
            !namespace.is_empty() && !name.is_empty() && !name.contains(['/', '[', ']'])
        });
        if !whole || rule.is_some() != text.ends_with(']') {
            let words: Vec<&str> = shape::REASONS.iter().map(|reason| reason.word()).collect();
            self.fault(
                at,
                format!(
                    "`{text}` is no reason; `NAMESPACE/POLICY`, `NAMESPACE/POLICY[RULE]` (counted from 0) or one of {}",
                    words.join(", ")
                ),
            );
            return None;
        }
        Some(Because::Policy(policy, rule))
    }

    fn client(&mut self, value: &Value, at: &FieldPath) -> Option<Client> {
        let map = self.shaped(value, at, &shape::CLIENT)?;
        let fields: Vec<&str> = map.keys().map(String::as_str).collect();
        let [field] = fields.as_slice() else {
            self.fault(at, "a client is known by exactly one field; write further ones as further items");
            return None;
        };
        let (field, value, at) = (*field, map.get(*field)?, at.member(field));
        match field {
            "identity" => match value.as_str() {
                Some("any") => Some(Client::Anybody),
                Some("none") => Some(Client::Nobody),
                _ => Some(Client::Identity(self.identity(value, &at)?)),
            },
            "namespace" => Some(Client::Namespace(self.plain(value, &at)?)),
            "workload" => Some(Client::Workload(self.plain(value, &at)?)),
            "serviceAccount" => {
                let text = self.plain(value, &at)?;
                let parts = text.split_once('/').filter(|(one, other)| !one.is_empty() && !other.is_empty());
                let Some((namespace, name)) = parts.filter(|(_, name)| !name.contains('/')) else {
                    self.fault(&at, format!("`{text}` is not a service account; `NAMESPACE/NAME` is"));
                    return None;
                };
                Some(Client::ServiceAccount(namespace.to_owned(), name.to_owned()))
            }
            "ipBlock" => {
                let text = self.plain(value, &at)?;
                let Some(block) = Block::parse(&text).filter(|block| *block != Block::Never && !block.is_mapped())
                else {
                    self.fault(&at, format!("`{text}` is not an address block; `10.0.0.0/8` and `fd00::/8` are"));
                    return None;
                };
                Some(Client::Addresses(block, text))
            }
            _ => None, // told by `shaped`
        }
    }

    fn target(&mut self, value: &Value, at: &FieldPath) -> Option<Target> {
        if value.is_string() {
            return self.plain(value, at).map(Target::Workload);
        }
        let map = self.shaped(value, at, &shape::TARGET)?;
        let workload = self.text(map, "workload", at);
        let namespace = self.text(map, "namespace", at);
        let labels = match map.get("labels") {
            None | Some(Value::Null) => None,
            Some(labels) => Some(self.labels(labels, &at.member("labels"))?),
        };
        match (workload, namespace, labels) {
            (Some(workload), None, None) => Some(Target::Workload(workload)),
            (Some(_), _, _) => {
                self.fault(at, "a `workload` is one workload: leave out `namespace` and `labels`");
                None
            }
            (None, None, None) => {
                self.fault(at, "this says nothing; leave `to` out for every workload");
                None
            }
            (None, namespace, labels) => Some(Target::Labelled { namespace, labels: labels.unwrap_or_default() }),
        }
    }

    fn labels(&mut self, value: &Value, at: &FieldPath) -> Option<policy::Labels> {
        let pairs = value.as_object().filter(|map| !map.is_empty() && map.values().all(Value::is_string));
        if pairs.is_none() {
            self.fault(at, "`labels` is a mapping of texts that is not empty; put numbers and `true` in quotes");
        }
        pairs.map(|_| crate::translate::labels(value))
    }
}
