//! Everything that production has in AWS, from the same template.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use aws_config::SdkConfig;
use aws_sdk_cloudformation::{
    Client,
    error::{DisplayErrorContext, ProvideErrorMetadata},
    types::{Capability, Parameter, Stack as Description, StackStatus},
};

use crate::LocalError;

const TEMPLATE: &str = include_str!("../../../infra/template.yaml");

const PATIENCE: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(25);

/// As the template's default.
const ARCHIVE_RETENTION_DAYS: i32 = 30;

/// What a stack is made with; the rest is the template's defaults.
#[derive(Clone, Debug)]
pub struct StackOptions {
    /// Names the stack and begins the name of each of its resources.
    pub prefix: String,
    /// The `Source` of the events.
    pub event_source: String,
    /// Whether the event store has its index by event type.
    pub event_type_index: bool,
    /// Partitions of each hot index key.
    pub index_shards: u16,
    /// Deliveries of a message before it moves to the dead-letter queue.
    pub max_receive_count: u16,
    /// Seconds that a received message stays hidden.
    pub queue_visibility_seconds: u16,
}

impl Default for StackOptions {
    fn default() -> Self {
        Self {
            prefix: "millrace".to_owned(),
            event_source: "millrace".to_owned(),
            event_type_index: true,
            index_shards: 4,
            max_receive_count: 20,
            queue_visibility_seconds: 30,
        }
    }
}

impl StackOptions {
    fn parameters(&self) -> Vec<Parameter> {
        [
            ("NamePrefix", self.prefix.clone()),
            ("EventSource", self.event_source.clone()),
            ("ArchiveRetentionDays", ARCHIVE_RETENTION_DAYS.to_string()),
            // MiniStack's CloudFormation does not know AWS::Events::Archive: see `create_archive`.
            ("DeployArchive", "false".to_owned()),
            // Nor alarms over several metrics.
            ("DeployMathAlarms", "false".to_owned()),
            ("DeployEventTypeIndex", self.event_type_index.to_string()),
            ("IndexShards", self.index_shards.to_string()),
            ("MaxReceiveCount", self.max_receive_count.to_string()),
            ("QueueVisibilitySeconds", self.queue_visibility_seconds.to_string()),
        ]
        .map(|(key, value)| Parameter::builder().parameter_key(key).parameter_value(value).build())
        .into()
    }
}

/// A deployed stack.
#[derive(Clone, Debug)]
pub struct Stack {
    name: String,
    outputs: BTreeMap<String, String>,
}

impl Stack {
    /// Creates the stack, or brings one of that name up to date, and returns when it is complete.
    ///
    /// # Errors
    /// If CloudFormation refuses the template or a resource, or cannot be reached.
    pub async fn deploy(config: &SdkConfig, options: &StackOptions) -> Result<Self, LocalError> {
        let client = Client::new(config);
        let name = &options.prefix;
        create_or_update(&client, name, options).await?;
        let description = complete(&client, name).await?;

        let endpoint = config.endpoint_url().unwrap_or_default();
        let outputs: BTreeMap<_, _> = description
            .outputs()
            .iter()
            .filter_map(|output| Some((output.output_key()?.to_owned(), output.output_value()?.to_owned())))
            .map(|(key, value)| {
                let value = if key.ends_with("QueueUrl") { reached_by(endpoint, &value) } else { value };
                (key, value)
            })
            .collect();
        let stack = Self { name: name.clone(), outputs };
        create_archive(config, stack.output("EventBusName")?).await?;
        Ok(stack)
    }

    /// The template's outputs by their names.
    #[must_use]
    pub fn outputs(&self) -> &BTreeMap<String, String> {
        &self.outputs
    }

    /// One of the template's outputs.
    ///
    /// # Errors
    /// If the template has none of that name.
    pub fn output(&self, name: &str) -> Result<&str, LocalError> {
        self.outputs
            .get(name)
            .map(String::as_str)
            .ok_or_else(|| LocalError::NoOutput { stack: self.name.clone(), output: name.to_owned() })
    }

    /// The outputs as the environment variables of the deployables: `EventStoreTable` is
    /// `EVENT_STORE_TABLE`.
    #[must_use]
    pub fn env(&self) -> BTreeMap<String, String> {
        self.outputs.iter().map(|(name, value)| (variable(name), value.clone())).collect()
    }
}

async fn create_or_update(client: &Client, name: &str, options: &StackOptions) -> Result<(), LocalError> {
    let created = client
        .create_stack()
        .stack_name(name)
        .template_body(TEMPLATE)
        .set_parameters(Some(options.parameters()))
        // The policies have names.
        .capabilities(Capability::CapabilityNamedIam)
        .send()
        .await;
    match created {
        Ok(_) => return Ok(()),
        Err(error) if error.code() == Some("AlreadyExistsException") => {}
        Err(error) => return Err(failed("CreateStack", &error)),
    }

    let updated = client
        .update_stack()
        .stack_name(name)
        .template_body(TEMPLATE)
        .set_parameters(Some(options.parameters()))
        // The policies have names.
        .capabilities(Capability::CapabilityNamedIam)
        .send()
        .await;
    match updated {
        Ok(_) => Ok(()),
        // CloudFormation tells this case only by its message, to which its own tools hold as well.
        Err(error)
            if error.message().is_some_and(|message| message.contains("No updates are to be performed")) =>
        {
            Ok(())
        }
        Err(error) => Err(failed("UpdateStack", &error)),
    }
}

