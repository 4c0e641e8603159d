//! AWS's prices of the counted units: the one table of them.

/// Where the prices are from.
pub(crate) const SOURCE: &str = "Amazon DynamoDB pricing, on-demand capacity, Standard table class, us-east-1, as in \
                                 force since 1 November 2024 and read in November 2026";

/// Dollars for a million write request units.
const WRITES: f64 = 0.625;

/// Dollars for a million read request units.
const READS: f64 = 0.125;

/// Dollars for a million commands of so many units each.
pub(crate) fn a_million(read_units: f64, write_units: f64) -> f64 {
    read_units * READS + write_units * WRITES
}
