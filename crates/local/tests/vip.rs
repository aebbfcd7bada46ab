//! VIPs and DNS by the real kernel, from inside pods. Requires root; every test has a mesh of its own.
#![cfg(test)]

mod vip {
    mod dns;
    mod harness;
    mod led;
    mod translated;
}
