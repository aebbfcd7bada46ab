//! The one-machine cluster: what kubelet, CNI, kube-proxy, DNS and controllers do.

pub mod controllers;
pub mod error;
pub mod ipam;
pub mod node;

pub use error::Error;
pub use node::{MeshId, Node, NodeSettings, PodLink};
