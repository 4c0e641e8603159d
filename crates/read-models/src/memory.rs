//! Read models in memory: for tests, by the same contract as DynamoDB's.

#[cfg(any(test, feature = "audit"))]
mod audit;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use millrace_aws::AwsError;
use millrace_domain::{Email, OrderId, TenantId, Timestamp, UserId};
use uuid::Uuid;

use crate::{
    Among, Consistency, Key, ListPart, MOST_EXAMINED, Many, OrderChange, OrderList, OrderRow, Position,
    ReadOrders, ReadUsers, UserChange, UserRow, WriteRows, Written,
};

type Rows<R> = BTreeMap<(TenantId, Uuid), R>;

/// A row of either kind.
trait Row: Clone {
    fn key(&self) -> (TenantId, Uuid);

    fn version(&self) -> u64;

    fn created_at(&self) -> Timestamp;
}

impl Row for UserRow {
    fn key(&self) -> (TenantId, Uuid) {
        (self.tenant.clone(), self.user_id.0)
    }

    fn version(&self) -> u64 {
        self.version
    }

    fn created_at(&self) -> Timestamp {
        self.created_at
    }
}

impl Row for OrderRow {
    fn key(&self) -> (TenantId, Uuid) {
        (self.tenant.clone(), self.order_id.0)
    }

    fn version(&self) -> u64 {
        self.version
    }

    fn created_at(&self) -> Timestamp {
        self.created_at
    }
}

/// Where a row stands among the others of its tenant, by the time of its creation.
type Place = (TenantId, Timestamp, Uuid);

/// Rows, and what the indexes show of them.
#[derive(Debug)]
struct Table<R> {
    rows: Rows<R>,
    /// The place of every row, and of some that are gone.
    places: BTreeSet<Place>,
    /// What the indexes show while they are held; otherwise they show the rows.
    held: Option<Rows<R>>,
}

impl<R> Default for Table<R> {
    fn default() -> Self {
        Self { rows: Rows::new(), places: BTreeSet::new(), held: None }
    }
}

impl<R: Row> Table<R> {
    fn put(&mut self, row: R) {
        let (tenant, id) = row.key();
        self.places.insert((tenant.clone(), row.created_at(), id));
        self.rows.insert((tenant, id), row);
    }

    /// What the indexes show, by key.
    fn shown(&self) -> &Rows<R> {
        self.held.as_ref().unwrap_or(&self.rows)
    }
}

#[derive(Debug)]
struct Shared<R>(Arc<Mutex<Table<R>>>);

impl<R> Clone for Shared<R> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<R> Default for Shared<R> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<R: Row> FromIterator<R> for Shared<R> {
    fn from_iter<I: IntoIterator<Item = R>>(rows: I) -> Self {
        let shared = Self::default();
        rows.into_iter().for_each(|row| shared.table().put(row));
        shared
    }
}

impl<R: Row> Shared<R> {
    fn table(&self) -> MutexGuard<'_, Table<R>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self, tenant: &TenantId, id: Uuid) -> Option<R> {
        self.table().rows.get(&(tenant.clone(), id)).cloned()
    }

    fn get_many<I: Copy>(&self, keys: &[Key<I>], id: impl Fn(I) -> Uuid) -> Many<I, R> {
        let row = |key: &Key<I>| Some((key.clone(), Ok(self.get(&key.0, id(key.1))?)));
        Many { found: keys.iter().filter_map(row).collect(), left: Vec::new(), read_units: 0.0 }
    }

    fn indexed(&self, shown: impl Fn(&R) -> bool) -> Vec<R> {
        let table = self.table();
        table.shown().values().filter(|row| shown(row)).cloned().collect()
    }

    fn hold(&self) {
        let mut table = self.table();
        table.held = Some(table.rows.clone());
    }

    fn release(&self) {
        self.table().held = None;
    }

    /// Replaces a row if it is at the version `from`.
    fn write(
        &self,
        key: (TenantId, Uuid),
        from: u64,
        apply: impl Fn(Option<R>) -> Result<R, AwsError>,
    ) -> Result<Written, AwsError> {
        let mut table = self.table();
        let row = table.rows.get(&key).cloned();
        let found = row.as_ref().map_or(0, R::version);
        if found != from {
            return Ok(Written::Found(found));
        }
        table.put(apply(row)?);
        Ok(Written::Applied)
    }
}

/// Users' profiles in memory. Clones share the rows.
#[derive(Debug, Clone, Default)]
pub struct MemoryUsers(Shared<UserRow>);

impl MemoryUsers {
    /// Lets the index show what the rows are now, whatever becomes of them, until it is released.
    pub fn hold_index(&self) {
        self.0.hold();
    }

    /// Lets the index show the rows again.
    pub fn release_index(&self) {
        self.0.release();
    }
}

/// The users as they are given.
impl FromIterator<UserRow> for MemoryUsers {
    fn from_iter<I: IntoIterator<Item = UserRow>>(rows: I) -> Self {
        Self(rows.into_iter().collect())
    }
}

