//! Reads of many rows by their ids.

use std::collections::{HashMap, HashSet};

use millrace_aws::AwsError;
use millrace_core::{
    Row, Versioned,
    row::{RowId, RowKey, StoredRow},
};
use millrace_rows::{Consistency, MAX_ROWS, RowBatch};
use millrace_server::{Call, Failure, Violations};
use prost::Message;
use tokio::time::timeout_at;

use crate::{
    attempts::Attempts,
    models::{ReadModel, typed},
    paging::MAX_BYTES,
};

/// The reply to a batch. Each id is in one of the three lists, in the request's order.
#[derive(Debug)]
pub struct Batch<M> {
    /// The rows, as messages.
    pub found: Vec<M>,
    /// The ids that have no row.
    pub missing: Vec<String>,
    /// The ids that were not read.
    pub unanswered: Vec<String>,
}

/// Reads the request's ids, each once, at its first place.
pub(crate) fn ids<I: RowId>(
    violations: &mut Violations,
    field: &str,
    texts: &[String],
) -> Option<Vec<String>> {
    if texts.is_empty() || texts.len() > MAX_ROWS {
        violations.add(field, "must name 1 to 100");
    }
    let mut parsed = Vec::with_capacity(texts.len().min(MAX_ROWS));
    for (n, text) in texts.iter().enumerate() {
        if violations.is_full() {
            return None;
        }
        parsed.push(violations.field(format!("{field}[{n}]"), text.parse::<I>()));
    }
    let mut ids: Vec<_> = parsed.into_iter().map(|id| Some(id?.to_string())).collect::<Option<_>>()?;
    let mut named = HashSet::new();
    ids.retain(|id| named.insert(id.clone()));
    Some(ids)
}

/// Reads the rows of some ids, as strongly as single rows are read, so that a batch can replace many calls. The awaited
/// row is not read again.
///
/// Keys that AWS leaves out are asked for again, until shortly before the caller stops waiting. The reply then holds
/// the known rows; if none is known, the call fails with the reason.
pub(crate) async fn read<R: Row, M: Message + From<Versioned<R>>>(
    call: &Call,
    model: &ReadModel,
    ids: &[String],
    awaited: Option<StoredRow>,
) -> Result<Batch<M>, Failure> {
    let mut reading = Reading::<M>::new(model, ids);
    if let Some(row) = awaited.filter(|row| ids.contains(&row.key.id)) {
        reading.left.retain(|id| *id != row.key.id);
        reading.add(row.key.clone(), Ok(row));
    }
    let mut attempts = Attempts::until(call.deadline);
    while reading.is_of_use() {
        let keys = reading.keys(call);
        let asked = model.rows.get_many(&keys, Consistency::Strong);
        // While nothing is known there is nothing to answer before the deadline.
        let reply =
            if reading.has_answers() { timeout_at(attempts.end, asked).await } else { Ok(asked.await) };
        match reply {
            Ok(Ok(rows)) => reading.add_all(rows),
            Ok(Err(error @ (AwsError::Throttled(_) | AwsError::Unreachable(_)))) if reading.has_answers() => {
                tracing::debug!(%error, "the rest of a batch is asked for again");
            }
            Ok(Err(error)) => return Err(error.into()),
            Err(_) => break,
        }
        if reading.is_of_use() && !attempts.next().await {
            break;
        }
    }
    reading.answer(ids)
}

/// A batch that is being read.
struct Reading<'a, M> {
    model: &'a ReadModel,
    found: HashMap<String, M>,
    bytes: usize,
    /// The ids still to be read.
    left: Vec<String>,
    /// The ids whose rows cannot be read. They are not missing, and another attempt would not help.
    unreadable: HashMap<String, AwsError>,
    missing: usize,
}

impl<'a, M: Message> Reading<'a, M> {
    fn new(model: &'a ReadModel, ids: &[String]) -> Self {
        let (found, unreadable) = (HashMap::new(), HashMap::new());
        Self { model, found, bytes: 0, left: ids.to_vec(), unreadable, missing: 0 }
    }

    /// Whether an id is left to read, and room for its row in the reply.
    fn is_of_use(&self) -> bool {
        !self.left.is_empty() && self.bytes <= MAX_BYTES
    }

    fn has_answers(&self) -> bool {
        !self.found.is_empty() || self.missing > 0
    }

    fn keys(&self, call: &Call) -> Vec<RowKey> {
        self.left.iter().map(|id| RowKey { tenant: call.tenant.clone(), id: id.clone() }).collect()
    }

    fn add_all<R: Row>(&mut self, rows: RowBatch)
    where
        M: From<Versioned<R>>,
    {
        self.missing += self.left.len().saturating_sub(rows.found.len() + rows.left.len());
        self.left = rows.left.into_iter().map(|key| key.id).collect();
        for (key, row) in rows.found {
            self.add(key, row);
        }
    }

    fn add<R: Row>(&mut self, key: RowKey, row: Result<StoredRow, AwsError>)
    where
        M: From<Versioned<R>>,
    {
        match row.and_then(typed::<R>) {
            Ok(Some(row)) => {
                let message = M::from(row);
                self.bytes += message.encoded_len();
                self.found.insert(key.id, message);
            }
            Ok(None) => self.missing += 1,
            Err(error) => {
                // The id of a row that sums up aggregates may be personal data.
                let aggregate_id = self.model.is_of_aggregates().then_some(key.id.as_str());
                let projection = self.model.spec.name;
                tracing::error!(tenant = %key.tenant, %projection, aggregate_id, %error, "a row cannot be read");
                self.unreadable.insert(key.id, error);
            }
        }
    }

    /// The known rows, or why none is known.
    fn answer(mut self, ids: &[String]) -> Result<Batch<M>, Failure> {
        if !self.has_answers() {
            let unreadable = self.unreadable.into_values().next();
            let throttled = || AwsError::Throttled("none of a batch was answered".to_owned());
            return Err(unreadable.unwrap_or_else(throttled).into());
        }
        let left: HashSet<_> = self.left.into_iter().chain(self.unreadable.into_keys()).collect();
        let mut batch = Batch { found: Vec::new(), missing: Vec::new(), unanswered: Vec::new() };
        let mut bytes = 0;
        for id in ids {
            match self.found.remove(id) {
                Some(message) => {
                    bytes += message.encoded_len();
                    if bytes <= MAX_BYTES || batch.found.is_empty() {
                        batch.found.push(message);
                    } else {
                        batch.unanswered.push(id.clone());
                    }
                }
                None if left.contains(id) => batch.unanswered.push(id.clone()),
                None => batch.missing.push(id.clone()),
            }
        }
        Ok(batch)
    }
}
