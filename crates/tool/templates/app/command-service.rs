//! The command service as a program.

fn main() -> std::process::ExitCode {
    {{app_snake}}::command_service(std::env::args_os())
}
