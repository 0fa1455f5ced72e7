//! The fence: every `unsafe` of the crate, and nothing else that could live elsewhere.
//!
//! Outward it shows safe traits and handles: [`hooks`] is what the VFS asks of us, [`base`] what we may ask
//! of SQLite's own VFS. Each `unsafe` block cites the C contract it meets, from
//! <https://sqlite.org/c3ref/vfs.html>, <https://sqlite.org/c3ref/io_methods.html> or a manual page.
#![allow(unsafe_code)]
#![allow(dead_code)] // until the shim below the traits lands
#![warn(unsafe_op_in_unsafe_fn)]

pub mod base;
pub mod code;
mod guard;
pub mod hooks;
pub mod map;
pub mod os;
