//! Rows by many ids at once.

use std::{
    collections::{HashMap, HashSet},
    fmt::Display,
    hash::Hash,
    str::FromStr,
};

use millrace_aws::AwsError;
use millrace_domain::Invalid;
use millrace_read_models::{Key, MOST_ROWS, Many};
use millrace_runtime::{Call, Failure, Violations};
use prost::Message;
use tokio::time::timeout_at;

use crate::{attempts::Attempts, paging::MOST_BYTES};

/// What is looked for by its id.
pub(crate) trait Id: Copy + Eq + Hash + Display + FromStr<Err = Invalid> {}

impl<I: Copy + Eq + Hash + Display + FromStr<Err = Invalid>> Id for I {}

/// Reads the ids that a request names, each once, at its first place.
pub(crate) fn ids<I: Id>(wrong: &mut Violations, field: &str, texts: &[String]) -> Option<Vec<I>> {
    if texts.is_empty() || texts.len() > MOST_ROWS {
        wrong.add(field, "must name 1 to 100");
    }
    let mut parsed = Vec::with_capacity(texts.len().min(MOST_ROWS));
    for (n, text) in texts.iter().enumerate() {
        if wrong.is_full() {
            return None;
        }
        parsed.push(wrong.field(format!("{field}[{n}]"), text.parse()));
    }
    let mut ids: Vec<I> = parsed.into_iter().collect::<Option<_>>()?;
    let mut named = HashSet::new();
    ids.retain(|id| named.insert(*id));
    Some(ids)
}

/// What became of the ids of a batch, each in the order in which it was named.
#[derive(Debug)]
pub(crate) struct Batch<M> {
    /// The rows, as the contract shows them.
    pub(crate) found: Vec<M>,
    /// The ids that have no row.
    pub(crate) missing: Vec<String>,
    /// The ids that there is no answer for.
    pub(crate) unanswered: Vec<String>,
}

/// Reads the rows of some ids, but for one that is `known`.
///
/// Those that AWS leaves out are asked for again, until shortly before the caller stops waiting. What is known by then is
/// told; where nothing is, the call fails with the reason.
pub(crate) async fn read<I: Id, R, M: Message, F>(
    call: &Call,
    ids: &[I],
    known: Option<(I, R)>,
    ask: impl Fn(Vec<Key<I>>) -> F,
    view: impl Fn(R) -> M,
) -> Result<Batch<M>, Failure>
where
    F: Future<Output = Result<Many<I, R>, AwsError>>,
{
    let mut reading = Reading::of(ids, known.map(|(id, row)| (id, view(row))));
    let mut attempts = Attempts::until(call.deadline);
    while reading.is_of_use() {
        let asked = ask(reading.keys(call));
        // As long as nothing is known there is nothing to tell before the deadline.
        let reply =
            if reading.has_answers() { timeout_at(attempts.end, asked).await } else { Ok(asked.await) };
        match reply {
            Ok(Ok(many)) => reading.add(call, many, &view),
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
    reading.told(ids)
}

/// A batch that is being read.
struct Reading<I, M> {
    found: HashMap<I, M>,
    bytes: usize,
    /// The ids that are asked for, and asked for again.
    left: Vec<I>,
    /// The ids whose rows cannot be read. They are not missing, and will be no better next time.
    unreadable: HashMap<I, AwsError>,
    missing: usize,
}

impl<I: Id, M: Message> Reading<I, M> {
    fn of(ids: &[I], known: Option<(I, M)>) -> Self {
        let found: HashMap<I, M> = known.into_iter().filter(|(id, _)| ids.contains(id)).collect();
        let left = ids.iter().filter(|id| !found.contains_key(*id)).copied().collect();
        let bytes = found.values().map(Message::encoded_len).sum();
        Self { found, bytes, left, unreadable: HashMap::new(), missing: 0 }
    }

    /// Whether there is something left to read, and room for it in a reply.
    fn is_of_use(&self) -> bool {
        !self.left.is_empty() && self.bytes <= MOST_BYTES
    }

    fn has_answers(&self) -> bool {
        !self.found.is_empty() || self.missing > 0
    }

    fn keys(&self, call: &Call) -> Vec<Key<I>> {
        self.left.iter().map(|id| (call.tenant.clone(), *id)).collect()
    }

    fn add<R>(&mut self, call: &Call, many: Many<I, R>, view: impl Fn(R) -> M) {
        self.missing += self.left.len().saturating_sub(many.found.len() + many.left.len());
        for ((_, id), row) in many.found {
            match row {
                Ok(row) => {
                    let message = view(row);
                    self.bytes += message.encoded_len();
                    self.found.insert(id, message);
                }
                Err(error) => {
                    tracing::error!(tenant = %call.tenant, aggregate_id = %id, %error, "a row cannot be read");
                    self.unreadable.insert(id, error);
                }
            }
        }
        self.left = many.left.into_iter().map(|(_, id)| id).collect();
    }

    /// What is known, or why nothing is.
    fn told(mut self, ids: &[I]) -> Result<Batch<M>, Failure> {
        if !self.has_answers() {
            let unreadable = self.unreadable.into_values().next();
            let throttled = || AwsError::Throttled("none of a batch was answered".to_owned());
            return Err(unreadable.unwrap_or_else(throttled).into());
        }
        let left: HashSet<I> = self.left.into_iter().chain(self.unreadable.into_keys()).collect();
        let mut batch = Batch { found: Vec::new(), missing: Vec::new(), unanswered: Vec::new() };
        let mut bytes = 0;
        for id in ids {
            match self.found.remove(id) {
                Some(message) => {
                    bytes += message.encoded_len();
                    if bytes <= MOST_BYTES || batch.found.is_empty() {
                        batch.found.push(message);
                    } else {
                        batch.unanswered.push(id.to_string());
                    }
                }
                None if left.contains(id) => batch.unanswered.push(id.to_string()),
                None => batch.missing.push(id.to_string()),
            }
        }
        Ok(batch)
    }
}
