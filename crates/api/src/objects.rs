//! A plain cache of objects, fed by events in order.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::events::{Change, Event};
use crate::object::{Key, Object};

type ByName = BTreeMap<String, Arc<Object>>;
/// Cluster-scoped objects live under the empty namespace, which no object can have.
type ByNamespace = BTreeMap<String, ByName>;
type ByPlural = BTreeMap<String, ByNamespace>;

/// All objects as of one revision, by resource, namespace and name.
///
/// Nested maps so that every lookup borrows its keys.
#[derive(Clone, Debug, Default)]
pub struct Objects {
    groups: BTreeMap<String, ByPlural>,
    revision: u64,
}

impl Objects {
    /// An empty cache.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes in one event.
    pub fn apply(&mut self, event: &Event) {
        self.revision = self.revision.max(event.revision);
        match &event.change {
            Change::Put { new, .. } => self.put(&event.key, Arc::clone(new)),
            Change::Deleted { .. } => self.remove(&event.key),
        }
    }

    /// The highest revision taken in.
    pub const fn revision(&self) -> u64 {
        self.revision
    }

    /// One object.
    pub fn get(&self, key: &Key) -> Option<&Arc<Object>> {
        self.find(&key.group, &key.plural, key.namespace.as_deref(), &key.name)
    }

    /// One object, without making a key.
    pub fn find(&self, group: &str, plural: &str, namespace: Option<&str>, name: &str) -> Option<&Arc<Object>> {
        self.groups.get(group)?.get(plural)?.get(namespace.unwrap_or(""))?.get(name)
    }

    /// All objects of a resource, by namespace and name.
    pub fn list(&self, group: &str, plural: &str) -> impl Iterator<Item = &Arc<Object>> {
        self.resource(group, plural).into_iter().flat_map(BTreeMap::values).flat_map(BTreeMap::values)
    }

    /// The objects of a resource in one namespace, by name.
    pub fn in_namespace(&self, group: &str, plural: &str, namespace: &str) -> impl Iterator<Item = &Arc<Object>> {
        self.resource(group, plural)
            .and_then(|namespaces| namespaces.get(namespace))
            .into_iter()
            .flat_map(BTreeMap::values)
    }

    /// Every object there is, with its key.
    pub fn all(&self) -> impl Iterator<Item = (Key, &Arc<Object>)> {
        self.groups.iter().flat_map(|(group, plurals)| {
            plurals.iter().flat_map(move |(plural, namespaces)| {
                namespaces.iter().flat_map(move |(namespace, names)| {
                    names.iter().map(move |(name, object)| {
                        let namespace = Some(namespace.clone()).filter(|namespace| !namespace.is_empty());
                        let key = Key { group: group.clone(), plural: plural.clone(), namespace, name: name.clone() };
                        (key, object)
                    })
                })
            })
        })
    }

    /// How many objects there are.
    pub fn len(&self) -> usize {
        self.groups.values().flat_map(BTreeMap::values).flat_map(BTreeMap::values).map(BTreeMap::len).sum()
    }

    /// Whether there is no object at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn resource(&self, group: &str, plural: &str) -> Option<&ByNamespace> {
        self.groups.get(group)?.get(plural)
    }

    fn put(&mut self, key: &Key, object: Arc<Object>) {
        // Names of groups, resources and namespaces are nearly always there already.
        let known = self.groups.get_mut(&key.group).and_then(|plurals| plurals.get_mut(&key.plural));
        let namespace = key.namespace.as_deref().unwrap_or("");
        if let Some(names) = known.and_then(|namespaces| namespaces.get_mut(namespace)) {
            names.insert(key.name.clone(), object);
            return;
        }
        self.groups
            .entry(key.group.clone())
            .or_default()
            .entry(key.plural.clone())
            .or_default()
            .entry(key.namespace.clone().unwrap_or_default())
            .or_default()
            .insert(key.name.clone(), object);
    }

    fn remove(&mut self, key: &Key) {
        let namespace = key.namespace.as_deref().unwrap_or("");
        if let Some(namespaces) = self.groups.get_mut(&key.group).and_then(|plurals| plurals.get_mut(&key.plural))
            && let Some(names) = namespaces.get_mut(namespace)
        {
            names.remove(&key.name);
            // Namespaces come and go by the thousand in tests: an empty map must not stay behind.
            if names.is_empty() {
                namespaces.remove(namespace);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Objects;
    use crate::events::{Change, Event};
    use crate::object::{Key, Object};
    use std::sync::Arc;

    fn put(revision: u64, namespace: &str, name: &str) -> Event {
        let new = Arc::new(Object::named("v1", "Pod", Some(namespace), name));
        Event { revision, key: Key::namespaced("", "pods", namespace, name), change: Change::Put { old: None, new } }
    }

    fn names<'a>(objects: impl Iterator<Item = &'a Arc<Object>>) -> Vec<&'a str> {
        objects.map(|object| object.name()).collect()
    }

    #[test]
    fn follows_events() {
        let mut objects = Objects::new();
        for (revision, namespace, name) in [(1, "b", "x"), (2, "a", "z"), (3, "a", "y")] {
            objects.apply(&put(revision, namespace, name));
        }
        let node = Arc::new(Object::named("v1", "Node", None, "n"));
        objects.apply(&Event {
            revision: 4,
            key: Key::cluster("", "nodes", "n"),
            change: Change::Put { old: None, new: node },
        });
        assert_eq!(names(objects.list("", "pods")), vec!["y", "z", "x"]);
        assert_eq!(names(objects.in_namespace("", "pods", "a")), vec!["y", "z"]);
        assert_eq!(names(objects.in_namespace("", "pods", "c")), Vec::<&str>::new());
        assert!(objects.get(&Key::cluster("", "nodes", "n")).is_some());
        assert_eq!((objects.revision(), objects.len(), objects.all().count()), (4, 4, 4));

        let key = Key::namespaced("", "pods", "b", "x");
        let old = objects.get(&key).cloned().unwrap();
        let gone = Event { revision: 5, key: key.clone(), change: Change::Deleted { old } };
        objects.apply(&gone);
        objects.apply(&gone);
        assert!(objects.get(&key).is_none());
        assert_eq!((objects.revision(), objects.len()), (5, 3));
    }
}
