//! A bound on the calls of one tenant.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use millrace_domain::TenantId;

/// How many calls of each tenant run. Only tenants that have one now take memory.
#[derive(Debug, Clone)]
pub(crate) struct Places {
    most: u32,
    taken: Arc<Mutex<HashMap<TenantId, u32>>>,
}

/// One call's place, until it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    tenant: TenantId,
    of: Places,
}

impl Places {
    /// `most` calls of one tenant may run at a time.
    pub(crate) fn new(most: u32) -> Self {
        Self { most, taken: Arc::default() }
    }

    /// A place for a call of this tenant, if there is one.
    pub(crate) fn take(&self, tenant: &TenantId) -> Option<Place> {
        let mut taken = self.look();
        let calls = taken.get(tenant).copied().unwrap_or(0);
        if calls >= self.most {
            return None;
        }
        taken.insert(tenant.clone(), calls + 1);
        Some(Place { tenant: tenant.clone(), of: self.clone() })
    }

    /// Nothing that is done under the lock can panic half-way.
    fn look(&self) -> MutexGuard<'_, HashMap<TenantId, u32>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.of.look();
        if let Some(calls) = taken.get_mut(&self.tenant) {
            *calls = calls.saturating_sub(1);
            if *calls == 0 {
                taken.remove(&self.tenant);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenant_has_its_places_and_takes_nobody_elses() {
        let places = Places::new(2);
        let (acme, other) = ("acme".parse().unwrap(), "other".parse().unwrap());
        let first = places.take(&acme).unwrap();
        let _second = places.take(&acme).unwrap();
        assert!(places.take(&acme).is_none());
        let third = places.take(&other).unwrap();
        drop(first);
        let _again = places.take(&acme).unwrap();
        drop(third);
        assert_eq!(places.look().len(), 1, "tenants that call nothing are forgotten");
    }
}
