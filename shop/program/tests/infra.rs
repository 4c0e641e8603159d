//! The committed templates are those of the registration.

use std::process::Command;

#[test]
fn the_committed_templates_are_as_they_are_rendered() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../infra");
    let mut program = Command::new(env!("CARGO_BIN_EXE_shop"));
    let checked = program.args(["infra", "--check", folder]).output().expect("the program can be started");
    let said = String::from_utf8_lossy(&checked.stderr).into_owned();
    assert!(checked.status.success(), "`cargo run -- infra infra` renders them: {said}");
}
