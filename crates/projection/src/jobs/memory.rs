//! Jobs in memory, for tests.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard},
};

use futures::{FutureExt as _, future::BoxFuture};
use millrace_aws::AwsError;
use millrace_core::TenantId;

use super::{Job, JobPart, JobStore, Seen};

/// Jobs that live as long as the clones of their store.
#[derive(Clone, Default)]
pub(crate) struct MemoryJobs(Arc<Mutex<Contents>>);

#[derive(Default)]
struct Contents {
    jobs: BTreeMap<String, Job>,
    parts: BTreeMap<(String, String), JobPart>,
    tenants: BTreeSet<TenantId>,
}

impl MemoryJobs {
    fn contents(&self) -> MutexGuard<'_, Contents> {
        self.0.lock().unwrap()
    }
}

impl JobStore for MemoryJobs {
    fn job<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Job>, AwsError>> {
        async { Ok(self.contents().jobs.get(name).cloned()) }.boxed()
    }

    fn parts<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Vec<JobPart>, AwsError>> {
        async move { Ok(self.contents().parts.values().filter(|part| part.job == name).cloned().collect()) }
            .boxed()
    }

    fn put<'a>(&'a self, job: &'a Job, seen: Seen) -> BoxFuture<'a, Result<bool, AwsError>> {
        async move {
            let mut contents = self.contents();
            let holds = match (contents.jobs.get(&job.name), seen) {
                (found, Seen::Nothing) => found.is_none(),
                (Some(found), Seen::Unchanged { fence, beat }) => (found.fence, found.beat) == (fence, beat),
                (Some(found), Seen::Fence(fence)) => found.fence == fence,
                (None, Seen::Unchanged { .. } | Seen::Fence(_)) => false,
            };
            if holds {
                contents.jobs.insert(job.name.clone(), job.clone());
            }
            Ok(holds)
        }
        .boxed()
    }

    fn put_part<'a>(&'a self, part: &'a JobPart) -> BoxFuture<'a, Result<bool, AwsError>> {
        async {
            let mut contents = self.contents();
            let key = (part.job.clone(), part.name.clone());
            let holds = contents.parts.get(&key).is_none_or(|found| found.fence <= part.fence);
            if holds {
                contents.parts.insert(key, part.clone());
            }
            Ok(holds)
        }
        .boxed()
    }

    fn tenants<'a>(&'a self, after: Option<&'a TenantId>) -> BoxFuture<'a, Result<Vec<TenantId>, AwsError>> {
        async move {
            let contents = self.contents();
            // Few, so that most tests need a second page.
            let tenants = contents.tenants.iter().filter(|tenant| after.is_none_or(|after| *tenant > after));
            Ok(tenants.take(2).cloned().collect())
        }
        .boxed()
    }

    fn put_tenant<'a>(&'a self, tenant: &'a TenantId) -> BoxFuture<'a, Result<(), AwsError>> {
        async move {
            self.contents().tenants.insert(tenant.clone());
            Ok(())
        }
        .boxed()
    }
}
