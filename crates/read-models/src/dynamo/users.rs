//! Users' profiles: hash `UserId`, index `Email-index`.

use std::{cmp::Reverse, sync::Arc};

use aws_sdk_dynamodb::{Client, types::AttributeValue};
use millrace_aws::AwsError;
#[cfg(any(test, feature = "audit"))]
use millrace_domain::{Aggregate as _, AggregateType, user::User};
use millrace_domain::{Email, TenantId, UserId};

use super::{
    item::{Item, asked, parsed, tenant_and_id, tenant_key, whole},
    provenance::provenance,
    table::{Range, Table, VERSION},
};
use crate::{Consistency, Key, Many, ReadUsers, UserChange, UserRow, WriteRows, Written};

const USER_ID: &str = "UserId";
const EMAIL: &str = "Email";
const EMAIL_KEY: &str = "EmailKey";
const NAME: &str = "Name";
const CREATED_AT: &str = "CreatedAt";
const UPDATED_AT: &str = "UpdatedAt";
const EMAIL_INDEX: &str = "Email-index";

/// How many users an address is looked for under. One holds it; others are shown only while the index or a projection
/// lags behind a change of hands.
const MOST_HOLDERS: u16 = 16;

/// Users' profiles on DynamoDB.
#[derive(Debug, Clone)]
pub struct DynamoUsers(Table);

impl DynamoUsers {
    /// The profiles in a table.
    pub fn new(client: Client, table: impl Into<Arc<str>>) -> Self {
        Self(Table::new(client, table, USER_ID))
    }
}

impl WriteRows<UserChange> for DynamoUsers {
    async fn write(&self, change: &UserChange) -> Result<Written, AwsError> {
        let key = tenant_key(&change.tenant, change.user_id);
        self.0.update(key, change, assignments(change)?).await
    }
}

#[cfg(any(test, feature = "audit"))]
impl super::audit::InTable<UserChange> for DynamoUsers {
    const KIND: AggregateType = User::TYPE;

    fn table(&self) -> &Table {
        &self.0
    }

    fn set(&self, change: &UserChange) -> Result<Vec<(&'static str, AttributeValue)>, AwsError> {
        assignments(change)
    }
}

impl ReadUsers for DynamoUsers {
    async fn get(&self, tenant: &TenantId, user_id: UserId) -> Result<Option<UserRow>, AwsError> {
        self.0.get(tenant_key(tenant, user_id)).await?.as_ref().map(row).transpose()
    }

    async fn get_many(
        &self,
        keys: &[Key<UserId>],
        consistency: Consistency,
    ) -> Result<Many<UserId, UserRow>, AwsError> {
        let asked = asked(keys);
        self.0.get_many(asked.keys().cloned(), consistency).await?.by_key(USER_ID, &asked, row)
    }

    async fn by_email(&self, tenant: &TenantId, email: &Email) -> Result<Vec<UserRow>, AwsError> {
        let hash = (EMAIL_KEY, tenant_key(tenant, email.normalised()));
        let range = Range { index: EMAIL_INDEX, hash, within: None, with: None };
        let found = self.0.query(range, MOST_HOLDERS).await?;
        let mut holders = found.items.iter().map(row).collect::<Result<Vec<_>, _>>()?;
        holders.sort_by_key(|row| Reverse((row.updated_at, row.user_id)));
        Ok(holders)
    }
}

/// What a change sets, besides the version and the provenance.
fn assignments(change: &UserChange) -> Result<Vec<(&'static str, AttributeValue)>, AwsError> {
    let text = |text: String| AttributeValue::S(text);
    let mut set = vec![(UPDATED_AT, text(change.updated_at.to_string()))];
    if let Some((created_at, ..)) = change.creation()? {
        set.push((CREATED_AT, text(created_at.to_string())));
    }
    if let Some(email) = &change.email {
        set.push((EMAIL, text(email.as_str().to_owned())));
        set.push((EMAIL_KEY, text(tenant_key(&change.tenant, email.normalised()))));
    }
    if let Some(name) = &change.name {
        set.push((NAME, text(name.as_str().to_owned())));
    }
    Ok(set)
}

fn row(item: &Item) -> Result<UserRow, AwsError> {
    let (tenant, id) = tenant_and_id(item, USER_ID)?;
    Ok(UserRow {
        tenant,
        user_id: UserId(id),
        email: parsed(item, EMAIL)?,
        name: parsed(item, NAME)?,
        created_at: parsed(item, CREATED_AT)?,
        updated_at: parsed(item, UPDATED_AT)?,
        version: whole(item, VERSION)?,
        provenance: provenance(item),
    })
}

#[cfg(test)]
mod tests {
    use millrace_domain::Timestamp;
    use uuid::Uuid;

    use super::*;
    use crate::dynamo::provenance::tests::{some, unreadable_ones};

    /// An item as a release wrote it that knew of no provenance.
    fn older() -> Item {
        let change = UserChange {
            tenant: TenantId::default(),
            user_id: UserId(Uuid::from_u128(1)),
            from: 0,
            to: 1,
            created_at: Some(Timestamp::from_unix_micros(0)),
            email: Some(Email::try_from("john@example.com".to_owned()).unwrap()),
            name: Some("John".to_owned().try_into().unwrap()),
            updated_at: Timestamp::from_unix_micros(0),
            provenance: some(),
        };
        let key = (USER_ID, AttributeValue::S(tenant_key(&change.tenant, change.user_id)));
        let set = assignments(&change).unwrap().into_iter();
        let item = set.chain([key, (VERSION, AttributeValue::N("1".to_owned()))]);
        item.map(|(name, value)| (name.to_owned(), value)).collect()
    }

    #[test]
    fn a_profile_that_does_not_say_what_made_it_is_a_good_one() {
        for attributes in unreadable_ones() {
            let mut item = older();
            item.extend(attributes.into_iter().map(|(name, value)| (name.to_owned(), value)));
            let row = row(&item).unwrap();
            assert_eq!((row.name.as_str(), row.version, row.provenance), ("John", 1, None));
        }
    }
}
