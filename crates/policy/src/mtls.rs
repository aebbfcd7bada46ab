//! Which mutual TLS mode holds on a workload port (section 12 of the semantics).

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::mesh::{PolicyId, Profile, Settings, Workload, carries};
use crate::spec::{Mode, PeerAuthentication};

/// The mode in force on a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Effective {
    Disable,
    Permissive,
    Strict,
}

/// The modes of one workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mtls {
    pub(crate) rest: Effective,
    pub(crate) ports: BTreeMap<u16, Effective>,
    /// The PeerAuthentication that has the last word, if there is one.
    pub(crate) named: Option<Arc<PolicyId>>,
}

impl Mtls {
    /// Where no mode is asked for (S-77).
    pub(crate) fn none() -> Self {
        Self { rest: Effective::Permissive, ports: BTreeMap::new(), named: None }
    }

    #[inline]
    pub(crate) fn at(&self, port: u16) -> Effective {
        self.ports.get(&port).copied().unwrap_or(self.rest)
    }

    /// Is plaintext refused on some port.
    pub(crate) fn has_strict(&self) -> bool {
        self.rest == Effective::Strict || self.ports.values().any(|mode| *mode == Effective::Strict)
    }
}

/// All peer authentications by namespace, the oldest first (S-77).
pub(crate) struct Levels<'a> {
    by_namespace: HashMap<&'a str, Vec<&'a PeerAuthentication>>,
    settings: &'a Settings,
}

impl<'a> Levels<'a> {
    pub(crate) fn new(all: &'a [Arc<PeerAuthentication>], settings: &'a Settings) -> Self {
        let mut by_namespace: HashMap<&str, Vec<&PeerAuthentication>> = HashMap::new();
        for one in all {
            by_namespace.entry(one.id.namespace.as_str()).or_default().push(one);
        }
        for level in by_namespace.values_mut() {
            // The API server writes every time as RFC 3339 in UTC to the second, so text order is time order.
            level.sort_by(|a, b| (&a.created, &a.id.name).cmp(&(&b.created, &b.id.name)));
        }
        Self { by_namespace, settings }
    }

    /// S-77, S-78.
    pub(crate) fn of(&self, workload: &Workload) -> Mtls {
        let root = self.settings.root_namespace.as_str();
        let in_namespace =
            |namespace: &str| self.by_namespace.get(namespace).map(Vec::as_slice).unwrap_or_default().iter().copied();
        let without_labels = |namespace: &str| in_namespace(namespace).find(|one| one.selector.is_empty());
        let own = (workload.id.namespace != root)
            .then(|| {
                in_namespace(&workload.id.namespace)
                    .find(|one| !one.selector.is_empty() && carries(&workload.labels, &one.selector))
            })
            .flatten();
        let above = [without_labels(&workload.id.namespace), without_labels(root)];
        let above = above.into_iter().flatten().find(|level| level.mode != Mode::Unset);
        let inherited = above.map_or(Mode::Unset, |level| level.mode);
        let Some(own) = own else {
            return Mtls {
                rest: self.effective(inherited),
                ports: BTreeMap::new(),
                named: above.map(|level| Arc::clone(&level.id)),
            };
        };
        let mode = if own.mode == Mode::Unset { inherited } else { own.mode };
        let relaxes = self.disable_relaxes(own, inherited);
        let ports = own.ports.iter().filter_map(|(port, at_port)| {
            let at_port = match at_port {
                Mode::Unset => return None,
                Mode::Disable if !relaxes => mode,
                Mode::Disable | Mode::Permissive | Mode::Strict => *at_port,
            };
            Some((*port, self.effective(at_port)))
        });
        Mtls { rest: self.effective(mode), ports: ports.collect(), named: Some(Arc::clone(&own.id)) }
    }

    /// S-82: in ambient, under an inherited STRICT, DISABLE on ports relaxes nothing unless a PERMISSIVE stands beside it.
    fn disable_relaxes(&self, own: &PeerAuthentication, inherited: Mode) -> bool {
        self.settings.profile == Profile::Sidecar
            || own.mode != Mode::Unset
            || inherited != Mode::Strict
            || own.ports.values().any(|mode| *mode == Mode::Permissive)
    }

    fn effective(&self, mode: Mode) -> Effective {
        match mode {
            Mode::Strict => Effective::Strict,
            Mode::Disable if self.settings.profile == Profile::Sidecar => Effective::Disable, // S-81, S-82
            Mode::Disable | Mode::Permissive | Mode::Unset => Effective::Permissive,
        }
    }
}
