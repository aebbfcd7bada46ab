//! The sample manifests, as `tidegate samples DIR` writes them.

/// Each sample: its path below `samples/`, and its text.
pub const FILES: &[(&str, &str)] = &[
    ("README.md", include_str!("../../../samples/README.md")),
    ("sleep/sleep.yaml", include_str!("../../../samples/sleep/sleep.yaml")),
    ("tcp-echo/tcp-echo.yaml", include_str!("../../../samples/tcp-echo/tcp-echo.yaml")),
];
