//! What is told about objects: events, each once and then counted, for an hour, and no more than can be kept. Pure.

use api::{Key, Object, Objects, Write, time};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

/// How long an event is kept after it happened last (Kubernetes).
const KEPT: SignedDuration = SignedDuration::from_hours(1);

/// Most events of a mesh: 500 pods that each tell ten things, and as much again, within an hour. Beyond that the oldest go.
const EVENTS_MAX: usize = 10_000;

/// Who tells.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Source {
    /// The part of the mesh, as Kubernetes calls it.
    pub(crate) component: &'static str,
    /// Its node, empty if it has none.
    pub(crate) host: &'static str,
}

/// What happened to an object.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Happening<'a> {
    /// `Normal` or `Warning`.
    pub(crate) kind: &'a str,
    pub(crate) reason: &'a str,
    pub(crate) message: &'a str,
}

/// The write that tells it: one more of `before`, or a new event. None if the object is in no namespace.
pub(crate) fn telling(
    about: &Object,
    what: Happening<'_>,
    source: Source,
    now: Timestamp,
    before: Option<&Object>,
) -> Option<Write> {
    let key = Key::namespaced("", "events", about.namespace()?, before.map_or("", Object::name));
    match before {
        Some(before) => {
            let count = before.at("/count").as_u64().unwrap_or(1).saturating_add(1);
            let patch = json!({ "count": count, "lastTimestamp": time::seconds(now) });
            Some(Write::PatchMeta { key, patch })
        }
        None => event(about, what, source, now).map(Write::Create),
    }
}

/// The event that has told the same about the same object.
pub(crate) fn same<'a>(
    objects: &'a Objects,
    about: &Object,
    what: Happening<'_>,
    source: Source,
) -> Option<&'a Object> {
    // Most events are about something else, and of all there are thousands: that is looked at first, and quickly.
    let is_about = |event: &Object| {
        event.fields().get("involvedObject").and_then(|about| about.get("uid")?.as_str()) == Some(about.uid())
    };
    let tells = |event: &&std::sync::Arc<Object>| {
        let said = || ["/type", "/reason", "/message", "/source/component"].map(|pointer| event.str_at(pointer));
        is_about(event) && said() == [what.kind, what.reason, what.message, source.component]
    };
    objects.in_namespace("", "events", about.namespace()?).find(tells).map(AsRef::as_ref)
}

fn event(about: &Object, what: Happening<'_>, source: Source, now: Timestamp) -> Option<Object> {
    let namespace = about.namespace()?;
    // As in Kubernetes: by their names, events about one object stand in the order in which they happened.
    let name = format!("{}.{:x}", about.name(), now.as_nanosecond());
    let mut event = Object::named("v1", "Event", Some(namespace), &name);
    event.set(
        "/involvedObject",
        json!({
            "kind": about.kind(), "namespace": namespace, "name": about.name(), "uid": about.uid(),
            "apiVersion": about.api_version(), "resourceVersion": about.str_at("/metadata/resourceVersion"),
        }),
    );
    let mut from = json!({ "component": source.component });
    if let Some(fields) = from.as_object_mut().filter(|_| !source.host.is_empty()) {
        fields.insert("host".to_owned(), Value::from(source.host));
    }
    let now = time::seconds(now);
    for (name, value) in [
        ("/reason", Value::from(what.reason)),
        ("/message", Value::from(what.message)),
        ("/source", from),
        ("/firstTimestamp", Value::from(now.as_str())),
        ("/lastTimestamp", Value::from(now)),
        ("/count", Value::from(1)),
        ("/type", Value::from(what.kind)),
        ("/reportingComponent", Value::from(source.component)),
        ("/reportingInstance", Value::from(source.host)),
    ] {
        event.set(name, value);
    }
    Some(event)
}

/// The events that are over or too many, and when the next one will be over.
pub fn surplus(objects: &Objects, now: Timestamp) -> (Vec<Write>, Option<Timestamp>) {
    let mut all: Vec<(Timestamp, &Object)> =
        objects.list("", "events").map(|event| (happened(event), event.as_ref())).collect();
    all.sort_by_key(|(last, _)| *last);
    let too_many = all.len().saturating_sub(EVENTS_MAX);
    let over = |last: Timestamp| last.saturating_add(KEPT).is_ok_and(|over| over <= now);
    let gone = all.iter().enumerate().take_while(|(place, (last, _))| *place < too_many || over(*last)).count();
    let writes = all.iter().take(gone).filter_map(|(_, event)| {
        let key = Key::namespaced("", "events", event.namespace()?, event.name());
        Some(Write::Delete { key, now: true })
    });
    let next = all.get(gone).and_then(|(last, _)| last.saturating_add(KEPT).ok());
    (writes.collect(), next)
}

