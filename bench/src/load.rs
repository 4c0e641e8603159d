//! Load: clients that call one after the other, and clients that call by the clock.

use std::{sync::Arc, time::Duration};

use futures::future::{BoxFuture, try_join_all};
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use tokio::{task::JoinSet, time::Instant};

use crate::{contender::Outcome, machine::cpu_seconds};

/// One call of the client with a number.
pub(crate) type Call = Arc<dyn Fn(usize) -> BoxFuture<'static, anyhow::Result<Outcome>> + Send + Sync>;

/// How fast calls were.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Speed {
    pub(crate) calls: u64,
    /// Those that lost against another one.
    pub(crate) conflicts: u64,
    pub(crate) per_second: f64,
    /// Processor time of this process for a call, in microseconds: the clients', and the contender's where it runs here.
    pub(crate) cpu_micros: f64,
    /// Processor time of the service's process for a call, where there is one.
    pub(crate) service_cpu_micros: Option<f64>,
}

impl Speed {
    /// Processor time of the side that carries calls out.
    pub(crate) fn own_cpu_micros(&self) -> f64 {
        self.service_cpu_micros.unwrap_or(self.cpu_micros)
    }

    /// Calls a second that one core carries out.
    pub(crate) fn per_core(&self) -> f64 {
        1_000_000.0 / self.own_cpu_micros()
    }
}

/// So many clients, each calling again at once after its reply, for some time.
pub(crate) async fn closed(
    call: &Call,
    clients: usize,
    time: Duration,
    service: Option<u32>,
) -> anyhow::Result<Speed> {
    let cpu = |process: Option<u32>| process.map(cpu_seconds).transpose();
    let own = std::process::id();
    // Connections, and everything else that is made once, are made before the time counts.
    try_join_all((0..clients).map(|client| call(client))).await?;
    let (own_before, service_before) = (cpu_seconds(own)?, cpu(service)?);
    let began = Instant::now();
    let end = began + time;
    let mut tasks = JoinSet::new();
    for client in 0..clients {
        let call = call.clone();
        tasks.spawn(async move {
            let (mut done, mut lost) = (0_u64, 0_u64);
            while Instant::now() < end {
                match call(client).await? {
                    Outcome::Done => done += 1,
                    Outcome::Conflict => lost += 1,
                }
            }
            anyhow::Ok((done, lost))
        });
    }
    let (mut done, mut conflicts) = (0, 0);
    while let Some(ended) = tasks.join_next().await {
        let (of_done, of_lost) = ended??;
        done += of_done;
        conflicts += of_lost;
    }
    let seconds = began.elapsed().as_secs_f64();
    let calls = done + conflicts;
    let micros = |seconds: f64| seconds * 1_000_000.0 / as_f64(calls.max(1));
    Ok(Speed {
        calls,
        conflicts,
        per_second: as_f64(done) / seconds,
        cpu_micros: micros(cpu_seconds(own)? - own_before),
        service_cpu_micros: cpu(service)?.zip(service_before).map(|(after, before)| micros(after - before)),
    })
}

/// How long answers took, in milliseconds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Latency {
    pub(crate) asked_per_second: f64,
    /// The achieved rate: lower, where replies took longer than there was time.
    pub(crate) per_second: f64,
    pub(crate) answers: u64,
    pub(crate) p50: f64,
    pub(crate) p90: f64,
    pub(crate) p99: f64,
    pub(crate) worst: f64,
}

/// Times, reported as percentiles.
pub(crate) struct Times(Histogram<u64>);

impl Times {
    pub(crate) fn new() -> anyhow::Result<Self> {
        // From a microsecond to five minutes, to three digits.
        Ok(Self(Histogram::new_with_bounds(1, 300_000_000, 3)?))
    }

    pub(crate) fn note(&mut self, time: Duration) {
        self.0.saturating_record(u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
    }

    pub(crate) fn told(&self, asked_per_second: f64, seconds: f64) -> Latency {
        let millis = |micros: u64| as_f64(micros) / 1000.0;
        Latency {
            asked_per_second,
            per_second: as_f64(self.0.len()) / seconds,
            answers: self.0.len(),
            p50: millis(self.0.value_at_quantile(0.5)),
            p90: millis(self.0.value_at_quantile(0.9)),
            p99: millis(self.0.value_at_quantile(0.99)),
            worst: millis(self.0.max()),
        }
    }
}

/// So many calls a second by the clock, whether the ones before are answered or not, by so many clients in turn.
///
/// Each answer's time counts from when its call was due, so a contender that stalls is charged for all calls that fell
/// into the stall ("coordinated omission" leaves them out).
pub(crate) async fn by_the_clock(
    call: &Call,
    clients: usize,
    per_second: u32,
    time: Duration,
) -> anyhow::Result<Latency> {
    try_join_all((0..clients).map(|client| call(client))).await?;
    let began = Instant::now();
    let mut tasks = JoinSet::new();
    let calls = time.as_secs_f64() * f64::from(per_second);
    let mut number = 0;
    while f64::from(number) < calls {
        let due = began + Duration::from_secs_f64(f64::from(number) / f64::from(per_second));
        tokio::time::sleep_until(due).await;
        let client = usize::try_from(number).unwrap_or(0) % clients;
        let answer = call(client);
        tasks.spawn(async move {
            answer.await?;
            anyhow::Ok(due.elapsed())
        });
        number += 1;
    }
    let mut times = Times::new()?;
    while let Some(ended) = tasks.join_next().await {
        times.note(ended??);
    }
    Ok(times.told(f64::from(per_second), began.elapsed().as_secs_f64()))
}

/// A count as a number to reckon with.
#[expect(clippy::cast_precision_loss, reason = "nothing is counted here beyond 2 to the 52nd")]
pub(crate) fn as_f64(count: u64) -> f64 {
    count as f64
}
