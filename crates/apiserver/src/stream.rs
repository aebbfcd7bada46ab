//! Streams to and from containers: `exec`, `attach` and `logs`, over WebSocket and SPDY.

mod spdy;
