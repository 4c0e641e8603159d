//! All that was measured in one run.

use serde::{Deserialize, Serialize};

use crate::{
    contender::Kind,
    costs::{Bill, Cost},
    machine::Machine,
    path::Lag,
    process::Started,
    rebuild::Rebuild,
    speeds::{Answered, Ceiling, Contention, Measured},
};

/// A run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Results {
    pub(crate) date: String,
    pub(crate) machine: Machine,
    pub(crate) command: String,
    pub(crate) took_seconds: f64,
    pub(crate) prices: String,
    pub(crate) costs: Vec<Cost>,
    /// Millrace's warm command where the stack has no index by event type.
    pub(crate) unindexed: Option<Bill>,
    pub(crate) speeds: Vec<Measured>,
    pub(crate) latencies: Vec<Answered>,
    pub(crate) contention: Vec<Contention>,
    pub(crate) ceilings: Vec<Ceiling>,
    pub(crate) queries: Vec<Measured>,
    pub(crate) queries_on_null: Vec<Measured>,
    pub(crate) idle: Lag,
    pub(crate) lags: Vec<Lag>,
    pub(crate) loaded: Lag,
    pub(crate) rebuild: Rebuild,
    pub(crate) started: Vec<Started>,
}

impl Results {
    /// The cost of a contender's command, if it could be counted.
    pub(crate) fn bill(&self, contender: &str, length: u64, cold: bool) -> Option<&Bill> {
        let mut costs = self.costs.iter();
        let cost = costs.find(|c| c.contender == contender && c.length == length && c.cold == cold)?;
        cost.bill.as_ref().ok()
    }

    /// How fast a contender was with so many clients.
    pub(crate) fn speed(&self, contender: &str, clients: usize) -> Option<&Measured> {
        self.speeds.iter().find(|speed| speed.contender == contender && speed.clients == clients)
    }

    /// A contender's capacity on the null endpoint.
    pub(crate) fn ceiling(&self, contender: &str) -> Option<&Ceiling> {
        self.ceilings.iter().find(|ceiling| ceiling.contender == contender)
    }
}

/// Whether a contender is neither the floor nor Millrace.
pub(crate) fn is_peer(contender: &str) -> bool {
    Kind::ALL.iter().any(|kind| kind.is_peer() && kind.name() == contender)
}
