//! The smallest complete application: `cargo run -p counter` runs it in memory, `cargo run -p counter -- aws` on the
//! local AWS.

use millrace_core::*;
use millrace_testing::{AppendEvents, OneProcess, Snapshots, local::AwsStack};
use serde::{Deserialize, Serialize};

uuid_id! {
    /// The id of a counter.
    pub struct CounterId;
}

/// A counter, which never goes below zero.
#[derive(Clone, Serialize, Deserialize)]
struct Counter(i64);

/// The command: adds to a counter.
struct Add(i64);

#[derive(Debug, Clone, PartialEq)]
enum CounterEvent {
    Added(Added),
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Added {
    amount: i64,
}

millrace_proto::json_event_codec! {
    CounterEvent { Added = 1 }
}

#[derive(Debug, PartialEq, thiserror::Error)]
#[error("a counter cannot go below zero")]
struct BelowZero;

impl From<BelowZero> for Rejection {
    fn from(error: BelowZero) -> Self {
        Self::Rule { kind: "BELOW_ZERO", description: error.to_string() }
    }
}

impl Aggregate for Counter {
    const TYPE: AggregateType = AggregateType::new("counter");
    const STATE_SCHEMA: u32 = 1;
    type Command = Add;
    type Event = CounterEvent;
    type Error = BelowZero;

    fn decide(state: Option<&Self>, Add(amount): &Add, _: Timestamp) -> Result<Vec<CounterEvent>, BelowZero> {
        let sum = state.map_or(0, |counter| counter.0).saturating_add(*amount);
        if sum < 0 { Err(BelowZero) } else { Ok(vec![CounterEvent::Added(Added { amount: *amount })]) }
    }

    fn evolve(state: Option<Self>, CounterEvent::Added(added): &CounterEvent) -> Result<Self, EvolveError> {
        Ok(Self(state.map_or(0, |counter| counter.0).saturating_add(added.amount)))
    }
}

/// A counter as queries show it.
#[derive(Debug, Clone, PartialEq, Row)]
#[row(resource = "counter", key = counter_id)]
struct Total {
    counter_id: CounterId,
    sum: i64,
}

impl FoldProjection for Total {
    const NAME: ProjectionName = ProjectionName::new("totals", 1);
    type Aggregate = Counter;
    type Row = Self;

    fn fold(row: Option<Self>, recorded: &Recorded<CounterEvent>) -> Option<Self> {
        let CounterEvent::Added(added) = &recorded.event;
        let sum = row.map_or(0, |row| row.sum).saturating_add(added.amount);
        Some(Self { counter_id: recorded.aggregate_id(), sum })
    }
}

fn counters() -> Result<Application, RegistrationError> {
    Application::new("counters").aggregate::<Counter>().fold_projection::<Total>().build()
}

/// Counts, and reads the total.
async fn count<S: AppendEvents + Snapshots>(app: &OneProcess<S>) -> anyhow::Result<Versioned<Total>> {
    let id = uuid::Uuid::new_v4();
    app.send::<Counter>(id, Add(3)).await?;
    let after = app.send::<Counter>(id, Add(4)).await?;
    if let Err(refused) = app.send::<Counter>(id, Add(-8)).await {
        println!("refused: {refused}");
    }
    app.get::<Total, _>(&id.to_string(), Some(after)).await
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let total = match std::env::args().nth(1).as_deref() {
        Some("aws") => {
            let stack = AwsStack::new(&counters()?, &Default::default()).await?;
            count(&OneProcess::on_aws(&stack).await?).await?
        }
        _ => count(&OneProcess::in_memory(&counters()?)).await?,
    };
    println!("{} at version {}", total.row.sum, total.version);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn a_counter_counts_on_the_local_aws_too() {
        let stack = AwsStack::new(&counters().unwrap(), &Default::default()).await.unwrap();
        let total = count(&OneProcess::on_aws(&stack).await.unwrap()).await.unwrap();
        assert_eq!((total.row.sum, total.version), (7, 2));
    }

    #[tokio::test]
    async fn a_counter_counts_and_stays_above_zero() {
        let total = count(&OneProcess::in_memory(&counters().unwrap())).await.unwrap();
        assert_eq!((total.row.sum, total.version), (7, 2));
    }
}
