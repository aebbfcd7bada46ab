//! A write that is about to be stored, as whoever stores it shows it, and the answer of whoever looks at it.

use crate::{Key, Object, Objects, Status};

/// A write that is about to be stored.
#[derive(Clone, Copy, Debug)]
pub struct Admission<'a> {
    /// What is to happen.
    pub operation: Operation,
    /// To which object.
    pub key: &'a Key,
    /// The part that is written, such as `status`; none for the object itself.
    pub subresource: Option<&'a str>,
    /// The object as stored; none for a create.
    pub old: Option<&'a Object>,
    /// The object as it would be stored, in the version that is stored; none for a delete.
    pub new: Option<&'a Object>,
    /// Everything that is stored, including all earlier writes.
    pub objects: &'a Objects,
}

/// The kind of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// A new object.
    Create,
    /// A changed object.
    Update,
    /// An object that goes.
    Delete,
}

/// The answer to an [`Admission`]; the default lets the write pass as it is.
#[derive(Clone, Debug, Default)]
pub struct Admitted {
    /// What to store instead; name, namespace and kind must stay.
    pub object: Option<Object>,
    /// What the client should be told.
    pub warnings: Vec<String>,
    /// Why the write must not be.
    pub refusal: Option<Status>,
}

impl Admitted {
    /// The write must not be.
    pub fn refused(status: Status) -> Self {
        Self { refusal: Some(status), ..Self::default() }
    }
}