/// Whether there are more events than are kept.
pub(crate) fn are_too_many(objects: &Objects) -> bool {
    objects.list("", "events").count() > EVENTS_MAX
}

/// When an event happened last; those that do not say count from when they were made.
fn happened(event: &Object) -> Timestamp {
    let said =
        ["/series/lastObservedTime", "/lastTimestamp", "/eventTime", "/firstTimestamp", "/metadata/creationTimestamp"];
    said.iter().find_map(|pointer| time::parse(event.str_at(pointer))).unwrap_or(Timestamp::MIN)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use api::{Change, Event};

    use super::*;

    const KUBELET: Source = Source { component: "kubelet", host: "node" };

    fn at(minutes: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + minutes * 60).unwrap()
    }

    /// A store that events are told to.
    #[derive(Default)]
    struct Store(Objects);

    impl Store {
        fn put(&mut self, object: Object) {
            let key = Key::namespaced("", "events", "n", object.name());
            let change = Change::Put { old: None, new: Arc::new(object) };
            self.0.apply(&Event { revision: 1, key, change });
        }

        fn tell(&mut self, pod: &str, message: &str, now: Timestamp) {
            let mut about = Object::named("v1", "Pod", Some("n"), pod);
            about.set("/metadata/uid", pod);
            let what = Happening { kind: "Normal", reason: "Done", message };
            let now = now.saturating_add(SignedDuration::from_nanos(self.0.len().try_into().unwrap())).unwrap();
            let before = same(&self.0, &about, what, KUBELET).cloned();
            match telling(&about, what, KUBELET, now, before.as_ref()).unwrap() {
                Write::Create(event) => self.put(event),
                Write::PatchMeta { key, patch } => {
                    let mut value = self.0.get(&key).unwrap().value().clone();
                    api::patch::merge(&mut value, &patch);
                    self.put(Object::new(value).unwrap());
                }
                other => panic!("{other:?}"),
            }
        }

        fn told(&self) -> Vec<(String, u64)> {
            let all = self.0.list("", "events");
            all.map(|event| (event.str_at("/message").to_owned(), event.at("/count").as_u64().unwrap())).collect()
        }
    }

    #[test]
    fn the_same_again_is_counted_and_keeps_its_first_time() {
        let mut store = Store::default();
        store.tell("a", "x", at(0));
        store.tell("a", "x", at(5));
        store.tell("a", "x", at(9));
        store.tell("b", "x", at(9));
        store.tell("a", "y", at(9));
        let mut told = store.told();
        told.sort();
        assert_eq!(told, [("x".to_owned(), 1), ("x".to_owned(), 3), ("y".to_owned(), 1)]);
        let names: Vec<_> = store.0.list("", "events").map(|event| event.str_at("/message").to_owned()).collect();
        assert_eq!(names, ["x", "y", "x"], "in the order in which they happened, object by object");
        let counted = store.0.list("", "events").find(|event| event.at("/count") == 3).unwrap();
        let times = ["/firstTimestamp", "/lastTimestamp"].map(|pointer| time::parse(counted.str_at(pointer)).unwrap());
        assert_eq!(times, [at(0), at(9)]);
    }

    #[test]
    fn an_event_is_kept_for_an_hour_after_it_happened_last() {
        let mut store = Store::default();
        store.tell("a", "old", at(0));
        store.tell("a", "again", at(1));
        store.tell("a", "again", at(30));
        let (gone, next) = surplus(&store.0, at(59));
        assert_eq!((gone.len(), next), (0, Some(at(60))));
        let (gone, next) = surplus(&store.0, at(60));
        assert_eq!((gone.len(), next), (1, Some(at(90))));
        let (gone, next) = surplus(&store.0, at(90));
        assert_eq!((gone.len(), next), (2, None));
        // One of a user's, which says no time.
        store.put(Object::named("v1", "Event", Some("n"), "bare"));
        assert_eq!(surplus(&store.0, at(0)).0.len(), 1);
    }

    #[test]
    fn of_too_many_the_oldest_go() {
        let mut store = Store::default();
        for number in 0..EVENTS_MAX + 3 {
            let mut event = Object::named("v1", "Event", Some("n"), &format!("e{number}"));
            event.set(
                "/lastTimestamp",
                time::micros(at(0).saturating_add(SignedDuration::from_millis(number.try_into().unwrap())).unwrap()),
            );
            store.put(event);
        }
        assert!(are_too_many(&store.0));
        let (gone, _) = surplus(&store.0, at(1));
        let names: Vec<_> = gone
            .iter()
            .map(|write| match write {
                Write::Delete { key, now: true } => key.name.as_str(),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(names, ["e0", "e1", "e2"]);
    }
}
