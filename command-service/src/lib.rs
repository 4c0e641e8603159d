//! Millrace's command service: gRPC commands in, events stored and relayed to the bus.

pub mod relay;
