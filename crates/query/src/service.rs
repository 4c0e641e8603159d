//! An application's query service, made from its registration.

use std::{
    collections::BTreeSet,
    fmt,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use futures::future;
use millrace_aws::AwsError;
use millrace_core::{
    AggregateType, Application, ProjectionName, StreamId, TenantId, projection::ProjectionSpec,
};
use millrace_event_store::{Direction, ReadHistory};
use millrace_rows::ReadRows;
use millrace_server::{TenantLimiter, serve::reachable};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    history::{History, Settling},
    kinds::AnyProjection,
    models::ReadModel,
    rows::Rows,
    shared::Shared,
    token::PageTokens,
    watch::{self, Hub, Watching},
};

/// The read models and the event store of an application; adapters get their [`Rows`] here. Clones are the same.
#[derive(Clone)]
pub struct QueryService {
    shared: Arc<Shared>,
    hubs: Arc<[Hub]>,
    limiter: TenantLimiter,
    ending: CancellationToken,
    settling: Settling,
}

impl fmt::Debug for QueryService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "QueryService({})", self.shared.application.name())
    }
}

/// A projection is read that the application did not register.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the query service reads the projection `{0}`, which is not registered: register it")]
pub struct NotRegistered(ProjectionName);

/// No adapter reads a registered projection, at any version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "no adapter of the query service reads the registered projection `{0}`: read it with `rows` in one of the gRPC \
     services, or declare it without queries with `const HAS_QUERIES: bool = false;`"
)]
pub struct NotServed(ProjectionName);

impl QueryService {
    /// A service over a store of rows for each registered projection, and an event store. Watched rows are not read
    /// until [`watch`](Self::watch) runs, and only until `ending`.
    pub fn new<S: ReadRows>(
        application: &Application,
        store: impl Fn(&ProjectionSpec) -> S,
        events: impl ReadHistory,
        tokens: PageTokens,
        watching: Watching,
        ending: CancellationToken,
    ) -> Self {
        let models = application.projections().iter().map(|spec| Arc::new(ReadModel::new(spec, store(spec))));
        let models: Vec<_> = models.collect();
        let limiter = TenantLimiter::new(watching.max, watching.max_per_tenant);
        let hub = |model: &Arc<ReadModel>| {
            Hub::new(Arc::clone(model), watching.pace, limiter.clone(), ending.clone())
        };
        let hubs = models.iter().map(hub).collect();
        let (application, events) = (application.clone(), Box::new(events));
        let shared = Arc::new(Shared { application, models, events, tokens });
        Self { shared, hubs, limiter, ending, settling: Settling::default() }
    }

    /// Sets when searches that follow events take them to be indexed.
    #[must_use]
    pub fn settling(self, settling: Settling) -> Self {
        Self { settling, ..self }
    }

    /// The rows of a projection. `K` follows from `P`.
    ///
    /// # Errors
    /// If the projection is not registered.
    pub fn rows<P: AnyProjection<K>, K>(&self) -> Result<Rows<P::Row, P::Of>, NotRegistered> {
        let is_it = |model: &ReadModel| model.spec.name == P::NAME;
        let found = self.shared.models.iter().zip(&*self.hubs).find(|(model, _)| is_it(model));
        let (model, hub) = found.ok_or(NotRegistered(P::NAME))?;
        model.is_asked_for.store(true, Relaxed);
        Ok(Rows::new(Arc::clone(&self.shared), Arc::clone(model), hub.clone(), P::OF))
    }

    /// Fails if no adapter reads the rows of a registered projection, unless that is declared by `HAS_QUERIES`. Of
    /// several versions of a projection, one is enough.
    ///
    /// # Errors
    /// The first such projection.
    pub fn all_served(&self) -> Result<(), NotServed> {
        let asked_for = self.shared.models.iter().filter(|model| model.is_asked_for.load(Relaxed));
        let asked_for: BTreeSet<_> = asked_for.map(|model| model.spec.name.name).collect();
        let mut specs = self.shared.models.iter().map(|model| &model.spec).filter(|spec| spec.has_queries);
        let unread = specs.find(|spec| !asked_for.contains(spec.name.name));
        unread.map_or(Ok(()), |spec| Err(NotServed(spec.name)))
    }

    /// Past events and states.
    pub fn history(&self) -> History {
        History::new(Arc::clone(&self.shared), self.settling)
    }

    /// Reads the watched rows, and records their number, until the process is to end.
    pub async fn watch(&self) {
        let hubs = Arc::clone(&self.hubs);
        let watched_rows = move || hubs.iter().map(Hub::watched_rows).sum();
        let shown = watch::show(self.limiter.clone(), watched_rows, self.ending.clone());
        future::join(shown, future::join_all(self.hubs.iter().cloned().map(Hub::run))).await;
    }

    /// Checks whether all tables can be read, by rows and a stream that do not exist.
    ///
    /// # Errors
    /// Why a table cannot be read.
    pub async fn probe(&self) -> Result<(), String> {
        let nobody = AggregateType::new("probe");
        let stream = StreamId { tenant: TenantId::default(), aggregate_type: nobody, id: Uuid::nil() };
        let events = self.shared.events.history(&stream, 1..=1, Direction::OldestFirst, 1);
        let rows = future::join_all(self.shared.models.iter().map(|model| model.probe()));
        let (events, rows): (_, Vec<Result<(), AwsError>>) = future::join(events, rows).await;
        rows.into_iter().chain([events.map(drop)]).try_for_each(reachable)
    }
}

#[cfg(test)]
mod tests {
    use millrace_server::{Services, process::Process, serve::Listeners};
    use tokio::net::TcpListener;

    use super::*;
    use crate::testing::{Book, BookRow, ShelfRow, application, service};

    #[test]
    fn a_projection_that_is_not_registered_is_named() {
        let said = service(&application()).rows::<ShelfRow, _>().unwrap_err().to_string();
        assert!(said.contains("shelves@1") && said.contains("register it"), "{said}");
    }

    /// Serves without any adapter, until all ports are open.
    async fn serve(service: QueryService) -> anyhow::Result<()> {
        let listeners = Listeners::open(TcpListener::bind("127.0.0.1:0").await.unwrap());
        let process = Process { shutdown: CancellationToken::new(), metrics: None };
        process.shutdown.cancel();
        service.ending.cancel();
        let contracts = millrace_proto::DESCRIPTORS;
        crate::serve(service, Services::default(), contracts, listeners, 1, process).await
    }

    #[tokio::test]
    async fn a_projection_that_no_adapter_reads_is_refused_at_start_unless_it_says_so() {
        let service = || {
            let books = Application::new("library").aggregate::<Book>().projection::<BookRow>();
            service(&books.aggregating_projection::<ShelfRow>().build().unwrap())
        };
        let refused = serve(service()).await.unwrap_err().to_string();
        assert!(refused.contains("reads the registered projection `books@1`"), "{refused}");
        assert!(refused.contains("`const HAS_QUERIES: bool = false;`"), "{refused}");

        let reading = service();
        reading.rows::<BookRow, _>().unwrap();
        serve(reading).await.unwrap();
    }
}
