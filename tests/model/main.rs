//! Models of how an event comes from the event store to its row: small worlds, in which every order of calls, failures
//! and deaths is tried. They are models of the code, and name the functions that they stand for; change both together.
//!
//! ```text
//! cargo test -p millrace-tests --test model -- --nocapture              prints sizes and counter-examples
//! cargo test -p millrace-tests --test model --release -- --ignored      larger bounds: two minutes, 5 GB
//! ```

mod check;
mod explorer;
mod fold;
mod model;
mod propagation;
mod retention;
mod toy;
