//! The outcome of an append in its span.

use std::time::Duration;

use millrace_telemetry::{testing::Heard, within};
use tokio::time::timeout;

use crate::support::{Lossy, replica, user};

/// The error type of each append in the trace, in the order in which they ended.
fn failures(heard: Heard) -> Vec<Option<String>> {
    let spans = heard.spans();
    let appends = spans.iter().filter(|span| span.name == "append user");
    let failure = appends.map(|span| span.attributes.iter().find(|known| known.key.as_str() == "error.type"));
    failure.map(|failure| failure.map(|of| of.value.to_string())).collect()
}

#[tokio::test(start_paused = true)]
async fn an_append_whose_end_nobody_saw_is_not_told_as_a_success() {
    let heard = Heard::begin();
    let store = Lossy { latency: Duration::from_secs(10), ..Lossy::default() };
    let service = replica(&store);
    let create = || within(heard.root(), service.create_user(user("john@example.com", "a")));
    timeout(Duration::from_secs(1), create()).await.expect_err("its caller leaves");
    assert_eq!(failures(heard), [Some("cancelled".to_owned())]);
    create().await.unwrap();
    assert_eq!(failures(heard), [Some("cancelled".to_owned()), None]);
}
