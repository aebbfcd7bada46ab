//! An embedded Kubernetes API server: an object store with HTTP.
//!
//! Here: storing, watching, serving and streaming objects of any kind. Deliberately not here: what any object means. Whoever runs
//! the server learns of every change from [`Server::subscribe`], may look at every write before it counts ([`Hooks::admit`]), and says when
//! its consequences are in force ([`Hooks::settled`]).

mod authn;
mod body;
mod ca;
mod discovery;
mod error;
mod files;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod hooks;
mod kindcache;
pub mod kubeconfig;
mod openapi;
mod render;
mod reply;
mod request;
mod resource;
mod review;
mod route;
mod serve;
mod server;
mod store;
mod stream;
mod watch;
mod write;

pub use body::Body;
pub use error::Error;
pub use hooks::{
    ExecRequest, ExecSession, Extended, ForwardRequest, Forwarded, Hooks, LogRequest, LogStream, TerminalSize,
};
pub use server::{Server, Settings};
pub use store::{Batch, Feed};
