//! Millrace's domain: users and orders as pure functions. No I/O, no clock, no async.
