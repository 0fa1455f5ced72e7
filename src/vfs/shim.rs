//! What the VFS does with each open.

use std::any::Any;
use std::sync::Arc;

use crate::ffi::hooks::{
    ConnectionFile, FileKind, MainHooks, OpenPlan, OpenRequest, PendingMain, VfsHooks, WalHooks,
};

/// Passes everything through.
pub struct PassThrough;

impl VfsHooks for PassThrough {
    fn open(&self, _: &OpenRequest<'_>) -> OpenPlan {
        OpenPlan::PassThrough
    }
}

/// Wraps every main database and WAL and watches nothing: so that SQLite's own test suite exercises the wrapper.
pub struct WrapAll;

impl VfsHooks for WrapAll {
    fn open(&self, request: &OpenRequest<'_>) -> OpenPlan {
        match request.kind {
            FileKind::Main => OpenPlan::Main(Box::new(Idle)),
            FileKind::Wal => OpenPlan::Wal(Arc::new(Idle)),
            FileKind::MainJournal | FileKind::Other => OpenPlan::PassThrough,
        }
    }
}

struct Idle;

impl PendingMain for Idle {
    fn opened(self: Box<Self>, _: ConnectionFile) -> Result<Arc<dyn MainHooks>, String> {
        Ok(Arc::new(Idle))
    }
}

impl MainHooks for Idle {
    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl WalHooks for Idle {}
