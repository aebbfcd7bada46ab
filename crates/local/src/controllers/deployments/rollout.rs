//! How many pods each replica set of a deployment has next.

use std::sync::Arc;

use api::{Object, Objects};
use serde_json::Value;

use super::super::plan::{controls, is_over};
use super::super::replicasets::replicas;

/// Both default to a quarter.
const QUARTER: &str = "25%";

/// Between how many and how many pods a rollout keeps.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// How many there are to be in the end.
    pub(super) desired: i64,
    surge: i64,
    unavailable: i64,
    recreate: bool,
}

impl Bounds {
    pub(super) fn of(deployment: &Object) -> Self {
        let desired = replicas(deployment);
        if deployment.str_at("/spec/strategy/type") == "Recreate" {
            return Self { desired, surge: 0, unavailable: desired, recreate: true };
        }
        let bound = |field: &str, up: bool| {
            let value = deployment.at(&format!("/spec/strategy/rollingUpdate/{field}"));
            let quarter = Value::from(QUARTER);
            part_of(desired, if value.is_null() { &quarter } else { value }, up)
        };
        let (surge, unavailable) = (bound("maxSurge", true), bound("maxUnavailable", false));
        // With neither room above nor below, nothing could ever move.
        let unavailable = if surge == 0 && unavailable == 0 { 1 } else { unavailable.min(desired) };
        Self { desired, surge, unavailable, recreate: false }
    }

    /// Fewest pods that work at a time.
    pub(super) const fn minimum(&self) -> i64 {
        self.desired.saturating_sub(self.unavailable)
    }

    /// Most pods at a time.
    pub(super) const fn maximum(&self) -> i64 {
        if self.desired == 0 { 0 } else { self.desired.saturating_add(self.surge) }
    }
}

/// A number, or a percentage of `whole`.
fn part_of(whole: i64, value: &Value, up: bool) -> i64 {
    let percent = value.as_str().and_then(|text| text.strip_suffix('%')).and_then(|text| text.parse::<i64>().ok());
    let number = || value.as_i64().or_else(|| value.as_str()?.parse().ok()).unwrap_or(0);
    let part = percent.map_or_else(number, |percent| {
        let hundredfold = whole.saturating_mul(percent);
        if up { hundredfold.saturating_add(99) / 100 } else { hundredfold / 100 }
    });
    part.max(0)
}

/// How many pods the replica set of a new template begins with.
pub(super) fn first_replicas(objects: &Objects, bounds: &Bounds, old: &[&Arc<Object>]) -> i64 {
    if bounds.recreate {
        return if old.iter().any(|set| has_pods(objects, set)) { 0 } else { bounds.desired };
    }
    let total: i64 = old.iter().map(|set| replicas(set)).sum();
    bounds.maximum().saturating_sub(total).clamp(0, bounds.desired)
}

/// The replica sets with the number of pods that each is to have now.
pub(super) fn steps<'a>(
    objects: &Objects,
    bounds: &Bounds,
    new: &'a Arc<Object>,
    old: &[&'a Arc<Object>],
) -> Vec<(&'a Arc<Object>, i64)> {
    let active: Vec<&Arc<Object>> = old.iter().copied().filter(|set| replicas(set) > 0).collect();
    if bounds.recreate {
        let mut steps: Vec<_> = active.iter().map(|set| (*set, 0)).collect();
        if !old.iter().any(|set| has_pods(objects, set)) {
            steps.push((new, bounds.desired));
        }
        return steps;
    }
    let old_total: i64 = active.iter().map(|set| replicas(set)).sum();
    let up = bounds.maximum().saturating_sub(old_total).clamp(0, bounds.desired);
    // While others still hold room, the new one never shrinks but to what is wanted in the end.
    let wanted = up.max(replicas(new)).min(bounds.desired);
    let mut steps = vec![(new, wanted)];
    steps.extend(down(bounds, new, active));
    steps
}

/// Takes pods from old replica sets: those that do not work first, then as many as the new one has made up for.
fn down<'a>(bounds: &Bounds, new: &Object, mut old: Vec<&'a Arc<Object>>) -> Vec<(&'a Arc<Object>, i64)> {
    old.sort_by(|one, other| {
        one.str_at("/metadata/creationTimestamp").cmp(other.str_at("/metadata/creationTimestamp"))
    });
    let minimum = bounds.minimum();
    let total: i64 = old.iter().map(|set| replicas(set)).sum::<i64>().saturating_add(replicas(new));
    let new_unavailable = replicas(new).saturating_sub(available(new)).max(0);
    let mut room = total.saturating_sub(minimum).saturating_sub(new_unavailable).max(0);
    let mut steps: Vec<(&Arc<Object>, i64)> = Vec::new();
    let mut available_total = available(new);
    for set in old {
        let idle = replicas(set).saturating_sub(available(set)).clamp(0, room);
        room = room.saturating_sub(idle);
        available_total = available_total.saturating_add(available(set).min(replicas(set)));
        steps.push((set, replicas(set).saturating_sub(idle)));
    }
    let mut surplus = available_total.saturating_sub(minimum).clamp(0, room);
    for (_, count) in &mut steps {
        let less = surplus.min(*count);
        surplus = surplus.saturating_sub(less);
        *count = count.saturating_sub(less);
    }
    steps
}

fn available(set: &Object) -> i64 {
    set.at("/status/availableReplicas").as_i64().unwrap_or(0)
}

/// Whether any pod of the replica set is still there and could run.
fn has_pods(objects: &Objects, set: &Object) -> bool {
    let namespace = set.namespace().unwrap_or_default();
    objects.in_namespace("", "pods", namespace).any(|pod| controls(set, pod) && !is_over(pod))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn percentages_round_up_for_surge_and_down_for_unavailable() {
        let bounds = |replicas: i64, rolling: Value| {
            let deployment = json!({"spec": {"replicas": replicas, "strategy": {"rollingUpdate": rolling}}});
            let bounds = Bounds::of(&Object::new(deployment).unwrap());
            (bounds.maximum(), bounds.minimum())
        };
        for (replicas, rolling, wanted) in [
            (1, json!({}), (2, 1)),
            (4, json!({}), (5, 3)),
            (10, json!({}), (13, 8)),
            (0, json!({}), (0, -1)),
            (3, json!({"maxSurge": 0, "maxUnavailable": 0}), (3, 2)),
            (3, json!({"maxSurge": 2, "maxUnavailable": 1}), (5, 2)),
            (3, json!({"maxSurge": "100%", "maxUnavailable": "0%"}), (6, 3)),
            (3, json!({"maxSurge": 0, "maxUnavailable": 9}), (3, 0)),
        ] {
            let found = bounds(replicas, rolling.clone());
            assert_eq!((found.0, found.1.max(wanted.1)), wanted, "{replicas} {rolling}");
        }
    }
}
