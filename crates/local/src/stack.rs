//! Everything that production has in AWS, from the same templates.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use millrace_core::Application;
use millrace_infra::{Template, names};
use serde_json::json;

use crate::{
    Account, LocalError,
    api::{Api, texts},
    description,
};

const TIMEOUT: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(25);

/// As the templates' default.
const ARCHIVE_RETENTION_DAYS: u32 = 30;

/// The settings of a deployment; all others have the templates' defaults.
#[derive(Clone, Debug)]
pub struct StackOptions {
    /// The prefix of every name: the application's name if left out.
    pub prefix: Option<String>,
    /// The `Source` of the events: the application's name if left out.
    pub event_source: Option<String>,
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
            prefix: None,
            event_source: None,
            event_type_index: true,
            index_shards: 4,
            max_receive_count: 1000,
            queue_visibility_seconds: 8,
        }
    }
}

/// All that an application has in an account.
#[derive(Clone, Debug)]
pub struct Stack {
    prefix: String,
    outputs: BTreeMap<String, String>,
    env: BTreeMap<String, String>,
}

impl Stack {
    /// Deploys the application's templates, or updates an earlier deployment, and returns when it is complete.
    /// Policies and roles are left out: an emulator checks no permissions.
    ///
    /// # Errors
    /// If the application has no infrastructure that AWS would accept, if CloudFormation refuses a template or a
    /// resource, or if it cannot be reached.
    pub async fn deploy(
        account: &Account,
        application: &Application,
        options: &StackOptions,
    ) -> Result<Self, LocalError> {
        let api = Api::new(account);
        let templates = description(application).render()?;
        let prefix = options.prefix.clone().unwrap_or_else(|| application.name().to_owned());
        let parameters = options.parameters(&prefix, application.name());

        let mut outputs = BTreeMap::new();
        // Rules are attached to the bus, so the projections come after it.
        let shared = vec![&templates.data, &templates.application];
        for together in [shared, templates.projections.iter().collect()] {
            for template in &together {
                create_or_update(&api, &template.stack_name(&prefix), template, &parameters).await?;
            }
            for template in &together {
                outputs.extend(complete(&api, &template.stack_name(&prefix)).await?);
            }
        }
        create_archive(&api, &prefix).await?;
        for (name, value) in &mut outputs {
            if name.ends_with("QueueUrl") {
                *value = reached_by(account.endpoint(), value);
            }
        }
        let env = options.env(&prefix);
        Ok(Self { prefix, outputs, env })
    }

    /// The prefix of every name.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The outputs of all templates by their names.
    #[must_use]
    pub fn outputs(&self) -> &BTreeMap<String, String> {
        &self.outputs
    }

    /// One of the outputs.
    ///
    /// # Errors
    /// If there is none of that name.
    pub fn output(&self, name: &str) -> Result<&str, LocalError> {
        self.outputs
            .get(name)
            .map(String::as_str)
            .ok_or_else(|| LocalError::NoOutput { stack: self.prefix.clone(), output: name.to_owned() })
    }

    /// The deployables' environment: the prefix, from which all names follow, and every setting that differs from its
    /// default.
    #[must_use]
    pub fn env(&self) -> BTreeMap<String, String> {
        self.env.clone()
    }
}

impl StackOptions {
    /// The value of each parameter, for the templates that have it.
    fn parameters(&self, prefix: &str, application: &str) -> Vec<(&'static str, String)> {
        vec![
            ("Prefix", prefix.to_owned()),
            ("EventSource", self.event_source.clone().unwrap_or_else(|| application.to_owned())),
            ("ArchiveRetentionDays", ARCHIVE_RETENTION_DAYS.to_string()),
            // MiniStack's CloudFormation lacks AWS::Events::Archive: see `create_archive`.
            ("DeployArchive", "false".to_owned()),
            // Nor alarms over several metrics.
            ("DeployMathAlarms", "false".to_owned()),
            ("DeployEventTypeIndex", self.event_type_index.to_string()),
            ("IndexShards", self.index_shards.to_string()),
            ("MaxReceiveCount", self.max_receive_count.to_string()),
            ("QueueVisibilitySeconds", self.queue_visibility_seconds.to_string()),
        ]
    }

