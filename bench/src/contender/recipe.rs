//! The recipe's own command handler, in Rust: query the last version, then put the next one.

use aws_sdk_dynamodb::{Client, operation::put_item::PutItemError, types::AttributeValue};
use futures::{FutureExt as _, future::BoxFuture};
use uuid::Uuid;

use super::{
    contract::{Contender, Outcome},
    items::{Item, item, number, text, write_all},
};
use crate::{
    site::RECIPE_EVENTS,
    user::{NAME, User, now},
};

/// The recipe.
pub(crate) struct Recipe {
    client: Client,
}

impl Recipe {
    pub(crate) fn new(client: Client) -> Self {
        Self { client }
    }

    async fn append(&self, user: &User) -> anyhow::Result<Outcome> {
        let newest = self
            .client
            .query()
            .table_name(RECIPE_EVENTS)
            .key_condition_expression("AggregateId = :id")
            .expression_attribute_values(":id", text(user))
            .scan_index_forward(false)
            .limit(1)
            .send()
            .await?;
        let version = newest.items().first().and_then(|event| event.get("Version"));
        let version: u64 = match version {
            Some(AttributeValue::N(version)) => version.parse()?,
            Some(_) | None => 0,
        };
        let sent = self
            .client
            .put_item()
            .table_name(RECIPE_EVENTS)
            .set_item(Some(event(user, version + 1)))
            .condition_expression("attribute_not_exists(AggregateId) OR Version = :current")
            .expression_attribute_values(":current", number(version))
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

impl Contender for Recipe {
    fn create(&self) -> BoxFuture<'_, anyhow::Result<User>> {
        async {
            let user = User::new(0);
            self.append(&user).await?;
            Ok(user)
        }
        .boxed()
    }

    fn rename<'a>(&'a self, user: &'a User) -> BoxFuture<'a, anyhow::Result<Outcome>> {
        self.append(user).boxed()
    }
}

/// The recipe's item, with the data of Millrace's event.
pub(super) fn event(user: &User, version: u64) -> Item {
    let data = item([("name", text(NAME))]);
    item([
        ("AggregateId", text(user)),
        ("Version", number(version)),
        ("EventId", text(Uuid::new_v4())),
        ("EventType", text("UserProfileUpdated")),
        ("Timestamp", text(now())),
        ("EventData", AttributeValue::M(data)),
        ("CommandId", text(Uuid::new_v4())),
        ("CorrelationId", text(Uuid::new_v4())),
    ])
}

/// Stores a user's events.
pub(super) async fn seed(client: &Client, user: &User) -> anyhow::Result<()> {
    write_all(client, RECIPE_EVENTS, (1..=user.length).map(|version| event(user, version))).await
}
