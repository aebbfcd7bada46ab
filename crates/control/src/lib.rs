//! From objects to meaning: what Kubernetes objects say about a mesh, and what a mesh says back to their authors.
//!
//! Every function here is pure: objects in, values out. No clock, no environment, no file, no socket. The one caller that
//! does such things is the binary, which hands in what is needed.
#![deny(clippy::indexing_slicing)]

pub mod admission;
pub mod analyze;
pub mod bundle;
pub mod corpus;
pub mod diff;
mod edit;
pub mod explain;
pub mod finding;
pub mod inject;
pub mod lines;
pub mod mesh_config;
pub mod names;
pub mod samples;
pub mod sentence;
pub mod status;
pub mod suite;
pub mod translate;
pub mod walkthrough;
mod written;
