//! The contenders: each carries out the same command in its own way.

mod adapter;
mod contract;
mod cqrs;
mod floor;
mod grpc;
mod items;
mod millrace;
mod recipe;

use std::sync::Arc;

pub(crate) use contract::{Outcome, Shared};
pub(crate) use grpc::{Service, choose, program};
pub(crate) use millrace::history;

use crate::{
    site::{Access, Site},
    user::User,
};

/// The contenders.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Floor,
    Recipe,
    Cqrs,
    CqrsSnapshots,
    CqrsAggregate,
    Adapter,
    AdapterSnapshots,
    AdapterEvery,
    Millrace,
}

impl Kind {
    /// All of them that run in this process.
    pub(crate) const ALL: [Self; 9] = [
        Self::Floor,
        Self::Recipe,
        Self::Cqrs,
        Self::CqrsSnapshots,
        Self::CqrsAggregate,
        Self::Adapter,
        Self::AdapterSnapshots,
        Self::AdapterEvery,
        Self::Millrace,
    ];

    /// Those whose speed is measured: the floor, Millrace, and of each peer the way that is the fastest for many events.
    pub(crate) const FAST: [Self; 5] =
        [Self::Floor, Self::Recipe, Self::CqrsAggregate, Self::AdapterEvery, Self::Millrace];

    /// The name in tables.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Floor => "floor",
            Self::Recipe => "recipe",
            Self::Cqrs => "cqrs-es",
            Self::CqrsSnapshots => "cqrs-es, snapshot every 10",
            Self::CqrsAggregate => "cqrs-es, aggregate store",
            Self::Adapter => "esa",
            Self::AdapterSnapshots => "esa, snapshot every 10",
            Self::AdapterEvery => "esa, snapshot every command",
            Self::Millrace => "Millrace",
        }
    }

    /// Whether it is neither the floor nor Millrace.
    pub(crate) fn is_peer(self) -> bool {
        !matches!(self, Self::Floor | Self::Millrace)
    }

    /// After how many commands costs repeat: snapshots among them.
    pub(crate) fn period(self) -> u64 {
        match self {
            Self::Floor | Self::Recipe | Self::Cqrs | Self::CqrsAggregate | Self::Adapter => 5,
            Self::AdapterEvery => 5,
            Self::CqrsSnapshots | Self::AdapterSnapshots => 10,
            Self::Millrace => millrace_command::snapshots::EVERY.get(),
        }
    }

    /// One with empty caches.
    pub(crate) async fn open(self, site: &Site, access: &Access) -> anyhow::Result<Shared> {
        Ok(match self {
            Self::Floor => Arc::new(floor::Floor::new(access.bare(), site.stack.events())),
            Self::Recipe => Arc::new(recipe::Recipe::new(access.bare())),
            Self::Cqrs => Arc::new(cqrs::Cqrs::events(access.bare())),
            Self::CqrsSnapshots => Arc::new(cqrs::Cqrs::snapshots(access.bare())),
            Self::CqrsAggregate => Arc::new(cqrs::Cqrs::aggregates(access.bare())),
            Self::Adapter => Arc::new(adapter::Adapter::open(access.bare(), None).await?),
            Self::AdapterSnapshots => Arc::new(adapter::Adapter::open(access.bare(), Some(10)).await?),
            Self::AdapterEvery => Arc::new(adapter::Adapter::open(access.bare(), Some(1)).await?),
            Self::Millrace => Arc::new(millrace::Millrace::new(site.store(access))),
        })
    }

    /// A user with so many events, and with the snapshot that the contender would have of them.
    pub(crate) async fn seeded(self, site: &Site, length: u64) -> anyhow::Result<User> {
        let (client, user) = (site.access().bare(), User::new(length));
        match self {
            Self::Floor => {}
            Self::Recipe => recipe::seed(&client, &user).await?,
            Self::Cqrs => cqrs::seed(&client, &user, None).await?,
            Self::CqrsSnapshots => cqrs::seed(&client, &user, Some(10)).await?,
            Self::CqrsAggregate => cqrs::seed(&client, &user, Some(1)).await?,
            Self::Adapter => adapter::seed(&client, &user, None).await?,
            Self::AdapterSnapshots => adapter::seed(&client, &user, Some(10)).await?,
            Self::AdapterEvery => adapter::seed(&client, &user, Some(1)).await?,
            Self::Millrace => millrace::seed(&site.store(&site.access()), &user).await?,
        }
        Ok(user)
    }
}
