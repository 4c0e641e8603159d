//! The projector as a program.

fn main() -> std::process::ExitCode {
    {{app_snake}}::projector(std::env::args_os())
}
