# Shortcuts: `just` lists them. Each is a command that works without just, too.

_list:
    @just --list --unsorted

# Brings the shop up, walks through it, and takes it down.
demo:
    cargo run -- demo

# Brings the shop up and stays.
up:
    cargo run

# All tests.
test:
    cargo test --workspace

# All checks, or only the steps that are named.
check *steps:
    .ci/run {{ steps }}

# Renders the infrastructure anew, after a change of the registration.
infra:
    cargo run -- infra infra

# Measures the cost of a command, against peers; writes docs/measured.md.
bench:
    cargo run --release --manifest-path bench/Cargo.toml

# The documentation as a book, in target/book.
book:
    mdbook build docs