/// Waits for the end of a creation or an update.
async fn complete(client: &Client, name: &str) -> Result<Description, LocalError> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let described = client
            .describe_stacks()
            .stack_name(name)
            .send()
            .await
            .map_err(|error| failed("DescribeStacks", &error))?;
        let description = described.stacks.unwrap_or_default().into_iter().next();
        let status = description.as_ref().and_then(Description::stack_status).cloned();
        let reason = match (description, status) {
            (Some(description), Some(StackStatus::CreateComplete | StackStatus::UpdateComplete)) => {
                return Ok(description);
            }
            (_, Some(status)) if !status.as_str().ends_with("_IN_PROGRESS") => {
                format!("{}; {}", status.as_str(), reasons(client, name).await)
            }
            (_, status) if Instant::now() >= deadline => {
                format!("it was still {status:?} after {PATIENCE:?}")
            }
            _ => {
                tokio::time::sleep(POLL).await;
                continue;
            }
        };
        return Err(LocalError::Deploy { stack: name.to_owned(), reason });
    }
}

/// What the failed resources say for themselves.
async fn reasons(client: &Client, name: &str) -> String {
    let events = match client.describe_stack_events().stack_name(name).send().await {
        Ok(events) => events,
        Err(error) => return failed("DescribeStackEvents", &error).to_string(),
    };
    let reasons: Vec<String> = events
        .stack_events()
        .iter()
        .filter(|event| event.resource_status().is_some_and(|status| status.as_str().ends_with("_FAILED")))
        .map(|event| {
            format!(
                "{}: {}",
                event.logical_resource_id().unwrap_or_default(),
                event.resource_status_reason().unwrap_or("no reason given")
            )
        })
        .collect();
    reasons.join("; ")
}

/// Adds the archive, which the template cannot create where CloudFormation lacks it.
async fn create_archive(config: &SdkConfig, bus: &str) -> Result<(), LocalError> {
    let client = aws_sdk_eventbridge::Client::new(config);
    let described = client
        .describe_event_bus()
        .name(bus)
        .send()
        .await
        .map_err(|error| failed("DescribeEventBus", &error))?;
    let created = client
        .create_archive()
        .archive_name(bus)
        .event_source_arn(described.arn().unwrap_or_default())
        .retention_days(ARCHIVE_RETENTION_DAYS)
        .send()
        .await;
    match created {
        Ok(_) => Ok(()),
        Err(error)
            if error.as_service_error().is_some_and(|error| error.is_resource_already_exists_exception()) =>
        {
            Ok(())
        }
        Err(error) => Err(failed("CreateArchive", &error)),
    }
}

fn failed(request: &'static str, error: &(impl std::error::Error + Send + Sync)) -> LocalError {
    LocalError::Aws { request, reason: DisplayErrorContext(error).to_string() }
}

/// The URL of a queue as this run reaches it: a stack whose data were kept still names the port of the run
/// that created it.
fn reached_by(endpoint: &str, queue_url: &str) -> String {
    let path = queue_url.split_once("://").and_then(|(_, rest)| rest.split_once('/'));
    match path {
        Some((_, path)) if !endpoint.is_empty() => format!("{}/{path}", endpoint.trim_end_matches('/')),
        _ => queue_url.to_owned(),
    }
}

/// `EventStoreTable` becomes `EVENT_STORE_TABLE`.
fn variable(output: &str) -> String {
    let mut name = String::new();
    for letter in output.chars() {
        if letter.is_ascii_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(letter.to_ascii_uppercase());
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_become_environment_variables() {
        assert_eq!(variable("EventStoreTable"), "EVENT_STORE_TABLE");
        assert_eq!(variable("UserQueueUrl"), "USER_QUEUE_URL");
        assert_eq!(variable("IndexShards"), "INDEX_SHARDS");
    }

    #[test]
    fn queue_urls_follow_the_endpoint() {
        let endpoint = "http://127.0.0.1:5000";
        assert_eq!(reached_by(endpoint, "http://127.0.0.1:4000/1/queue"), "http://127.0.0.1:5000/1/queue");
        assert_eq!(reached_by("", "http://127.0.0.1:4000/1/queue"), "http://127.0.0.1:4000/1/queue");
        assert_eq!(reached_by(endpoint, "queue"), "queue");
    }

    /// CloudFormation API Reference, `CreateStack`: a larger one has to be put into S3 first.
    #[test]
    fn the_template_is_small_enough_to_be_sent() {
        assert!(TEMPLATE.len() <= 51_200, "{} bytes", TEMPLATE.len());
    }

    /// The emulator ignores these properties, so the deployed tables cannot show them.
    #[test]
    fn data_that_cannot_be_made_again_are_kept_and_recoverable() {
        for table in ["EventStoreTable", "UniqueKeyTable", "RelayLeaseTable"] {
            let (_, rest) = TEMPLATE.split_once(&format!("\n  {table}:\n")).unwrap();
            let (resource, _) = rest.split_once("\n\n").unwrap();
            for property in [
                "DeletionPolicy: Retain",
                "UpdateReplacePolicy: Retain",
                "PointInTimeRecoveryEnabled: true",
                "DeletionProtectionEnabled: true",
            ] {
                assert!(resource.contains(property), "{table} lacks {property}");
            }
        }
    }
}
