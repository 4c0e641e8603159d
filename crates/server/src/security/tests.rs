//! Secured servers, over real connections. Certificates and keys are made here, for each test.

mod configuration;
mod connections;
mod keys;
mod limits;
mod mutual;
mod shown;
mod support;
mod swaps;
mod tokens;
mod traces_left;
