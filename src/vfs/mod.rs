//! The door of SQLite's files: what to observe, decided in safe code behind `ffi`.

pub mod shim;
