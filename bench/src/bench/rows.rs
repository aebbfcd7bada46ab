//! What is measured. A row is a way from the client to the server, a metric is a load on it: **to add one, add one line.**

use crate::proxies::{ENVOY, HAPROXY, Proxy};

/// The row that all others are held against; it is in every run.
pub(crate) const RAW: &str = "raw";

/// A way from a client to a server.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    /// What `--rows` and the tables call it.
    pub(crate) name: String,
    pub(crate) way: Way,
}

/// What lies on the way. The layout is the same for all: client namespace, node namespace, server namespace, routed.
#[derive(Debug, Clone)]
pub(crate) enum Way {
    /// Namespaces of the harness, nothing in between.
    Raw,
    /// Namespaces of the harness; in the server's a proxy, which forwards to the server on 127.0.0.1.
    Proxy(&'static Proxy),
    /// A pod that is not in the mesh, by its address.
    Plain(&'static str),
    /// A pod of the mesh, by its address; like most pods it is behind a Service.
    Pod(String),
    /// The same by the VIP of the Service, which is what its name leads to.
    Service(&'static str),
    /// A pod of the mesh behind no Service, by its address.
    Alone(&'static str),
}

/// The rows of a run that names none.
pub(crate) const USUAL_ROWS: &str = "raw,unmeshed,tidegate,tidegate-vip,haproxy,envoy-1";
/// The metrics of a run that names none.
pub(crate) const USUAL_METRICS: &str = "crr1,crr64,rr1,up1,up8,down1,down8";

/// All rows.
pub(crate) fn rows() -> Vec<Row> {
    vec![
        row(RAW, Way::Raw),
        row("unmeshed", Way::Plain("open")),
        row("tidegate", Way::Pod("server".to_owned())),
        // A pod of its own: where both ways lead to one pod, source ports of either are in the way of the other's (`tidegate-both`).
        row("tidegate-vip", Way::Service("backend")),
        row("tidegate-both", Way::Service("server")),
        row("tidegate-alone", Way::Alone("alone")),
        row("haproxy", Way::Proxy(&HAPROXY)),
        row("envoy-1", Way::Proxy(&ENVOY)),
    ]
}

/// A row of that name.
pub(crate) fn row(name: &str, way: Way) -> Row {
    Row { name: name.to_owned(), way }
}

/// A load, and what its figures are called.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Metric {
    /// What `--metrics` calls it.
    pub(crate) name: &'static str,
    pub(crate) load: Load,
    /// Heads its table.
    pub(crate) title: &'static str,
}

/// A mode of the load generator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Load {
    /// Connections by so many clients.
    Crr(usize),
    /// Round trips on so many connections.
    Rr(usize),
    /// Bytes to the server, on so many streams.
    Up(usize),
    /// Bytes from the server.
    Down(usize),
}

/// All metrics.
pub(crate) const METRICS: &[Metric] = &[
    Metric { name: "crr1", load: Load::Crr(1), title: "connections (connect, 16 bytes, echo, close), 1 client" },
    Metric { name: "crr64", load: Load::Crr(64), title: "connections (connect, 16 bytes, echo, close), 64 clients" },
    Metric { name: "rr1", load: Load::Rr(1), title: "round trips of 1 byte, 1 connection" },
    Metric { name: "rr64", load: Load::Rr(64), title: "round trips of 1 byte, 64 connections" },
    Metric { name: "up1", load: Load::Up(1), title: "throughput to the server, 1 stream" },
    Metric { name: "up8", load: Load::Up(8), title: "throughput to the server, 8 streams" },
    Metric { name: "down1", load: Load::Down(1), title: "throughput from the server, 1 stream" },
    Metric { name: "down8", load: Load::Down(8), title: "throughput from the server, 8 streams" },
];
