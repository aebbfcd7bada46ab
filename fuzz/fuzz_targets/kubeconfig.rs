//! The pure part of the binary's reader of kubeconfigs.

#[path = "../../crates/cli/src/sources/kubeconfig/fuzz.rs"]
pub(crate) mod fuzz;
#[path = "../../crates/cli/src/sources/kubeconfig/parse.rs"]
mod parse;
