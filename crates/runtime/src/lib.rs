//! What Millrace's deployables share: configuration, telemetry, health, shutdown, the error table.
