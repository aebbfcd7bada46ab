//! Policies that a later one of the same name takes the place of: what is wrong with their documents is told all the same, since
//! it may be the later one that goes. What is in force is asked of the last one only.

use super::{Pass, View, meaning, traps};
use crate::translate::{AUTHORIZATION_POLICIES, PEER_AUTHENTICATIONS, SECURITY_GROUP};

pub(super) fn findings(pass: &mut Pass<'_>) {
    let bundle = pass.bundle;
    for one in bundle.replaced() {
        let (document, settings) = (one.object.value(), &pass.mesh.settings);
        let mut findings = if one.key.is(SECURITY_GROUP, AUTHORIZATION_POLICIES) {
            policy::parse::authorization_policy(document, settings).findings
        } else if one.key.is(SECURITY_GROUP, PEER_AUTHENTICATIONS) {
            policy::parse::peer_authentication(document, settings).findings
        } else {
            continue;
        };
        findings.retain(meaning::is_of_the_document);
        let view = View::at_origin(bundle, one.key.clone(), Some(&one.object), Some(&one.origin));
        meaning::plain(pass, &view, &findings);
        traps::pruned(pass, &view, &findings);
    }
}
