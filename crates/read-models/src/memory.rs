//! Read models in memory: for tests, by the same contract as DynamoDB's.

#[cfg(any(test, feature = "audit"))]
mod audit;

use std::{
    cmp::Reverse,
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use millrace_aws::AwsError;
use millrace_domain::{Email, OrderId, TenantId, UserId, order::OrderStatus};
use uuid::Uuid;

use crate::{
    Consistency, Key, Many, OrderChange, OrderRow, Position, ReadOrders, ReadUsers, UserChange, UserRow,
    WriteRows, Written,
};

type Rows<R> = BTreeMap<(TenantId, Uuid), R>;

/// Rows, and what the indexes show of them.
#[derive(Debug)]
struct Table<R> {
    rows: Rows<R>,
    /// What the indexes show while they are held; otherwise they show the rows.
    held: Option<Rows<R>>,
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
        Self(Arc::new(Mutex::new(Table { rows: Rows::new(), held: None })))
    }
}

impl<R: Clone> Shared<R> {
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
        table.held.as_ref().unwrap_or(&table.rows).values().filter(|row| shown(row)).cloned().collect()
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
        version: impl Fn(&R) -> u64,
        apply: impl Fn(Option<R>) -> Result<R, AwsError>,
    ) -> Result<Written, AwsError> {
        let mut table = self.table();
        let row = table.rows.get(&key).cloned();
        let found = row.as_ref().map_or(0, version);
        if found != from {
            return Ok(Written::Found(found));
        }
        let row = apply(row)?;
        table.rows.insert(key, row);
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

impl WriteRows<UserChange> for MemoryUsers {
    async fn write(&self, change: &UserChange) -> Result<Written, AwsError> {
        change.creation()?;
        let key = (change.tenant.clone(), change.user_id.0);
        self.0.write(key, change.from, |row| row.version, |row| change.applied_to(row))
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

    fn list(
        &self,
        before: Option<&Position>,
        limit: u16,
        listed: impl Fn(&OrderRow) -> bool,
    ) -> Vec<OrderRow> {
        let mut rows =
            self.0.indexed(|row| listed(row) && before.is_none_or(|before| row.position() < *before));
        rows.sort_by_key(|row| Reverse(row.position()));
        rows.truncate(limit.into());
        rows
    }
}

impl WriteRows<OrderChange> for MemoryOrders {
    async fn write(&self, change: &OrderChange) -> Result<Written, AwsError> {
        change.creation()?;
        let key = (change.tenant.clone(), change.order_id.0);
        self.0.write(key, change.from, |row| row.version, |row| change.applied_to(row))
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

    async fn by_user(
        &self,
        tenant: &TenantId,
        user_id: UserId,
        before: Option<&Position>,
        limit: u16,
    ) -> Result<Vec<OrderRow>, AwsError> {
        Ok(self.list(before, limit, |row| row.tenant == *tenant && row.user_id == user_id))
    }

    async fn by_status(
        &self,
        tenant: &TenantId,
        status: OrderStatus,
        before: Option<&Position>,
        limit: u16,
    ) -> Result<Vec<OrderRow>, AwsError> {
        Ok(self.list(before, limit, |row| row.tenant == *tenant && row.status == status))
    }
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