impl WriteRows<UserChange> for MemoryUsers {
    async fn write(&self, change: &UserChange) -> Result<Written, AwsError> {
        change.creation()?;
        let key = (change.tenant.clone(), change.user_id.0);
        self.0.write(key, change.from, |row| change.applied_to(row))
    }
}

impl ReadUsers for MemoryUsers {
    async fn get(&self, tenant: &TenantId, user_id: UserId) -> Result<Option<UserRow>, AwsError> {
        Ok(self.0.get(tenant, user_id.0))
    }

    async fn get_many(
        &self,
        keys: &[Key<UserId>],
        _: Consistency,
    ) -> Result<Many<UserId, UserRow>, AwsError> {
        Ok(self.0.get_many(keys, |id| id.0))
    }

    async fn by_email(&self, tenant: &TenantId, email: &Email) -> Result<Vec<UserRow>, AwsError> {
        let address = email.normalised();
        let mut holders = self.0.indexed(|row| row.tenant == *tenant && row.email.normalised() == address);
        holders.sort_by_key(|row| Reverse((row.updated_at, row.user_id)));
        Ok(holders)
    }
}

/// Order summaries in memory. Clones share the rows.
#[derive(Debug, Clone, Default)]
pub struct MemoryOrders(Shared<OrderRow>);

impl MemoryOrders {
    /// Lets the indexes show what the rows are now, whatever becomes of them, until they are released.
    pub fn hold_index(&self) {
        self.0.hold();
    }

    /// Lets the indexes show the rows again.
    pub fn release_index(&self) {
        self.0.release();
    }
}

/// The orders as they are given.
impl FromIterator<OrderRow> for MemoryOrders {
    fn from_iter<I: IntoIterator<Item = OrderRow>>(rows: I) -> Self {
        Self(rows.into_iter().collect())
    }
}

impl WriteRows<OrderChange> for MemoryOrders {
    async fn write(&self, change: &OrderChange) -> Result<Written, AwsError> {
        change.creation()?;
        let key = (change.tenant.clone(), change.order_id.0);
        self.0.write(key, change.from, |row| change.applied_to(row))
    }
}

impl ReadOrders for MemoryOrders {
    async fn get(&self, tenant: &TenantId, order_id: OrderId) -> Result<Option<OrderRow>, AwsError> {
        Ok(self.0.get(tenant, order_id.0))
    }

    async fn get_many(
        &self,
        keys: &[Key<OrderId>],
        _: Consistency,
    ) -> Result<Many<OrderId, OrderRow>, AwsError> {
        Ok(self.0.get_many(keys, |id| id.0))
    }

    async fn part(
        &self,
        list: &OrderList,
        before: Option<&Position>,
        limit: u16,
    ) -> Result<ListPart, AwsError> {
        let table = self.0.table();
        // Which entries a list looks at, and how many of them at most.
        let (examined, most): (fn(&OrderList, &OrderRow) -> bool, _) = match list.among {
            Among::User { status: Some(_), .. } => (is_by_user, MOST_EXAMINED.into()),
            Among::User { status: None, .. } | Among::Status(_) => (OrderList::holds, usize::MAX),
        };
        let places = places(list, before).map(|bounds| table.places.range(bounds).rev());
        let entries = places.into_iter().flatten().filter_map(|(tenant, created_at, id)| {
            let row = table.shown().get(&(tenant.clone(), *id))?;
            (row.created_at == *created_at && examined(list, row)).then_some(row)
        });
        let mut part = ListPart::default();
        for (row, looked_at) in entries.zip(0..) {
            if looked_at == most || part.rows.len() == limit.into() {
                return Ok(part);
            }
            part.end = Some(row.position());
            if list.holds(row) {
                part.rows.push(row.clone());
            }
        }
        Ok(ListPart { end: None, ..part })
    }
}

fn is_by_user(list: &OrderList, row: &OrderRow) -> bool {
    matches!(list.among, Among::User { user_id, .. } if user_id == row.user_id)
}

/// The places of a list's orders before a position; `None` where there are none.
fn places(list: &OrderList, before: Option<&Position>) -> Option<(Bound<Place>, Bound<Place>)> {
    let place = |time, id| (list.tenant.clone(), time, id);
    let start = place(list.created.since.unwrap_or(Timestamp::from_unix_micros(0)), Uuid::nil());
    let ends = [
        list.created.before.map(|end| place(end, Uuid::nil())),
        before.map(|before| place(before.created_at, before.order_id.0)),
    ];
    let end = match ends.into_iter().flatten().min() {
        Some(end) => Bound::Excluded(end),
        None => Bound::Included(place(Timestamp::from_unix_micros(i64::MAX), Uuid::max())),
    };
    let is_empty = matches!(&end, Bound::Excluded(end) if *end <= start);
    (!is_empty).then_some((Bound::Included(start), end))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract;

    #[tokio::test]
    async fn users_in_memory_keep_the_contract() {
        contract::users(&MemoryUsers::default()).await;
    }

    #[tokio::test]
    async fn orders_in_memory_keep_the_contract() {
        contract::orders(&MemoryOrders::default()).await;
    }
}
