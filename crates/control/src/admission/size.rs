//! A policy whose verdict table would be larger than the kernel is given is refused while its author is there to be told.

use std::sync::Arc;

use api::Status;
use api::status::Cause;
use policy::spec::{AuthorizationPolicy, Scope};
use policy::{Mesh, Workload, WorkloadId};

use super::Request;

