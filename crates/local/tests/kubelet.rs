//! Pods through the kubelet: a store made of a map, a real node, real processes. Needs root.
#![cfg(test)]

mod kubelet {
    mod adoption;
    mod harness;
    mod pods;
    mod sidecars;
    mod waiting;
}
