//! Reflection: a server shows exactly the contracts of its services.

use tonic_reflection::{
    pb::{v1, v1alpha},
    server::Builder,
};

use crate::{Services, bounded, identity::rules::Need};

/// The callers who see the contracts by reflection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Reflection {
    /// Everybody.
    Open,
    /// Callers with a valid token, of any tenant and scope; everybody where callers are not authenticated.
    #[default]
    Token,
    /// Nobody: it is not served.
    Off,
}

/// The contracts of reflection itself, in the two versions that clients use.
pub(crate) const CONTRACTS: [&[u8]; 2] = [v1::FILE_DESCRIPTOR_SET, v1alpha::FILE_DESCRIPTOR_SET];

impl Reflection {
    /// The names of reflection's own services.
    pub(crate) fn names(self) -> &'static [&'static str] {
        match self {
            Self::Open | Self::Token => {
                &[v1::server_reflection_server::SERVICE_NAME, v1alpha::server_reflection_server::SERVICE_NAME]
            }
            Self::Off => &[],
        }
    }

    /// The permission that a call of reflection needs.
    pub(crate) fn need(self) -> Need {
        match self {
            Self::Open => Need::Nothing,
            Self::Token | Self::Off => Need::Token,
        }
    }

    /// The services, and reflection on those that are named.
    pub(crate) fn add_to(
        self,
        services: Services,
        names: &[&str],
        contracts: &[&[u8]],
    ) -> anyhow::Result<Services> {
        if self == Self::Off {
            return Ok(services);
        }
        let builder = || {
            let empty = Builder::configure().include_reflection_service(false);
            let all =
                contracts.iter().fold(empty, |all, some| all.register_encoded_file_descriptor_set(some));
            names.iter().fold(all, |all, name| all.with_service_name(*name))
        };
        let (v1, v1alpha) = (builder().build_v1()?, builder().build_v1alpha()?);
        Ok(services.and(bounded!(v1)).and(bounded!(v1alpha)))
    }
}
