//! Bounds on what is under way: of all callers together, and of each tenant.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use millrace_domain::TenantId;

use crate::Failure;

/// How much of something is under way. Only tenants of whom something is take memory. Clones are the same.
#[derive(Debug, Clone)]
pub struct Places {
    most: u32,
    most_of_tenant: u32,
    taken: Arc<Mutex<Taken>>,
}

#[derive(Debug, Default)]
struct Taken {
    all: u32,
    of: HashMap<TenantId, u32>,
}

/// A place, until it is dropped.
#[derive(Debug)]
pub struct Place {
    tenant: TenantId,
    of: Places,
}

impl Places {
    /// `most` at a time, and of one tenant at most `most_of_tenant`.
    pub fn new(most: u32, most_of_tenant: u32) -> Self {
        Self { most, most_of_tenant, taken: Arc::default() }
    }

    /// A place for this tenant.
    ///
    /// # Errors
    ///
    /// [`Failure::Overloaded`] where all are taken, [`Failure::TenantBusy`] where the tenant has its share.
    pub fn take(&self, tenant: &TenantId) -> Result<Place, Failure> {
        let mut taken = self.look();
        if taken.all >= self.most {
            return Err(Failure::Overloaded);
        }
        let own = taken.of.get(tenant).copied().unwrap_or(0);
        if own >= self.most_of_tenant {
            return Err(Failure::TenantBusy);
        }
        taken.all += 1;
        taken.of.insert(tenant.clone(), own + 1);
        Ok(Place { tenant: tenant.clone(), of: self.clone() })
    }

    /// How many are taken.
    pub fn taken(&self) -> u32 {
        self.look().all
    }

    /// Nothing that is done under the lock can panic half-way.
    fn look(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.of.look();
        taken.all = taken.all.saturating_sub(1);
        if let Some(own) = taken.of.get_mut(&self.tenant) {
            *own = own.saturating_sub(1);
            if *own == 0 {
                taken.of.remove(&self.tenant);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenant_has_its_places_and_takes_nobody_elses() {
        let places = Places::new(3, 2);
        let (acme, other) = ("acme".parse().unwrap(), "other".parse().unwrap());
        let first = places.take(&acme).unwrap();
        let _second = places.take(&acme).unwrap();
        assert!(matches!(places.take(&acme), Err(Failure::TenantBusy)));
        let third = places.take(&other).unwrap();
        assert!(matches!(places.take(&other), Err(Failure::Overloaded)), "all are taken");
        drop(first);
        let _again = places.take(&acme).unwrap();
        drop(third);
        assert_eq!((places.taken(), places.look().of.len()), (2, 1), "who has none takes no memory");
    }
}
