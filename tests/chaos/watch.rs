//! Somebody who looks at every row all the time.

use std::{sync::Arc, time::Duration};

use millrace_tests::{
    Ground,
    truth::{ReadModel, Sightings, Truth},
};
use tokio::{task::JoinHandle, time::sleep};
use tokio_util::sync::CancellationToken;

use crate::verdict::shards;

/// A watch over the rows, which goes on until it is ended.
pub(crate) struct Watch {
    stop: CancellationToken,
    watching: JoinHandle<anyhow::Result<Sightings>>,
}

impl Watch {
    /// Begins to watch the rows of a ground, strongly consistent, with a pause between two looks.
    pub(crate) fn begin(ground: &Arc<Ground>, pause: Duration) -> Self {
        let stop = CancellationToken::new();
        let (ground, stopped) = (ground.clone(), stop.clone());
        let watching = tokio::spawn(async move {
            let mut sightings = Sightings::default();
            while !stopped.is_cancelled() {
                sightings.note(ReadModel::read_all(&ground).await?)?;
                stopped.run_until_cancelled(sleep(pause)).await;
            }
            Ok(sightings)
        });
        Self { stop, watching }
    }

    /// Ends. Fails where a row was ever seen as its history never had it, or went back.
    pub(crate) async fn end(self, ground: &Ground, truth: &Truth) -> Sightings {
        self.stop.cancel();
        let sightings = self.watching.await.unwrap().unwrap();
        sightings.check(&truth.states(shards(ground)).unwrap()).unwrap();
        sightings
    }
}
