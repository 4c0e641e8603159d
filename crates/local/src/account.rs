//! An AWS account of one's own in an emulator.

use std::{collections::BTreeMap, env, time::Duration};

use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::Credentials;
use tokio::sync::OnceCell;

use crate::{Emulator, LocalError};

pub(crate) const REGION: &str = "us-east-1";
/// The emulator's default account: it is also the one that any other credentials lead to.
const DEFAULT_ACCOUNT: &str = "000000000000";
/// The emulator checks no signatures.
const SECRET: &str = "local";

/// The longest that one attempt of a call to the local AWS may take. An emulator on a busy laptop is slow, not lost.
pub const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(20);

/// An account at an endpoint. Accounts see nothing of each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    endpoint: String,
    access_key_id: String,
    secret_access_key: String,
}

impl Account {
    /// An account that no one else uses: its access key id of twelve random digits is its number, too.
    #[must_use]
    pub fn unique(endpoint: &str) -> Self {
        let number = rand::random_range(100_000_000_000_u64..1_000_000_000_000);
        Self::new(endpoint, &number.to_string(), SECRET)
    }

    /// The account of the credentials in the environment, else the emulator's default account.
    #[must_use]
    pub fn of_env(endpoint: &str) -> Self {
        match (env::var("AWS_ACCESS_KEY_ID"), env::var("AWS_SECRET_ACCESS_KEY")) {
            (Ok(id), Ok(secret)) => Self::new(endpoint, &id, &secret),
            _ => Self::default_of(endpoint),
        }
    }

    /// The emulator's default account, the same in every run.
    #[must_use]
    pub fn default_of(endpoint: &str) -> Self {
        Self::new(endpoint, DEFAULT_ACCOUNT, SECRET)
    }

    /// The endpoint.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    pub(crate) fn access_key_id(&self) -> &str {
        &self.access_key_id
    }

    fn new(endpoint: &str, access_key_id: &str, secret_access_key: &str) -> Self {
        Self {
            endpoint: endpoint.to_owned(),
            access_key_id: access_key_id.to_owned(),
            secret_access_key: secret_access_key.to_owned(),
        }
    }

    /// The configuration of every AWS client.
    pub async fn sdk_config(&self) -> SdkConfig {
        let credentials =
            Credentials::new(&self.access_key_id, &self.secret_access_key, None, None, "millrace-local");
        aws_config::defaults(BehaviorVersion::latest())
            .region(Region::from_static(REGION))
            .credentials_provider(credentials)
            .endpoint_url(&self.endpoint)
            .load()
            .await
    }

    /// The same for other processes: the environment variables that every AWS SDK reads, and the time that the deployables
    /// give an attempt.
    #[must_use]
    pub fn env(&self) -> BTreeMap<String, String> {
        [
            ("AWS_ENDPOINT_URL", self.endpoint.as_str()),
            ("AWS_REGION", REGION),
            ("AWS_ACCESS_KEY_ID", &self.access_key_id),
            ("AWS_SECRET_ACCESS_KEY", &self.secret_access_key),
            ("AWS_ATTEMPT_TIMEOUT_MS", &ATTEMPT_TIMEOUT.as_millis().to_string()),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into()
    }
}

/// The endpoint to use instead of an own emulator.
#[must_use]
pub fn endpoint_from_env() -> Option<String> {
    env::var("AWS_ENDPOINT_URL").ok().filter(|url| !url.is_empty())
}

/// A new account for one test, in `AWS_ENDPOINT_URL` or else in the shared emulator, which this process then
/// uses until it ends.
///
/// # Errors
/// If the emulator cannot be installed or does not come up.
pub async fn test_account() -> Result<Account, LocalError> {
    static EMULATOR: OnceCell<Emulator> = OnceCell::const_new();

    if let Some(endpoint) = endpoint_from_env() {
        return Ok(Account::unique(&endpoint));
    }
    let emulator = EMULATOR.get_or_try_init(Emulator::shared).await?;
    Ok(Account::unique(emulator.endpoint()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unique_account_is_a_twelve_digit_number_of_its_own() {
        let endpoint = "http://127.0.0.1:1";
        let account = Account::unique(endpoint);
        assert_eq!(account.access_key_id.len(), 12);
        assert!(account.access_key_id.bytes().all(|byte| byte.is_ascii_digit()));
        assert!(!account.access_key_id.starts_with('0'));
        assert_ne!(account, Account::unique(endpoint));
    }

    #[test]
    fn other_processes_get_the_account_by_the_variables_of_the_sdk() {
        let env = Account::default_of("http://127.0.0.1:1").env();
        assert_eq!(env["AWS_ENDPOINT_URL"], "http://127.0.0.1:1");
        assert_eq!(env["AWS_REGION"], "us-east-1");
        assert_eq!(env["AWS_ACCESS_KEY_ID"], "000000000000");
        assert_eq!(env["AWS_SECRET_ACCESS_KEY"], "local");
    }

    #[tokio::test]
    async fn the_sdk_is_led_to_the_account() {
        use aws_credential_types::provider::ProvideCredentials;

        let account = Account::unique("http://127.0.0.1:1");
        let config = account.sdk_config().await;
        assert_eq!(config.endpoint_url(), Some("http://127.0.0.1:1"));
        let credentials = config.credentials_provider().unwrap().provide_credentials().await.unwrap();
        assert_eq!(credentials.access_key_id(), account.access_key_id);
    }
}
