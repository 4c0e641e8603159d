//! {{App}}: an application on Millrace.
//!
//! One module an aggregate: its commands, events, state and rules, and beside them its contract, its rows, and its gRPC
//! services. They are registered here, once.

pub mod contracts;

pub mod {{agg_snake}};
// more modules

use std::{ffi::OsString, process::ExitCode};

use contracts::DESCRIPTORS;
use millrace_core::{Application, RegistrationError};

/// The registration: everything else is derived from here.
///
/// # Errors
/// Where parts of it contradict each other.
pub fn {{app_snake}}() -> Result<Application, RegistrationError> {
    Application::new("{{app}}")
        .aggregate::<{{agg_snake}}::{{Agg}}>()
        .projection::<{{agg_snake}}::summary::{{Agg}}Summary>()
        // more aggregates and projections
        .build()
}

/// Runs the command service as a process.
pub fn command_service(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    millrace_command::main({{app_snake}}(), DESCRIPTORS, args, |commands| {
        Ok(millrace_command::services![
            {{agg_snake}}::commands::service(commands)?,
            // more command services
        ])
    })
}

/// Runs the query service as a process.
pub fn query_service(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    millrace_query::main({{app_snake}}(), DESCRIPTORS, args, |queries| {
        Ok(millrace_query::services![
            {{agg_snake}}::queries::service(queries)?,
            // more query services
        ])
    })
}

/// Runs the projector as a process.
pub fn projector(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    millrace_projection::main({{app_snake}}(), args)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_registration_is_sound() {
        if let Err(error) = super::{{app_snake}}() {
            panic!("{error}");
        }
    }
}
