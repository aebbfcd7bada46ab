//! (yaml)
