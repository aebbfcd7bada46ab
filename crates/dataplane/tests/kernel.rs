//! The kernel path in real network namespaces, with real sockets: one test per sentence that promises something.
//! Needs root. Every test makes its own namespaces; they are gone when the test ends.
#![cfg(test)]

mod kernel {
    mod change;
    mod fallback;
    mod flight;
    mod guard;
    mod harness;
    mod law;
    mod life;
    mod maps;
    mod outside;
    mod packet;
    mod permits;
    mod records;
    mod shortcut;
    mod verdict;
}