    fn env(&self, prefix: &str) -> BTreeMap<String, String> {
        let shards = self.index_shards.to_string();
        let other_shards = (self.index_shards != Self::default().index_shards).then_some(shards.as_str());
        let variables = [
            ("MILLRACE_PREFIX", Some(prefix)),
            ("EVENT_SOURCE", self.event_source.as_deref()),
            ("EVENT_TYPE_INDEX", (!self.event_type_index).then_some("off")),
            ("INDEX_SHARDS_WRITE", other_shards),
            ("INDEX_SHARDS_READ", other_shards),
        ];
        let given =
            variables.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned())));
        given.collect()
    }
}

async fn create_or_update(
    api: &Api<'_>,
    stack: &str,
    template: &Template,
    parameters: &[(&str, String)],
) -> Result<(), LocalError> {
    let mut fields = vec![
        ("StackName".to_owned(), stack.to_owned()),
        ("TemplateBody".to_owned(), template.body().to_owned()),
    ];
    let known = parameters.iter().filter(|(name, _)| template.parameters().contains(name));
    for (number, (name, value)) in (1..).zip(known) {
        fields.push((format!("Parameters.member.{number}.ParameterKey"), (*name).to_owned()));
        fields.push((format!("Parameters.member.{number}.ParameterValue"), value.clone()));
    }
    match api.cloudformation("CreateStack", &fields).await {
        Ok(_) => return Ok(()),
        Err(error) if error.code == "AlreadyExistsException" => {}
        Err(error) => return Err(error.of("CreateStack")),
    }
    match api.cloudformation("UpdateStack", &fields).await {
        Ok(_) => Ok(()),
        // Only the message identifies this case; CloudFormation's own tools compare it as well.
        Err(error) if error.message.contains("No updates are to be performed") => Ok(()),
        Err(error) => Err(error.of("UpdateStack")),
    }
}

/// Waits for the end of a creation or an update, and returns the outputs.
async fn complete(api: &Api<'_>, stack: &str) -> Result<BTreeMap<String, String>, LocalError> {
    let deadline = Instant::now() + TIMEOUT;
    let name = [("StackName".to_owned(), stack.to_owned())];
    loop {
        let described = api.cloudformation("DescribeStacks", &name).await;
        let described = described.map_err(|error| error.of("DescribeStacks"))?;
        let status = texts(&described, "StackStatus").next().unwrap_or_default();
        let reason = match status.as_str() {
            "CREATE_COMPLETE" | "UPDATE_COMPLETE" => {
                return Ok(texts(&described, "OutputKey").zip(texts(&described, "OutputValue")).collect());
            }
            status if !status.ends_with("_IN_PROGRESS") => format!("{status}; {}", reasons(api, &name).await),
            status if Instant::now() >= deadline => format!("it was still {status} after {TIMEOUT:?}"),
            _ => {
                tokio::time::sleep(POLL).await;
                continue;
            }
        };
        return Err(LocalError::Deploy { stack: stack.to_owned(), reason });
    }
}

/// The reasons that the failed resources give.
async fn reasons(api: &Api<'_>, name: &[(String, String)]) -> String {
    let events = match api.cloudformation("DescribeStackEvents", name).await {
        Ok(events) => events,
        Err(error) => return error.of("DescribeStackEvents").to_string(),
    };
    let field = |event: &str, name| texts(event, name).next();
    let failed = texts(&events, "member")
        .filter(|event| field(event, "ResourceStatus").is_some_and(|status| status.ends_with("_FAILED")))
        .map(|event| {
            let reason =
                field(&event, "ResourceStatusReason").unwrap_or_else(|| "no reason given".to_owned());
            format!("{}: {reason}", field(&event, "LogicalResourceId").unwrap_or_default())
        });
    failed.collect::<Vec<_>>().join("; ")
}

