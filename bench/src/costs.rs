//! The cost of a command on AWS: requests, bytes, units, dollars. Counted on a wire between the contender and its AWS.

use std::{collections::BTreeMap, time::Duration};

use millrace_command::snapshots::FIRST_PAGE;
use millrace_event_store::ReadEvents as _;
use millrace_tests::{FaultProxy, Traffic};
use serde::{Deserialize, Serialize};

use crate::{
    contender::{Kind, Outcome},
    load::as_f64,
    prices,
    site::Site,
    user::User,
};

/// The lengths of streams at which costs are counted.
pub(crate) const LENGTHS: [u64; 4] = [1, 100, 1_000, 10_000];

/// A command that takes longer is given up.
const PATIENCE: Duration = Duration::from_secs(30);

/// The cost of one contender's command on a stream of some length.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Cost {
    pub(crate) contender: String,
    pub(crate) length: u64,
    /// Without anything of the aggregate in memory; else with all that the contender keeps there.
    pub(crate) cold: bool,
    /// None where the contender cannot carry the command out; the reason then.
    pub(crate) bill: Result<Bill, String>,
}

/// The average cost of one command.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Bill {
    pub(crate) requests: f64,
    pub(crate) operations: BTreeMap<String, f64>,
    pub(crate) bytes_sent: f64,
    pub(crate) bytes_read: f64,
    pub(crate) read_units: f64,
    pub(crate) write_units: f64,
    pub(crate) dollars_a_million: f64,
}

impl Bill {
    fn of(traffic: &BTreeMap<String, Traffic>, commands: u64) -> Self {
        let each = |sum: f64| sum / as_f64(commands);
        let sum = |of: fn(&Traffic) -> f64| each(traffic.values().map(of).sum());
        let operations = traffic.iter().map(|(name, of)| (name.clone(), each(as_f64(of.requests))));
        let mut bill = Self {
            requests: sum(|of| as_f64(of.requests)),
            operations: operations.collect(),
            bytes_sent: sum(|of| as_f64(of.request_bytes)),
            bytes_read: each(as_f64(reads(traffic).map(|of| of.response_bytes).sum())),
            read_units: sum(|of| of.read_units),
            write_units: sum(|of| of.write_units),
            dollars_a_million: 0.0,
        };
        bill.price();
        bill
    }

    fn price(&mut self) {
        self.dollars_a_million = prices::a_million(self.read_units, self.write_units);
    }
}

fn reads(traffic: &BTreeMap<String, Traffic>) -> impl Iterator<Item = &Traffic> {
    ["Query", "GetItem", "BatchGetItem"].into_iter().filter_map(|read| traffic.get(read))
}

/// Counts the cost of a contender's commands on a stream of some length: the first one, and enough following ones for
/// snapshots to have their share.
pub(crate) async fn count(site: &Site, kind: Kind, length: u64) -> anyhow::Result<Vec<Cost>> {
    let user = kind.seeded(site, length).await?;
    let wire = FaultProxy::before(site.stack.endpoint()).await?;
    let access = site.access().by(wire.url());
    let contender = kind.open(site, &access).await?;
    wire.take();
    let cost = |cold, bill| Cost { contender: kind.name().to_owned(), length, cold, bill };
    let rename = async |commands: u64| {
        for _ in 0..commands {
            match tokio::time::timeout(PATIENCE, contender.rename(&user)).await {
                Err(_) => return Err(format!("no answer within {PATIENCE:?}")),
                Ok(Err(error)) => return Err(error.to_string()),
                Ok(Ok(Outcome::Conflict)) => {
                    return Err("answered as a conflict, with nobody else there".into());
                }
                Ok(Ok(Outcome::Done)) => {}
            }
        }
        Ok(())
    };
    let cold = match rename(1).await {
        Ok(()) => {
            let traffic = settled(&wire).await;
            let mut bill = Bill::of(&traffic, 1);
            if kind == Kind::Millrace {
                bill.read_units = whole(site, &wire, &user, &traffic).await?;
                bill.price();
            }
            Ok(bill)
        }
        Err(reason) => return Ok(vec![cost(true, Err(reason.clone())), cost(false, Err(reason))]),
    };
    let warm = match rename(kind.period()).await {
        Ok(()) => Ok(Bill::of(&settled(&wire).await, kind.period())),
        Err(reason) => Err(reason),
    };
    let costs = vec![cost(true, cold), cost(false, warm)];
    // The floor knows its version, so it has no cold command.
    Ok(costs.into_iter().filter(|cost| !(cost.cold && kind == Kind::Floor)).collect())
}

/// A wire's traffic once it is quiet: a snapshot is written behind the reply.
async fn settled(wire: &FaultProxy) -> BTreeMap<String, Traffic> {
    loop {
        let before = wire.traffic();
        tokio::time::sleep(Duration::from_millis(150)).await;
        if wire.traffic() == before {
            return wire.take();
        }
    }
}

/// The read units of a cold command of Millrace's. DynamoDB charges events whole, though it sends a part of each; the local
/// AWS charges the parts. So the same events are read whole.
async fn whole(
    site: &Site,
    wire: &FaultProxy,
    user: &User,
    cold: &BTreeMap<String, Traffic>,
) -> anyhow::Result<f64> {
    wire.take();
    let store = site.store(&site.access().by(wire.url()));
    let after = user.length.saturating_sub(FIRST_PAGE.into());
    store.page(&user.stream(), after, FIRST_PAGE).await?;
    let page: f64 = wire.take().values().map(|of| of.read_units).sum();
    Ok(page + cold.get("GetItem").map_or(0.0, |snapshot| snapshot.read_units))
}
