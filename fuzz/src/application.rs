//! The application whose data is fuzzed.

use std::sync::LazyLock;

use millrace_core::Application;

/// The registration.
pub(crate) static SHOP: LazyLock<Application> = LazyLock::new(|| shop::shop().expect("a sound registration"));
