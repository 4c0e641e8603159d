//! The benchmark's options.

use std::path::PathBuf;

use clap::Parser;

/// Measures the cost of commands with Millrace, against the least that could work and its peers, on the local AWS.
///
/// Nobody else should use the machine meanwhile. It takes up to 15 minutes on two cores.
#[derive(Debug, Clone, Parser)]
#[command(name = "bench")]
pub(crate) struct Options {
    /// Only counts requests, units and allocations, and holds them against their limits: for continuous
    /// integration. Takes less than a minute, and fails where a count is higher.
    #[arg(long)]
    pub(crate) quick: bool,

    /// Measures only the code's capacity on an endpoint that answers at once, and prints it: to try a change out,
    /// or under a profiler. With --length it takes as long as it has to.
    #[arg(long, conflicts_with = "quick")]
    pub(crate) ceiling: bool,

    /// Measures nothing, and writes the newest report and its part of docs/measured.md and README.md again from its results.json:
    /// after a change of their form.
    #[arg(long, conflicts_with_all = ["quick", "ceiling"])]
    pub(crate) again: bool,

    /// Measures this program as the deployables instead of building it: another build of `deployed`, to compare the two.
    #[arg(long, value_name = "PROGRAM")]
    pub(crate) deployed: Option<PathBuf>,

    /// Where results are written [default: bench/results/<today>, and docs/measured.md shows them].
    #[arg(long, value_name = "FOLDER")]
    pub(crate) out: Option<PathBuf>,

    /// The length of each run, as a part of the usual: for a first look.
    #[arg(long, value_name = "PART", default_value_t = 1.0)]
    pub(crate) length: f64,
}

impl Options {
    /// Whether this run is written into docs/measured.md: all of it, at its usual length and place.
    #[expect(clippy::float_cmp, reason = "the default is exact")]
    pub(crate) fn is_usual(&self) -> bool {
        self.length == 1.0 && self.out.is_none() && self.deployed.is_none()
    }
}
