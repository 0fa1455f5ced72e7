//! What tests share: folders of their own, and the model that the model tests run.

pub mod child;
pub mod history;
pub mod model;
pub mod mutation;
pub mod workload;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// How many of so many cases a test tries: all of them, but under miri, which is a thousand times slower, a few.
pub const fn cases(count: u64) -> u64 {
    if cfg!(miri) { count.div_ceil(100) } else { count }
}

/// How far a test steps that tries every place of something: one by one, but for miri.
pub const STRIDE: usize = if cfg!(miri) { 397 } else { 1 };

/// An empty folder that goes with the value.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new() -> Folder {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tests").join(name);
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Every file below, as a path relative to the folder, sorted.
    pub fn files(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut folders = vec![self.0.clone()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let entry = entry.unwrap();
                if entry.file_type().unwrap().is_dir() {
                    folders.push(entry.path());
                } else {
                    found.push(entry.path().strip_prefix(&self.0).unwrap().display().to_string());
                }
            }
        }
        found.sort();
        found
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
