//! Where everything is measured: an account of the local AWS with Millrace's stack and with the tables of its peers, each
//! as its own documentation has them.

use std::num::NonZeroU32;

use anyhow::Context as _;
use aws_config::SdkConfig;
use aws_sdk_dynamodb::{
    Client,
    types::{
        AttributeDefinition, BillingMode, GlobalSecondaryIndex, KeySchemaElement, KeyType, Projection,
        ProjectionType, ScalarAttributeType, StreamSpecification, StreamViewType,
    },
};
use millrace_aws::Aws;
use millrace_event_store::{DynamoStore, Tables};
use millrace_local::StackOptions;
use millrace_tests::{AwsStack, aws_stack_with};

/// The table of the recipe's events.
pub(crate) const RECIPE_EVENTS: &str = "recipe-events";
/// The tables of `event-store-adapter-rs`, and an index that it asks for.
pub(crate) const ADAPTER_JOURNAL: &str = "journal";
pub(crate) const ADAPTER_SNAPSHOTS: &str = "snapshot";
pub(crate) const ADAPTER_HEADS: &str = "head";
pub(crate) const ADAPTER_HISTORY_INDEX: &str = "snapshot-history-index";
/// The tables of `dynamo-es`, by the names that it has for them.
pub(crate) const CQRS_EVENTS: &str = "Events";
pub(crate) const CQRS_SNAPSHOTS: &str = "Snapshots";

/// The shards of the index by event type, as the stack has them by default.
const SHARDS: NonZeroU32 = NonZeroU32::new(4).expect("4 is not 0");

/// An account with all tables.
pub(crate) struct Site {
    /// Millrace's stack in it.
    pub(crate) stack: AwsStack,
    config: SdkConfig,
    indexed: bool,
}

/// A way to the account, direct or over a wire.
#[derive(Clone)]
pub(crate) struct Access {
    config: SdkConfig,
}

impl Access {
    /// The SDK's client as it comes.
    pub(crate) fn bare(&self) -> Client {
        Client::new(&self.config)
    }

    /// Millrace's clients.
    pub(crate) fn aws(&self) -> Aws {
        Aws::new(self.config.clone(), millrace_local::ATTEMPT_TIMEOUT)
    }

    /// The same account by another address.
    pub(crate) fn by(&self, url: &str) -> Self {
        Self { config: self.config.clone().into_builder().endpoint_url(url).build() }
    }
}

impl Site {
    /// Deploys everything; Millrace's event store with its index by event type or without.
    pub(crate) async fn new(event_type_index: bool) -> anyhow::Result<Self> {
        let stack = aws_stack_with(&StackOptions { event_type_index, ..StackOptions::default() }).await?;
        let config = stack.account.sdk_config().await;
        let site = Self { stack, config, indexed: event_type_index };
        let client = site.access().bare();
        create(
            &client,
            RECIPE_EVENTS,
            &[("AggregateId", 'S'), ("Version", 'N')],
            Some(recipe_index()?),
            true,
        )
        .await?;
        create(
            &client,
            CQRS_EVENTS,
            &[("AggregateTypeAndId", 'S'), ("AggregateIdSequence", 'N')],
            None,
            false,
        )
        .await?;
        create(&client, CQRS_SNAPSHOTS, &[("AggregateTypeAndId", 'S')], None, false).await?;
        create(&client, ADAPTER_JOURNAL, &[("aid", 'S'), ("seq_nr", 'N')], None, false).await?;
        create(&client, ADAPTER_HEADS, &[("aid", 'S')], None, false).await?;
        let history = index(ADAPTER_HISTORY_INDEX, &["aid", "active_history_seq_nr"])?;
        let history = (history, vec![("active_history_seq_nr", 'N')]);
        create(&client, ADAPTER_SNAPSHOTS, &[("aid", 'S'), ("skey", 'N')], Some(history), false).await?;
        Ok(site)
    }

    /// The direct way.
    pub(crate) fn access(&self) -> Access {
        Access { config: self.config.clone() }
    }

    /// Millrace's event store by some way.
    pub(crate) fn store(&self, access: &Access) -> DynamoStore {
        let tables = Tables {
            events: self.stack.events(),
            unique_keys: self.stack.unique_keys(),
            snapshots: self.stack.snapshots(),
        };
        DynamoStore::new(access.aws().dynamodb(), tables, self.indexed.then_some(SHARDS))
    }
}

type Attributes<'a> = [(&'a str, char)];

fn recipe_index() -> anyhow::Result<(GlobalSecondaryIndex, Vec<(&'static str, char)>)> {
    let by_type = index("EventType-Timestamp-index", &["EventType", "Timestamp"])?;
    Ok((by_type, vec![("EventType", 'S'), ("Timestamp", 'S')]))
}

fn index(name: &str, keys: &[&str]) -> anyhow::Result<GlobalSecondaryIndex> {
    let all = Projection::builder().projection_type(ProjectionType::All).build();
    let index = GlobalSecondaryIndex::builder().index_name(name).projection(all);
    Ok(index.set_key_schema(Some(schema(keys)?)).build()?)
}

fn schema(keys: &[&str]) -> anyhow::Result<Vec<KeySchemaElement>> {
    let kinds = [KeyType::Hash, KeyType::Range];
    let elements = keys
        .iter()
        .zip(kinds)
        .map(|(name, kind)| Ok(KeySchemaElement::builder().attribute_name(*name).key_type(kind).build()?));
    elements.collect()
}

async fn create(
    client: &Client,
    table: &str,
    keys: &Attributes<'_>,
    index: Option<(GlobalSecondaryIndex, Vec<(&'static str, char)>)>,
    stream: bool,
) -> anyhow::Result<()> {
    let (index, of_index) = index.unzip();
    let attributes = keys.iter().copied().chain(of_index.into_iter().flatten()).map(|(name, kind)| {
        let kind = if kind == 'N' { ScalarAttributeType::N } else { ScalarAttributeType::S };
        Ok(AttributeDefinition::builder().attribute_name(name).attribute_type(kind).build()?)
    });
    let names: Vec<_> = keys.iter().map(|(name, _)| *name).collect();
    let images = StreamSpecification::builder()
        .stream_enabled(true)
        .stream_view_type(StreamViewType::NewImage)
        .build()?;
    client
        .create_table()
        .table_name(table)
        .billing_mode(BillingMode::PayPerRequest)
        .set_key_schema(Some(schema(&names)?))
        .set_attribute_definitions(Some(attributes.collect::<anyhow::Result<_>>()?))
        .set_global_secondary_indexes(index.map(|index| vec![index]))
        .set_stream_specification(stream.then_some(images))
        .send()
        .await
        .with_context(|| format!("creating the table {table}"))?;
    Ok(())
}
