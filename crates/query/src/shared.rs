//! The state that all queries share.

use std::sync::Arc;

use millrace_core::{AggregateType, Application};

use crate::{models::ReadModel, stores::AnyHistory, token::PageTokens};

/// The registration, the read models, the event store and the page tokens.
pub(crate) struct Shared {
    pub(crate) application: Application,
    /// One for each registered projection, in the order of registration.
    pub(crate) models: Vec<Arc<ReadModel>>,
    pub(crate) events: Box<dyn AnyHistory>,
    pub(crate) tokens: PageTokens,
}

impl Shared {
    /// The read model that answers for an aggregate's type if a query is about another: the first one registered.
    pub(crate) fn model_of(&self, aggregate_type: &AggregateType) -> Option<&ReadModel> {
        self.models.iter().find(|model| model.spec.source == *aggregate_type).map(|model| &**model)
    }
}
