//! The deployables as processes: their time until they serve, and their idle memory.

use std::time::Duration;

use millrace_tests::process::Deployable;
use serde::{Deserialize, Serialize};

use crate::{contender::Service, machine::resident_mib, site::Site};

/// A deployable.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Started {
    pub(crate) deployable: String,
    /// From its start until it said SERVING, the median of several starts.
    pub(crate) seconds: f64,
    pub(crate) idle_mib: f64,
}

/// Starts each of them several times.
pub(crate) async fn measure(site: &Site, step: &dyn Fn(&str)) -> anyhow::Result<Vec<Started>> {
    const STARTS: usize = 5;
    let mut all = Vec::new();
    for deployable in Deployable::ALL {
        step(&format!("starting the {}", deployable.name()));
        let (mut times, mut idle_mib) = (Vec::new(), 0.0);
        for _ in 0..STARTS {
            let service = Service::start(deployable, &site.stack, &[]).await?;
            times.push(service.started_in);
            // It looks at its tables, its stream and its queues once or twice.
            tokio::time::sleep(Duration::from_millis(500)).await;
            idle_mib = resident_mib(service.id())?.max(idle_mib);
        }
        times.sort_unstable();
        let seconds = times[STARTS / 2].as_secs_f64();
        all.push(Started { deployable: deployable.name().to_owned(), seconds, idle_mib });
    }
    Ok(all)
}
