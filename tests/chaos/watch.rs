//! A reader that looks at every row all the time.

use std::{sync::Arc, time::Duration};

use millrace_testing::{Oracle, local::read_rows, oracle::Sightings};
use millrace_tests::AwsStack;
use tokio::{task::JoinHandle, time::sleep};
use tokio_util::sync::CancellationToken;

/// A watch over the rows, which goes on until it is ended.
pub(crate) struct Watch {
    stop: CancellationToken,
    watching: JoinHandle<anyhow::Result<Sightings>>,
}

impl Watch {
    /// Begins to watch the rows of a stack, strongly consistent, with a pause between two looks.
    pub(crate) fn begin(stack: &Arc<AwsStack>, pause: Duration) -> Self {
        let stop = CancellationToken::new();
        let (stack, stopped) = (stack.clone(), stop.clone());
        let watching = tokio::spawn(async move {
            let mut sightings = Sightings::default();
            while !stopped.is_cancelled() {
                sightings.note(read_rows(&stack).await?)?;
                stopped.run_until_cancelled(sleep(pause)).await;
            }
            Ok(sightings)
        });
        Self { stop, watching }
    }

    /// Ends. Fails where a row was ever seen as its history never had it, or went back.
    pub(crate) async fn end(self, stack: &AwsStack, oracle: &Oracle) -> Sightings {
        self.stop.cancel();
        let sightings = self.watching.await.unwrap().unwrap();
        sightings.check(&oracle.item_states(stack.index_shards()).unwrap()).unwrap();
        sightings
    }
}
