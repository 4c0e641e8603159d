//! Compiles the contracts.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    millrace_build::Contracts::new("proto").compile_all()
}
