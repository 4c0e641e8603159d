//! `cargo run`: Millrace on one machine, with the local AWS that the tests bring with them, too
