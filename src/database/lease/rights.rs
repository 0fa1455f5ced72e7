//! Who may write a database, and what everybody looks at to know it.

use std::time::Instant;

use super::TIME;
use crate::config::{LeaseUse, Settings};
use crate::database::followed::Database;
use crate::error::{Error, Kind, Result};
use crate::ffi::os;
use crate::lease::{Fixed, Holder, Lease, Now, Permit, Tenant, Terms, Time};
use crate::lock::{Condvar, Mutex};
use crate::replica::{Client, Leases};
use crate::types::Epoch;

/// What anybody may see at any time.
#[derive(Default)]
pub(super) struct Shown {
    pub permit: Option<Permit>,
    /// The epoch whose first txid is ours.
    pub begun: Option<Epoch>,
    pub lease: Option<Lease>,
    pub renewals: u64,
    /// Writes that asked for the lease, and how many of them were answered.
    pub asked: u64,
    pub answered: u64,
    /// Why it was not to be had, or is held no longer.
    pub refused: Option<(Kind, String, Instant)>,
    pub is_leaving: bool,
    /// It is about to be handed back: no transaction begins.
    pub is_closed: bool,
    /// Another process is to take it: nobody here asks for it meanwhile.
    pub is_handed_over: bool,
}

impl Shown {
    /// It is needed after all. Not so when it is being handed back at this moment: then there is no permit any more.
    pub(super) fn stay(&mut self) {
        if std::mem::take(&mut self.is_leaving) {
            self.is_closed = false;
        }
    }

    /// Nobody writes any more, and what is held may be handed back.
    pub(super) fn give_up(&mut self) {
        (self.permit, self.begun, self.is_closed, self.refused) = (None, None, false, None);
    }

    pub(super) fn refuse(&mut self, error: &Error) {
        self.refused = Some((error.kind(), error.to_string(), Instant::now()));
    }

    pub(super) fn allows(&self, now: Now) -> bool {
        !self.is_closed && self.carries(now)
    }

    /// A transaction that has begun may go on.
    pub(super) fn carries(&self, now: Now) -> bool {
        self.permit.is_some_and(|permit| self.begun == Some(permit.epoch) && permit.allows(now))
    }
}

/// A lease that ends, and what is known of it.
pub struct Leasehold {
    pub(super) is_auto: bool,
    pub(super) terms: Terms,
    // Guards who asks; held while a store is waited for, and never taken by a hook.
    pub(super) tenant: Mutex<Tenant<'static>>,
    // Guards what the others look at.
    pub(super) shown: Mutex<Shown>,
    pub(super) changed: Condvar,
    // Guards when it is tended next; `None`: nobody must.
    pub(super) due: Mutex<Option<Instant>>,
}

/// Who may write a database.
pub enum Rights {
    /// Whoever has it open.
    All,
    Fixed(Fixed),
    Leased(Box<Leasehold>),
}

impl Rights {
    /// `id`: drawn for this life of the database.
    pub fn of(settings: &Settings, id: u64) -> Rights {
        let lease = &settings.lease;
        let is_auto = match &lease.used {
            LeaseUse::Off => return Rights::All,
            LeaseUse::Static { primary } => {
                let is_here = *primary == lease.owner.clone().unwrap_or_else(os::host_name);
                return Rights::Fixed(if is_here { Fixed::Here } else { Fixed::Elsewhere(primary.clone()) });
            }
            LeaseUse::Auto => true,
            LeaseUse::Required => false,
        };
        let url = lease.url.as_deref();
        let me = match &lease.owner {
            Some(owner) => Holder::named(id, owner, url),
            None => Holder::new(id, &os::host_name(), std::process::id(), url),
        };
        Rights::Leased(Box::new(Leasehold {
            is_auto,
            terms: lease.terms,
            tenant: Mutex::new(Tenant::new(me, lease.terms, &TIME)),
            shown: Mutex::default(),
            changed: Condvar::default(),
            due: Mutex::default(),
        }))
    }
}

/// What there is to say of a lease that is held here.
#[derive(Clone, Debug)]
pub struct HeldHere {
    pub lease: Lease,
    pub renewals: u64,
}

/// Who may write, as it is now.
#[derive(Clone, Debug)]
pub enum Primary {
    /// Always the same one.
    Fixed { name: String, is_here: bool },
    /// Nobody has asked for the lease yet.
    Nobody,
    /// The holder, or who was it last; `renewals`, if it is held here.
    Holder { lease: Lease, renewals: Option<u64> },
}

