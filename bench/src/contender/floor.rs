//! The floor: the least that could work, one conditional PutItem by the SDK as it comes.
//!
//! It writes the recipe's item into Millrace's own table, so that the emulator does the same work for both; without the
//! attribute by which the index by event type finds an event, so it pays for no index.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use aws_sdk_dynamodb::{Client, operation::put_item::PutItemError};
use futures::{FutureExt as _, future::BoxFuture};
use uuid::Uuid;

use super::{
    contract::{Contender, Outcome},
    recipe,
};
use crate::user::User;

/// The floor. It knows the next version without reading, unlike all others.
pub(crate) struct Floor {
    client: Client,
    table: String,
    versions: Mutex<HashMap<Uuid, u64>>,
}

impl Floor {
    pub(crate) fn new(client: Client, table: String) -> Self {
        Self { client, table, versions: Mutex::default() }
    }

    async fn put(&self, user: &User) -> anyhow::Result<Outcome> {
        let version = {
            let mut versions = self.versions.lock().unwrap_or_else(PoisonError::into_inner);
            let version = versions.entry(user.id).or_insert(user.length);
            *version += 1;
            *version
        };
        let sent = self
            .client
            .put_item()
            .table_name(&self.table)
            .set_item(Some(recipe::event(user, version)))
            .condition_expression("attribute_not_exists(AggregateId)")
            .send()
            .await;
        match sent {
            Ok(_) => Ok(Outcome::Done),
            Err(error)
                if error
                    .as_service_error()
                    .is_some_and(PutItemError::is_conditional_check_failed_exception) =>
            {
                Ok(Outcome::Conflict)
            }
            Err(error) => Err(error.into()),
        }
    }
}

impl Contender for Floor {
    fn create(&self) -> BoxFuture<'_, anyhow::Result<User>> {
        async {
            let user = User::new(0);
            self.put(&user).await?;
            Ok(user)
        }
        .boxed()
    }

    fn rename<'a>(&'a self, user: &'a User) -> BoxFuture<'a, anyhow::Result<Outcome>> {
        self.put(user).boxed()
    }
}