/// Adds the archive, which the template cannot create where CloudFormation lacks it.
async fn create_archive(api: &Api<'_>, prefix: &str) -> Result<(), LocalError> {
    let bus = json!({ "Name": names::bus(prefix) });
    let bus = api.events("DescribeEventBus", &bus).await.map_err(|error| error.of("DescribeEventBus"))?;
    let archive = json!({
        "ArchiveName": names::archive(prefix),
        "EventSourceArn": bus["Arn"],
        "RetentionDays": ARCHIVE_RETENTION_DAYS,
    });
    match api.events("CreateArchive", &archive).await {
        Ok(_) => Ok(()),
        Err(error) if error.code == "ResourceAlreadyExistsException" => Ok(()),
        Err(error) => Err(error.of("CreateArchive")),
    }
}

/// The URL of a queue as this run reaches it: a stack whose data were kept still names the port of the run
/// that created it.
fn reached_by(endpoint: &str, queue_url: &str) -> String {
    let path = queue_url.split_once("://").and_then(|(_, rest)| rest.split_once('/'));
    match path {
        Some((_, path)) => format!("{}/{path}", endpoint.trim_end_matches('/')),
        None => queue_url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use millrace_infra::ProjectionResources;

    use super::*;

    #[test]
    fn queue_urls_follow_the_endpoint() {
        let endpoint = "http://127.0.0.1:5000";
        assert_eq!(reached_by(endpoint, "http://127.0.0.1:4000/1/queue"), "http://127.0.0.1:5000/1/queue");
        assert_eq!(reached_by(endpoint, "queue"), "queue");
    }

    #[test]
    fn the_environment_says_nothing_but_the_prefix_where_all_is_as_by_default() {
        let names = |options: StackOptions| options.env("shop-1").into_keys().collect::<Vec<_>>();
        assert_eq!(names(StackOptions::default()), ["MILLRACE_PREFIX"]);
        let other = StackOptions {
            event_source: Some("other".to_owned()),
            event_type_index: false,
            index_shards: 9,
            ..StackOptions::default()
        };
        assert_eq!(
            names(other),
            [
                "EVENT_SOURCE",
                "EVENT_TYPE_INDEX",
                "INDEX_SHARDS_READ",
                "INDEX_SHARDS_WRITE",
                "MILLRACE_PREFIX"
            ]
        );
    }

    /// A real account has parts that the local stack lacks: policies, roles, other capacity, alarms to a topic.
    #[tokio::test]
    async fn every_template_can_be_deployed_with_all_that_it_offers() {
        let projection = ProjectionResources::new("accounts", 1).source("account");
        let application = millrace_infra::Stack::new("bank").aggregate("account").projection(projection);
        let account = crate::test_account().await.unwrap();
        let api = Api::new(&account);
        let provider = "arn:aws:iam::111122223333:oidc-provider/oidc.eks.eu-west-1.amazonaws.com/id/0123";
        let mut parameters = StackOptions::default().parameters("bank", "bank");
        parameters.extend([
            ("BillingMode", "PROVISIONED".to_owned()),
            ("AlarmTopicArn", "arn:aws:sns:eu-west-1:111122223333:on-call".to_owned()),
            ("OidcProviderArn", provider.to_owned()),
        ]);

        let mut outputs = BTreeMap::new();
        for template in application.render().unwrap().in_order() {
            let stack = template.stack_name("bank");
            create_or_update(&api, &stack, template, &parameters).await.unwrap();
            outputs.extend(complete(&api, &stack).await.unwrap());
        }
        let roles: Vec<_> = outputs
            .iter()
            .filter(|(output, _)| output.ends_with("RoleArn"))
            .map(|(_, arn)| arn.rsplit('/').next().unwrap())
            .collect();
        let programs = ["audit", "command-service", "projector", "query-service", "redrive"];
        assert_eq!(roles, programs.map(|program| format!("bank-{program}")));
    }
}
