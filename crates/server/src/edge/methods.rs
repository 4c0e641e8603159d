//! The calls of a server.

use std::{collections::HashMap, sync::Arc};

use anyhow::{Context as _, ensure};
use prost::Message as _;
use prost_types::FileDescriptorSet;

use crate::identity::rules::Need;

/// The path of all calls without a contract, in logs and metrics.
pub(super) const UNKNOWN: &str = "unknown";

/// The form of a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// One message.
    Message,
    /// A stream of messages.
    Stream,
}

/// A method of a server.
#[derive(Debug)]
pub(super) struct Method {
    /// Its path, such as `/grpc.health.v1.Health/Check`.
    pub(super) path: String,
    /// The form of its reply.
    pub(super) answer: Answer,
    /// The permission that a caller needs.
    pub(super) need: Need,
}

impl Method {
    /// Whether it is a probe.
    pub(super) fn is_health(&self) -> bool {
        self.path.starts_with("/grpc.health.")
    }

    /// Whether it is health or reflection, which look at the process and do no work.
    pub(super) fn is_about_the_process(&self) -> bool {
        self.path.starts_with("/grpc.")
    }
}

/// All methods of a server, by their paths.
pub(crate) struct Methods {
    known: HashMap<String, Arc<Method>>,
    unknown: Arc<Method>,
}

impl Methods {
    /// The methods of services, by their contracts: encoded descriptors.
    ///
    /// A call of any other path needs a token, so that only a known caller learns which services exist.
    ///
    /// # Errors
    /// A service without a contract: its calls would count as unknown.
    pub(crate) fn new(contracts: &[&[u8]], services: &[(&str, Need)]) -> anyhow::Result<Self> {
        let mut known = HashMap::new();
        let mut found = Vec::new();
        for contract in contracts {
            for file in FileDescriptorSet::decode(*contract).context("reading a contract")?.file {
                for service in &file.service {
                    let name = format!("{}.{}", file.package(), service.name());
                    let Some((_, need)) = services.iter().find(|(served, _)| *served == name) else {
                        continue;
                    };
                    known.extend(service.method.iter().map(|method| {
                        let answer = if method.server_streaming() { Answer::Stream } else { Answer::Message };
                        let path = format!("/{name}/{}", method.name());
                        (path.clone(), Arc::new(Method { path, answer, need: *need }))
                    }));
                    found.push(name);
                }
            }
        }
        for (service, _) in services {
            ensure!(
                found.iter().any(|name| name == service),
                "`{service}` is served, and the contracts lack it: hand the descriptors that have it to the \
                 deployable's `main`"
            );
        }
        let unknown = Method { path: UNKNOWN.to_owned(), answer: Answer::Message, need: Need::Token };
        Ok(Self { known, unknown: Arc::new(unknown) })
    }

    /// Whether a server has all services of the application's contracts whose package has a part such as `command`: those
    /// that its deployable is to serve, by the convention of `application.command.v1`.
    ///
    /// # Errors
    /// The first service that is left out: its calls would be UNIMPLEMENTED.
    pub(crate) fn ensure_all(application: &[u8], part: &str, services: &[&str]) -> anyhow::Result<()> {
        let files = FileDescriptorSet::decode(application).context("reading the contracts")?.file;
        let ours = files.iter().filter(|file| file.package().split('.').any(|each| each == part));
        for (file, service) in ours.flat_map(|file| file.service.iter().map(move |service| (file, service))) {
            let name = format!("{}.{}", file.package(), service.name());
            ensure!(
                services.contains(&name.as_str()),
                "the contracts have `{name}`, and it is not served: add it to the deployable's `services!`"
            );
        }
        Ok(())
    }

    /// The method of a path.
    pub(super) fn get(&self, path: &str) -> Arc<Method> {
        self.known.get(path).unwrap_or(&self.unknown).clone()
    }

    /// All methods, and the one for all unknown paths.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<Method>> {
        self.known.values().chain([&self.unknown])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::QUERIES_READ;

    const HISTORY: &str = "millrace.query.v1.HistoryService";
    const HEALTH: &str = "grpc.health.v1.Health";
    const CONTRACTS: [&[u8]; 2] = [millrace_proto::DESCRIPTORS, tonic_health::pb::FILE_DESCRIPTOR_SET];

    #[test]
    fn a_service_of_the_contracts_that_is_left_out_is_named() {
        for (part, services, refused) in [
            ("query", &[HISTORY][..], false),
            ("query", &[][..], true),
            ("command", &[][..], false),
            ("quer", &[][..], false),
        ] {
            let ensured = Methods::ensure_all(millrace_proto::DESCRIPTORS, part, services);
            let error = ensured.err().map(|error| error.to_string());
            assert_eq!(error.is_some_and(|error| error.contains(HISTORY)), refused, "{part} {services:?}");
        }
    }

    #[test]
    fn every_call_of_a_service_needs_its_scope_and_all_else_is_unknown() {
        let read = Need::Scope(QUERIES_READ);
        let methods = Methods::new(&CONTRACTS, &[(HISTORY, read), (HEALTH, Need::Nothing)]).unwrap();
        for (path, answer, need) in [
            ("/millrace.query.v1.HistoryService/GetHistory", Answer::Message, read),
            ("/millrace.query.v1.HistoryService/SearchEvents", Answer::Message, read),
            ("/grpc.health.v1.Health/Check", Answer::Message, Need::Nothing),
            ("/grpc.health.v1.Health/Watch", Answer::Stream, Need::Nothing),
        ] {
            let method = methods.get(path);
            assert_eq!((method.path.as_str(), method.answer, method.need), (path, answer, need));
        }
        for path in ["", "/", "/unknown", "/millrace.query.v1.HistoryService/Erase", "/grpc.health.v1.Health"]
        {
            let method = methods.get(path);
            assert_eq!((method.path.as_str(), method.need), (UNKNOWN, Need::Token), "{path}");
        }
        assert!(methods.iter().all(|method| method.path == UNKNOWN
            || method.path.contains("/Get")
            || method.path.contains("/Search")
            || method.is_health()));
        let only_health = Methods::new(&CONTRACTS, &[(HEALTH, Need::Nothing)]).unwrap();
        let unserved = only_health.get("/millrace.query.v1.HistoryService/GetHistory");
        assert_eq!((unserved.path.as_str(), unserved.need), (UNKNOWN, Need::Token));
    }

    #[test]
    fn a_service_without_a_contract_is_refused_by_name() {
        let refused = Methods::new(&CONTRACTS, &[("shop.v1.Shop", Need::Nothing)]).err().unwrap();
        assert!(refused.to_string().contains("shop.v1.Shop"), "{refused}");
    }
}