impl Leasehold {
    pub(super) fn allows(&self) -> bool {
        self.shown.lock().allows(TIME.now())
    }

    /// Shows what the tenant holds.
    pub(super) fn show(&self, tenant: &Tenant<'_>) {
        let mut shown = self.shown.lock();
        shown.permit = tenant.permit();
        shown.lease = tenant.lease().cloned();
        shown.renewals = tenant.renewals();
        drop(shown);
        self.changed.notify_all();
    }

    pub(super) fn begun(&self, epoch: Epoch) {
        let mut shown = self.shown.lock();
        shown.begun = Some(epoch);
        shown.is_closed = false;
        shown.refused = None;
    }

    /// From here on no transaction begins, and those that have begun go on.
    pub(super) fn set_closed(&self, is_closed: bool) {
        self.shown.lock().is_closed = is_closed;
    }

    pub(super) fn set_handing_over(&self, is_handed_over: bool) {
        self.shown.lock().is_handed_over = is_handed_over;
    }

    pub(super) fn has_begun(&self, epoch: Epoch) -> bool {
        self.shown.lock().begun == Some(epoch)
    }

    pub(super) fn answer(&self, asked: u64, refused: Option<&Error>) {
        let mut shown = self.shown.lock();
        shown.answered = shown.answered.max(asked);
        if let Some(error) = refused {
            shown.refuse(error);
        }
        drop(shown);
        self.changed.notify_all();
    }

    pub(super) fn held(&self) -> Option<HeldHere> {
        let shown = self.shown.lock();
        let lease = shown.lease.clone().filter(|_| shown.allows(TIME.now()))?;
        Some(HeldHere { lease, renewals: shown.renewals })
    }
}

impl Database {
    pub(super) fn leasehold(&self) -> Option<&Leasehold> {
        match &self.rights {
            Rights::Leased(leasehold) => Some(leasehold),
            _ => None,
        }
    }

    /// Whether the lease is held at this moment, though its first txid may not be made yet.
    pub(super) fn has_permit(&self) -> bool {
        let permit = self.leasehold().and_then(|leasehold| leasehold.shown.lock().permit);
        permit.is_some_and(|permit| permit.allows(TIME.now()))
    }

    /// What is held here.
    pub fn held_lease(&self) -> Option<HeldHere> {
        self.leasehold().and_then(Leasehold::held)
    }

    /// Who may write, as it stands in the home replica. `None`: leases are not used.
    ///
    /// # Errors
    /// As the store refuses; `Corrupt` for a lease that cannot be read.
    pub fn primary(&self) -> Result<Option<Primary>> {
        let leasehold = match (&self.rights, &self.settings.lease.used) {
            (Rights::Leased(leasehold), _) => leasehold,
            (Rights::Fixed(fixed), LeaseUse::Static { primary }) => {
                let is_here = *fixed == Fixed::Here;
                return Ok(Some(Primary::Fixed { name: primary.clone(), is_here }));
            }
            _ => return Ok(None),
        };
        if let Some(held) = leasehold.held() {
            return Ok(Some(Primary::Holder { lease: held.lease, renewals: Some(held.renewals) }));
        }
        let client = self.home_client()?;
        let found = crate::lease::look(leases_of(&*client)?)?;
        Ok(Some(found.map_or(Primary::Nobody, |lease| Primary::Holder { lease, renewals: None })))
    }

    /// Whether a lease decides over who may write.
    pub fn is_leased(&self) -> bool {
        !matches!(self.rights, Rights::All)
    }

    /// Whether this process may write at this moment.
    pub(in crate::database) fn may_write_now(&self) -> bool {
        match &self.rights {
            Rights::All | Rights::Fixed(Fixed::Here) => true,
            Rights::Fixed(Fixed::Elsewhere(_)) => false,
            Rights::Leased(leasehold) => leasehold.allows(),
        }
    }
}

pub(super) fn not_used() -> Error {
    Error::invalid("this database is open without a lease: open it with replica_lease=required or auto")
}

/// # Errors
/// `Invalid` where a store keeps none.
pub fn leases_of(client: &dyn Client) -> Result<&(dyn Leases + Sync)> {
    client.leases().ok_or_else(|| Error::invalid(format!("{} keeps no leases", client.url())))
}
