//! The Kubernetes object model: objects, kinds, schemas, patches, tables, selectors, YAML and the protobuf bodies of kubectl.
//!
//! Pure: no I/O, clock, environment or randomness. What depends on time takes `now` as a parameter. Nothing here stores,
//! serves or decides; that is what the crates above are for.

#![deny(clippy::indexing_slicing)]

pub mod admission;
pub mod crds;
pub mod defaults;
pub mod events;
pub mod kinds;
pub mod managed;
pub mod names;
pub mod object;
pub mod objects;
pub mod openapi;
pub mod patch;
pub mod proto;
pub mod quantity;
pub mod schema;
pub mod selector;
pub mod status;
pub mod table;
pub mod time;
mod types;
pub mod validate;
pub mod yaml;

pub use events::{Change, Event, Write};
pub use kinds::{Kind, Kinds};
pub use object::{Key, Object};
pub use objects::Objects;
pub use status::{Cause, Status};
