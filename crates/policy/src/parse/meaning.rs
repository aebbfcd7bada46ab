//! What is worth saying about a policy that is readable: nothing here refuses, nothing here changes a verdict (S-102, S-103).

use super::reader::Reader;
use crate::mesh::Settings;
use crate::spec::AuthorizationPolicy;

/// Adds the findings.
pub(super) fn findings(_reader: &mut Reader, _policy: &AuthorizationPolicy, _settings: &Settings) {}
