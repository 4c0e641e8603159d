//! Requests to the emulator that no SDK is worth compiling for: CloudFormation's alone takes as long as ten other crates.

use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt as _, Full};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::Value;

use crate::{Account, LocalError, account::REGION};

/// An account's control plane.
#[derive(Debug, Clone)]
pub(crate) struct Api<'a> {
    account: &'a Account,
    client: Client<HttpConnector, Full<Bytes>>,
}

/// A request that was answered with an error, or not at all.
#[derive(Debug, Default)]
pub(crate) struct ApiError {
    /// The error's code, such as `AlreadyExistsException`; empty where there was no answer.
    pub(crate) code: String,
    pub(crate) message: String,
}

impl ApiError {
    /// Which request it was.
    pub(crate) fn of(self, request: &'static str) -> LocalError {
        let reason =
            if self.code.is_empty() { self.message } else { format!("{}: {}", self.code, self.message) };
        LocalError::Aws { request, reason }
    }

    fn unanswered(error: impl std::error::Error) -> Self {
        let mut message = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            message += &format!(": {cause}");
            source = cause.source();
        }
        Self { code: String::new(), message }
    }
}

impl<'a> Api<'a> {
    pub(crate) fn new(account: &'a Account) -> Self {
        Self { account, client: Client::builder(TokioExecutor::new()).build_http() }
    }

    /// A request of CloudFormation, whose protocol is that of forms; its reply is XML.
    pub(crate) async fn cloudformation(
        &self,
        action: &str,
        fields: &[(String, String)],
    ) -> Result<String, ApiError> {
        let mut form = format!("Action={action}&Version=2010-05-15");
        for (name, value) in fields {
            form += &format!("&{name}={}", form_encoded(value));
        }
        let request = self.request("cloudformation", "application/x-www-form-urlencoded");
        let (succeeded, reply) = self.send(request, form).await?;
        if succeeded {
            return Ok(reply);
        }
        let field = |name| texts(&reply, name).next().unwrap_or_default();
        Err(ApiError { code: field("Code"), message: field("Message") })
    }

    /// A request of EventBridge, in JSON.
    pub(crate) async fn events(&self, action: &str, body: &Value) -> Result<Value, ApiError> {
        let request = self
            .request("events", "application/x-amz-json-1.1")
            .header("x-amz-target", format!("AWSEvents.{action}"));
        let (succeeded, reply) = self.send(request, body.to_string()).await?;
        let reply: Value = serde_json::from_str(&reply).map_err(ApiError::unanswered)?;
        if succeeded {
            return Ok(reply);
        }
        let field = |name| reply[name].as_str().unwrap_or_default().to_owned();
        let code = field("__type");
        Err(ApiError {
            code: code.rsplit('#').next().unwrap_or_default().to_owned(),
            message: field("message"),
        })
    }

    /// An emulator takes account, region and service from the scope of a signature, which it does not verify.
    fn request(&self, service: &str, content_type: &str) -> http::request::Builder {
        let scope = format!("{}/20260101/{REGION}/{service}/aws4_request", self.account.access_key_id());
        Request::post(self.account.endpoint()).header(header::CONTENT_TYPE, content_type).header(
            header::AUTHORIZATION,
            format!("AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host, Signature={:064}", 0),
        )
    }

    /// Returns whether the request succeeded, and the reply.
    async fn send(&self, request: http::request::Builder, body: String) -> Result<(bool, String), ApiError> {
        let request = request.body(Full::from(body)).map_err(ApiError::unanswered)?;
        let reply = self.client.request(request).await.map_err(ApiError::unanswered)?;
        let succeeded = reply.status().is_success();
        let body = reply.into_body().collect().await.map_err(ApiError::unanswered)?.to_bytes();
        Ok((succeeded, String::from_utf8_lossy(&body).into_owned()))
    }
}

fn form_encoded(value: &str) -> String {
    let mut encoded = String::with_capacity(value.len());
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded += &format!("%{byte:02X}");
        }
    }
    encoded
}

/// The texts of all elements of a name, in their order. Enough for replies whose elements have no attributes.
pub(crate) fn texts<'a>(xml: &'a str, element: &str) -> impl Iterator<Item = String> + 'a {
    let (start, end) = (format!("<{element}>"), format!("</{element}>"));
    let mut rest = xml;
    std::iter::from_fn(move || {
        let (_, after) = rest.split_once(&start)?;
        let (text, after) = after.split_once(&end)?;
        rest = after;
        Some(unescaped(text))
    })
}

fn unescaped(text: &str) -> String {
    let entities =
        [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&apos;", "'"), ("&#x27;", "'"), ("&amp;", "&")];
    entities.iter().fold(text.trim().to_owned(), |text, (entity, character)| text.replace(entity, character))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_holds_any_text() {
        assert_eq!(form_encoded("a-b_c.d~"), "a-b_c.d~");
        assert_eq!(form_encoded("a b&c=ä\n"), "a%20b%26c%3D%C3%A4%0A");
    }

    #[test]
    fn texts_of_elements_are_found_and_unescaped() {
        let xml = "<a><Key>x</Key>\n<Key>a &amp;lt; &lt;b&gt;</Key><Keys>no</Keys></a>";
        assert_eq!(texts(xml, "Key").collect::<Vec<_>>(), ["x", "a &lt; <b>"]);
        assert_eq!(texts("<Key>open", "Key").count(), 0);
    }
}
