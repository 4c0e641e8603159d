//! The query service as a program.

fn main() -> std::process::ExitCode {
    {{app_snake}}::query_service(std::env::args_os())
}
