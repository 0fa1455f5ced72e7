//! One database file that this process follows: what it consists of.
//!
//! What it does stands with the noun that it is done to:
//!
//! ```text
//! hooks of its connections      seen (writes, the file at rest), gate, connections, commit_wait
//! worker                        runs (what is due) -> engine; poll; upkeep; verifying
//! those who ask                 sync (waiting for the replica), report (status), catch_up, roll_back
//! all                           phase (live, cold, ended; errors and events)
//! ```

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64};

use super::connections::Connections;
use super::engine::Engine;
use super::exclusive_wal::ExclusiveWal;
use super::lease::Rights;
use super::poll::Polled;
use super::seen::Seen;
use super::upkeep::Upkeep;
use super::verifying::Verifying;
use super::wait::gate::Gate;
use super::wait::standing::Standing;
use super::wait::tickets::Tickets;
use super::wait::turn::Turn;
use super::worker::runs::Runs;
use crate::capture::rollback_pages::Handoff;
use crate::capture::{Phase, WalNotes};
use crate::config::{Claim, Settings};
use crate::ffi::hooks::BaseVfs;
use crate::fs::{FileStat, LockFile};
use crate::lock::Mutex;
use crate::staging::log::Log;
use crate::staging::noted::NotedSet;
use crate::staging::state::State;
use crate::status::Notices;

/// Shared by the hooks of its connections and the worker. Lives until the last connection of this process closes.
pub struct Database {
    pub path: PathBuf,
    /// Below us, as the connections of this process have it.
    pub(super) base: BaseVfs,
    pub settings: Settings,
    pub log: Log,
    pub state: State,
    pub noted: NotedSet,
    pub notes: WalNotes,
    pub handoff: Handoff,
    pub connections: Connections,
    pub exclusive_wal: ExclusiveWal,
    pub tickets: Tickets,
    pub(super) gate: Gate,
    pub(super) rights: Rights,
    pub(super) upkeep: Upkeep,
    pub(super) verifying: Verifying,
    /// Writes to the database file by this process, in rollback modes.
    pub writes: AtomicU64,
    pub standing: Standing,
    pub turn: Turn,
    // Guards the users' lock; `None` once the database is closed.
    pub(super) users: Mutex<Option<LockFile>>,
    // Guards everything that only one thread may do at a time; never taken on an application's thread.
    pub(super) engine: Mutex<Engine>,
    // Guards errors and events, of the database and home first, then of each copy.
    pub(super) notices: Mutex<Vec<Notices>>,
    pub(super) phase: Mutex<Phase>,
    pub(super) fenced_at: AtomicU64,
    pub(super) runs: Runs,
    pub(super) seen: Seen,
    pub(super) single_writer: AtomicBool,
    pub(super) polled: Mutex<Polled>,
    // Guards the right to replica and log folder; `None` once the database is closed, though the worker may still look.
    pub(super) claim: Mutex<Option<Claim>>,
}

/// Everything that [`Database::new`] puts together.
pub struct Parts {
    pub settings: Settings,
    pub log: Log,
    pub state: State,
    pub noted: NotedSet,
    pub users: LockFile,
    pub engine: Engine,
    pub base: BaseVfs,
    pub claim: Claim,
    pub phase: Phase,
    pub rest: Option<FileStat>,
    pub event: Option<String>,
    pub error: Option<String>,
    pub gate: Gate,
    /// Names this life of the database as the holder of a lease.
    pub lease_id: u64,
}

impl Database {
    pub fn new(parts: Parts) -> Database {
        let mut notices = vec![Notices::default(); parts.engine.replicas.len()];
        notices[0].last_event = parts.event;
        if let Some(error) = parts.error {
            notices[0].error(error);
        }
        let page_size = parts.engine.recorded.map(|r| r.page_size);
        let rights = Rights::of(&parts.settings, parts.lease_id);
        let upkeep = Upkeep::new(parts.engine.name, &parts.log, &parts.settings);
        let rejoined = parts.state.rejoined();
        let database = Database {
            path: parts.settings.database.clone(),
            base: parts.base,
            settings: parts.settings,
            log: parts.log,
            state: parts.state,
            noted: parts.noted,
            notes: WalNotes::default(),
            handoff: Handoff::default(),
            connections: Connections::default(),
            exclusive_wal: ExclusiveWal::default(),
            tickets: Tickets::default(),
            gate: parts.gate,
            rights,
            upkeep,
            verifying: Verifying::of(parts.engine.replicas.len()),
            writes: AtomicU64::new(0),
            standing: Standing::default(),
            turn: Turn::default(),
            users: Mutex::new(Some(parts.users)),
            engine: Mutex::new(parts.engine),
            notices: Mutex::new(notices),
            phase: Mutex::new(parts.phase),
            fenced_at: AtomicU64::new(rejoined),
            runs: Runs::default(),
            polled: Mutex::new(Polled::at(parts.rest.clone())),
            seen: Seen::new(page_size, parts.rest),
            single_writer: AtomicBool::new(false),
            claim: Mutex::new(Some(parts.claim)),
        };
        if parts.phase == Phase::Fenced {
            let text = database.notices().last_error.clone().unwrap_or_default();
            database.tickets.end(&text);
        }
        database
    }
}
