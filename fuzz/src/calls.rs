//! Common parts of the calls to either service.

use arbitrary::{Arbitrary as _, Result, Unstructured};
use millrace_server::failure::MAX_VIOLATIONS;
use prost::Message;
use tonic::{Code, Request, Response, Status, metadata::MetadataValue};
use tonic_types::StatusExt as _;

/// The caller by the call's metadata.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Caller {
    Nobody,
    Tenant(Vec<u8>),
    Twice,
}

impl Caller {
    pub(crate) fn any(u: &mut Unstructured<'_>) -> Result<Self> {
        Ok(match u.int_in_range(0..=9)? {
            0 => Self::Nobody,
            1 => Self::Twice,
            2 => {
                let len = u.int_in_range(0..=70)?;
                Self::Tenant(u.bytes(len.min(u.len()))?.to_vec())
            }
            3..=5 => Self::Tenant(b"other".to_vec()),
            _ => Self::Tenant(b"acme".to_vec()),
        })
    }

    pub(crate) fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        match self {
            Self::Nobody => {}
            Self::Tenant(bytes) => {
                // No server passes an invalid header on.
                if let Ok(value) = MetadataValue::try_from(bytes.as_slice()) {
                    request.metadata_mut().insert("x-tenant-id", value);
                }
            }
            Self::Twice => {
                for tenant in ["acme", "acme"] {
                    request.metadata_mut().append("x-tenant-id", MetadataValue::from_static(tenant));
                }
            }
        }
        request
    }
}

/// A call's reply; `None` where it was refused as the caller's own fault.
pub(crate) fn answered<T: Message>(answer: std::result::Result<Response<T>, Status>) -> Option<T> {
    match answer {
        Ok(reply) => {
            let reply = reply.into_inner();
            assert!(reply.encoded_len() <= 4 << 20, "a reply that clients take");
            Some(reply)
        }
        Err(status) => {
            assert_refusal(&status);
            None
        }
    }
}

/// No input makes a service answer INTERNAL, and the bad field is named.
pub(crate) fn assert_refusal(status: &Status) {
    assert!(
        matches!(
            status.code(),
            Code::InvalidArgument
                | Code::NotFound
                | Code::AlreadyExists
                | Code::Aborted
                | Code::FailedPrecondition
                | Code::Unavailable
        ),
        "{status:?}"
    );
    let details = status.get_error_details();
    if status.code() == Code::InvalidArgument && details.error_info().is_none() {
        let bad = details.bad_request().expect("bad input names what is bad");
        assert!((1..=MAX_VIOLATIONS).contains(&bad.field_violations.len()), "{bad:?}");
    }
    assert!(status.details().len() < 8 << 10, "details fit into the headers that clients take");
}

/// A message of a request as a hostile client may send it: any bytes that are one.
pub(crate) fn message<M: Message + Default>(u: &mut Unstructured<'_>) -> Result<M> {
    let len = u.int_in_range(0..=400)?;
    let bytes = u.bytes(len.min(u.len()))?;
    // Bytes that are no message reach no service.
    M::decode(bytes).map_err(|_| arbitrary::Error::IncorrectFormat)
}

/// One of some texts, or any.
pub(crate) fn text(u: &mut Unstructured<'_>, likely: &[&str]) -> Result<String> {
    if u.ratio(3, 4)? {
        return Ok((*u.choose(likely)?).to_owned());
    }
    let (len, times) =
        (u.int_in_range(0..=40)?, if bool::arbitrary(u)? { 1 } else { u.int_in_range(1..=50)? });
    Ok(String::from_utf8_lossy(u.bytes(len.min(u.len()))?).repeat(times))
}

/// One of some numbers, or any.
pub(crate) fn number<N: Copy + for<'a> arbitrary::Arbitrary<'a>>(
    u: &mut Unstructured<'_>,
    likely: &[N],
) -> Result<N> {
    if u.ratio(3, 4)? { Ok(*u.choose(likely)?) } else { N::arbitrary(u) }
}
