//! Model tests of each journal mode: seeded random SQL beside plain SQLite, where every txid restores.
//!
//! `MODEL_RUNS` sets the number of seeds of each test, `MODEL_SEED` the first; alone, it runs that one.

use crate::testing::model;
use crate::testing::workload::{Foreign, Setting};

/// Seeds of each test in an ordinary run.
const FEW: u64 = 5;

const ONE: Setting = Setting {
    journal: "delete",
    exclusive: false,
    switches: false,
    connections: 1,
    attached: false,
    foreign: Foreign::Nobody,
    faults: false,
    steps: 60,
};

#[test]
fn model_delete_restores_any_txid() {
    model::run(Setting { journal: "delete", connections: 3, ..ONE }, FEW);
}

#[test]
fn model_truncate_restores_any_txid() {
    model::run(Setting { journal: "truncate", connections: 2, ..ONE }, FEW);
}

#[test]
fn model_persist_restores_any_txid() {
    model::run(Setting { journal: "persist", connections: 2, ..ONE }, FEW);
}

#[test]
fn model_memory_restores_any_txid() {
    model::run(Setting { journal: "memory", connections: 2, ..ONE }, FEW);
}

#[test]
fn model_off_restores_any_txid() {
    model::run(Setting { journal: "off", ..ONE }, FEW);
}

#[test]
fn model_wal_restores_any_txid() {
    model::run(Setting { journal: "wal", connections: 3, ..ONE }, FEW);
}

#[test]
fn model_exclusive_delete_restores_any_txid() {
    model::run(Setting { journal: "delete", exclusive: true, ..ONE }, FEW);
}

#[test]
fn model_exclusive_wal_restores_any_txid() {
    model::run(Setting { journal: "wal", exclusive: true, ..ONE }, FEW);
}

#[test]
fn model_exclusive_switches_restore_any_txid() {
    model::run(Setting { journal: "wal", exclusive: true, switches: true, ..ONE }, FEW);
}

#[test]
fn model_switches_restore_any_txid() {
    model::run(Setting { journal: "wal", switches: true, connections: 2, ..ONE }, FEW);
}

#[test]
fn model_attached_rollback_restores_any_txid() {
    model::run(Setting { journal: "delete", attached: true, connections: 2, ..ONE }, FEW);
}

#[test]
fn model_attached_wal_restores_any_txid() {
    model::run(Setting { journal: "wal", attached: true, connections: 2, ..ONE }, FEW);
}

#[test]
fn model_foreign_connection_is_followed_in_delete() {
    model::run(Setting { journal: "delete", foreign: Foreign::Connection, connections: 2, ..ONE }, FEW);
}

#[test]
fn model_foreign_connection_is_followed_in_wal() {
    model::run(Setting { journal: "wal", foreign: Foreign::Connection, connections: 2, ..ONE }, FEW);
}

#[test]
fn model_foreign_connection_is_followed_through_switches() {
    model::run(Setting { switches: true, foreign: Foreign::Connection, connections: 1, ..ONE }, FEW);
}

#[test]
fn model_foreign_process_is_followed_in_delete() {
    model::run(Setting { journal: "delete", foreign: Foreign::Process, ..ONE }, FEW);
}

#[test]
fn model_foreign_process_is_followed_in_wal() {
    model::run(Setting { journal: "wal", foreign: Foreign::Process, ..ONE }, FEW);
}

#[test]
fn model_store_that_goes_away_gets_everything_in_the_end_in_delete() {
    model::run(Setting { journal: "delete", faults: true, connections: 2, ..ONE }, FEW);
}

#[test]
fn model_store_that_goes_away_gets_everything_in_the_end_in_wal() {
    model::run(Setting { journal: "wal", faults: true, connections: 2, ..ONE }, FEW);
}

#[test]
fn model_store_that_goes_away_gets_everything_in_the_end_through_switches() {
    model::run(Setting { switches: true, faults: true, connections: 2, ..ONE }, FEW);
}
