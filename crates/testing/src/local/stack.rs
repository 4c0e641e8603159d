//! An account with everything in it that an application has on AWS.

use std::collections::BTreeMap;

use millrace_aws::Aws;
use millrace_core::{Application, ProjectionName, names};
use millrace_local::{ATTEMPT_TIMEOUT, Account, LocalError, Stack, StackOptions, test_account};

/// An application's resources in an account of their own, by the templates of production.
#[derive(Debug, Clone)]
pub struct AwsStack {
    /// The application.
    pub application: Application,
    /// The account.
    pub account: Account,
    /// The stack that was deployed there.
    pub stack: Stack,
    index_shards: u16,
}

impl AwsStack {
    /// A new account of the local AWS, with the application's stacks.
    ///
    /// # Errors
    /// If the local AWS does not come up, or refuses a template.
    pub async fn new(application: &Application, options: &StackOptions) -> Result<Self, LocalError> {
        Self::deploy(application, test_account().await?, options).await
    }

    /// The application's stacks in an account.
    ///
    /// # Errors
    /// If a template is refused.
    pub async fn deploy(
        application: &Application,
        account: Account,
        options: &StackOptions,
    ) -> Result<Self, LocalError> {
        let stack = Stack::deploy(&account, application, options).await?;
        Ok(Self { application: application.clone(), account, stack, index_shards: options.index_shards })
    }

    /// Access to the account, with a count of requests of its own.
    pub async fn aws(&self) -> Aws {
        Aws::new(self.account.sdk_config().await, ATTEMPT_TIMEOUT)
    }

    /// The endpoint of the account's AWS.
    pub fn endpoint(&self) -> &str {
        self.account.endpoint()
    }

    /// The environment of a deployable.
    pub fn env(&self) -> BTreeMap<String, String> {
        self.account.env().into_iter().chain(self.stack.env()).collect()
    }

    /// Over how many shards the keys of hot lists are spread.
    pub fn index_shards(&self) -> u16 {
        self.index_shards
    }

    /// The table of events.
    pub fn events(&self) -> String {
        names::events(self.stack.prefix())
    }

    /// The table of unique keys.
    pub fn unique_keys(&self) -> String {
        names::unique_keys(self.stack.prefix())
    }

    /// The table of snapshots.
    pub fn snapshots(&self) -> String {
        names::snapshots(self.stack.prefix())
    }

    /// The table of the relays' leases.
    pub fn relay_leases(&self) -> String {
        names::relay_leases(self.stack.prefix())
    }

    /// The table of jobs.
    pub fn jobs(&self) -> String {
        names::jobs(self.stack.prefix())
    }

    /// The event bus.
    pub fn bus(&self) -> String {
        names::bus(self.stack.prefix())
    }

    /// The table of a projection's rows.
    pub fn rows(&self, projection: ProjectionName) -> String {
        names::table(self.stack.prefix(), &projection.id())
    }

    /// The URL of a projection's queue.
    pub fn queue(&self, projection: ProjectionName) -> String {
        self.queue_url(&names::queue(self.stack.prefix(), &projection.id()))
    }

    /// The URL of the queue that has a projection's dead letters.
    pub fn dead_letters(&self, projection: ProjectionName) -> String {
        self.queue_url(&names::dead_letter_queue(self.stack.prefix(), &projection.id()))
    }

    /// The URL of the queue with the events that the bus could not deliver.
    pub fn undelivered(&self) -> String {
        self.queue_url(&format!("{}-undelivered", self.stack.prefix()))
    }

    /// The emulator's URLs name the account, which is the access key's id.
    fn queue_url(&self, queue: &str) -> String {
        let env = self.account.env();
        let account = env.get("AWS_ACCESS_KEY_ID").map_or("", String::as_str);
        format!("{}/{account}/{queue}", self.endpoint().trim_end_matches('/'))
    }
}
