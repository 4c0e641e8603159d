//! Bounds on concurrent work: of all tenants together, and of each.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use millrace_core::TenantId;

use crate::Failure;

/// Counts concurrent work by tenant. Only tenants with work under way take memory. Clones share their counts.
#[derive(Debug, Clone)]
pub struct TenantLimiter {
    max: u32,
    max_per_tenant: u32,
    running: Arc<Mutex<Running>>,
}

#[derive(Debug, Default)]
struct Running {
    all: u32,
    by_tenant: HashMap<TenantId, u32>,
}

/// A permit for one piece of work, returned when it is dropped.
#[derive(Debug)]
pub struct Permit {
    tenant: TenantId,
    limiter: TenantLimiter,
}

impl TenantLimiter {
    /// `max` pieces of work at a time, and at most `max_per_tenant` of one tenant.
    pub fn new(max: u32, max_per_tenant: u32) -> Self {
        Self { max, max_per_tenant, running: Arc::default() }
    }

    /// A permit for one more piece of the tenant's work.
    ///
    /// # Errors
    /// [`Failure::Overloaded`] at the limit of all tenants, [`Failure::TenantBusy`] at the tenant's own.
    pub fn acquire(&self, tenant: &TenantId) -> Result<Permit, Failure> {
        let mut running = self.lock();
        if running.all >= self.max {
            return Err(Failure::Overloaded);
        }
        let own = running.by_tenant.get(tenant).copied().unwrap_or(0);
        if own >= self.max_per_tenant {
            return Err(Failure::TenantBusy);
        }
        running.all += 1;
        running.by_tenant.insert(tenant.clone(), own + 1);
        Ok(Permit { tenant: tenant.clone(), limiter: self.clone() })
    }

    /// How many permits are out.
    pub fn running(&self) -> u32 {
        self.lock().all
    }

    fn lock(&self) -> MutexGuard<'_, Running> {
        // No code under the lock can panic half-way through a change.
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut running = self.limiter.lock();
        running.all = running.all.saturating_sub(1);
        if let Some(own) = running.by_tenant.get_mut(&self.tenant) {
            *own = own.saturating_sub(1);
            if *own == 0 {
                running.by_tenant.remove(&self.tenant);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenant_has_its_share_and_takes_nobody_elses() {
        let limiter = TenantLimiter::new(3, 2);
        let (acme, other) = ("acme".parse().unwrap(), "other".parse().unwrap());
        let first = limiter.acquire(&acme).unwrap();
        let _second = limiter.acquire(&acme).unwrap();
        assert!(matches!(limiter.acquire(&acme), Err(Failure::TenantBusy)));
        let third = limiter.acquire(&other).unwrap();
        assert!(matches!(limiter.acquire(&other), Err(Failure::Overloaded)), "all permits are out");
        drop(first);
        let _again = limiter.acquire(&acme).unwrap();
        drop(third);
        assert_eq!(
            (limiter.running(), limiter.lock().by_tenant.len()),
            (2, 1),
            "an idle tenant takes no memory"
        );
    }
}
