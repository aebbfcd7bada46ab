//! Every namespace has the service account `default`, which pods without another run as.

use api::Object;

use super::plan::Plan;

const DEFAULT: &str = "default";

pub(super) fn reconcile(plan: &mut Plan<'_>, namespace: &str) {
    let there =
        |plural, name| plan.objects.find("", plural, (plural != "namespaces").then_some(namespace), name).is_some();
    if there("namespaces", namespace) && !there("serviceaccounts", DEFAULT) {
        plan.create(Object::named("v1", "ServiceAccount", Some(namespace), DEFAULT));
    }
}
