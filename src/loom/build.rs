//! Takes the library's own sources, with loom's atomics and locks in the place of the standard library's, and smaller
//! constants; and each once more for every defect that is seeded, so that the tests can be shown to find it.

use std::path::Path;

/// A source, and what is put in the place of what. Each text must be there, or the build fails.
struct Source {
    name: &'static str,
    path: &'static str,
    put: &'static [(&'static str, &'static str)],
    /// Name of a defect, and what makes it.
    defects: &'static [(&'static str, &'static [(&'static str, &'static str)])],
}

const ATOMICS: (&str, &str) = ("std::sync::atomic::", "crate::atomic::");

const SOURCES: &[Source] = &[
    Source {
        name: "lock",
        path: "lock.rs",
        put: &[
            (
                "use std::sync::{self, PoisonError, TryLockError};",
                "use loom::sync; use std::sync::{PoisonError, TryLockError};",
            ),
            (
                "pub use std::sync::{RwLockReadGuard, RwLockWriteGuard};",
                "pub use loom::sync::{RwLockReadGuard, RwLockWriteGuard};",
            ),
            ("pub const fn new", "pub fn new"),
            // Never blocks by itself, which loom would try without end.
            (
                "        for attempt in 0u32.. {",
                "        return self.0.write().unwrap_or_else(PoisonError::into_inner);\n        #[allow(unreachable_code)]\n        for attempt in 0u32.. {",
            ),
        ],
        defects: &[],
    },
    Source { name: "stat", path: "fs/stat.rs", put: &[], defects: &[] },
    Source {
        name: "noted",
        path: "staging/noted.rs",
        put: &[
            ATOMICS,
            ("32_768", "64"),
            ("const BLOCKS: usize = 1 << 17;", "const BLOCKS: usize = 64;"),
            ("const SUMMARY: usize = 64;", "const SUMMARY: usize = 4;"),
        ],
        defects: &[
            (
                "relaxed_note",
                &[(
                    "words[word].fetch_or(1 << bit, Ordering::SeqCst);",
                    "words[word].fetch_or(1 << bit, Ordering::Relaxed);",
                )],
            ),
            (
                "clears_first",
                &[(
                    "let before = moved.fetch_or(bits, Ordering::SeqCst);\n                    open.fetch_and(!bits, Ordering::SeqCst);",
                    "let before = moved.fetch_or(bits, Ordering::SeqCst);\n                    open.store(0, Ordering::SeqCst);",
                )],
            ),
            (
                "looks_before_it_clears",
                &[(
                    "            summary.fetch_and(!mask, Ordering::SeqCst);\n            if pairs(words, block).any(|(open, _, _)| open.load(Ordering::SeqCst) != 0) {\n                summary.fetch_or(mask, Ordering::SeqCst);\n            }",
                    "            if !pairs(words, block).any(|(open, _, _)| open.load(Ordering::SeqCst) != 0) {\n                summary.fetch_and(!mask, Ordering::SeqCst);\n            }",
                )],
            ),
            (
                "acquire_release",
                &[
                    (
                        "words[word].fetch_or(1 << bit, Ordering::SeqCst);",
                        "words[word].fetch_or(1 << bit, Ordering::AcqRel);",
                    ),
                    (
                        "if summary.load(Ordering::SeqCst) & mask == 0 {",
                        "if summary.load(Ordering::Acquire) & mask == 0 {",
                    ),
                    (
                        "summary.fetch_and(!mask, Ordering::SeqCst);",
                        "summary.fetch_and(!mask, Ordering::AcqRel);",
                    ),
                    (
                        "if pairs(words, block).any(|(open, _, _)| open.load(Ordering::SeqCst) != 0) {\n                summary.fetch_or",
                        "if pairs(words, block).any(|(open, _, _)| open.load(Ordering::Acquire) != 0) {\n                summary.fetch_or",
                    ),
                ],
            ),
        ],
    },
    Source {
        name: "state",
        path: "staging/state.rs",
        put: &[ATOMICS, ("pub const RING_LEN: usize = 4096;", "pub const RING_LEN: usize = 1;")],
        defects: &[
            (
                "keeps_the_frame",
                &[(
                    "            self.set(COVERED_FRAME, 0);\n            self.set(COVERED_SALTS, salts);",
                    "            self.set(COVERED_SALTS, salts);",
                )],
            ),
            (
                "looks_at_the_salts_once",
                &[("(frame != 0 && self.get(COVERED_SALTS) == salts)", "(frame != 0)")],
            ),
            (
                "frames_of_any_cycle",
                &[("if word >> 32 == half_of(self.get(CYCLE)) { word as u32 } else { 0 }", "word as u32")],
            ),
            (
                "mark_without_a_checksum",
                &[(
                    "(words[0] != 0 && words[CLEAN_LEN - 1] == mix(&words[..CLEAN_LEN - 1]))",
                    "(words[0] != 0)",
                )],
            ),
        ],
    },
    Source {
        name: "standing",
        path: "database/wait/standing.rs",
        put: &[ATOMICS],
        defects: &[(
            "does_not_look_again",
            &[("self.left.load(Ordering::SeqCst) == token", "self.left.load(Ordering::SeqCst) >= token")],
        )],
    },
    Source {
        name: "tickets",
        path: "database/wait/tickets.rs",
        put: &[],
        defects: &[
            (
                "nudges_without_the_lock",
                &[(
                    "let _served = self.served.lock();\n        self.changed.notify_all();",
                    "self.changed.notify_all();",
                )],
            ),
            (
                "serves_silently",
                &[(
                    "        served.hindered = None;\n        self.changed.notify_all();",
                    "        served.hindered = None;",
                )],
            ),
        ],
    },
    Source {
        name: "due",
        path: "database/worker/due.rs",
        put: &[ATOMICS],
        defects: &[
            (
                "looks_without_a_fence",
                &[("        fence(Ordering::SeqCst);\n        self.is_set.load", "        self.is_set.load")],
            ),
            (
                "takes_without_a_fence",
                &[(
                    "        self.is_set.store(false, Ordering::Release);\n        fence(Ordering::SeqCst);",
                    "        self.is_set.store(false, Ordering::Release);",
                )],
            ),
            (
                "asks_without_trying_again",
                &[("            held.try_lock()\n        })", "            None\n        })")],
            ),
        ],
    },
];

fn main() {
    let out = std::env::var("OUT_DIR").expect("cargo sets it");
    let mut modules = String::new();
    for source in SOURCES {
        let path = Path::new("..").join(source.path);
        println!("cargo:rerun-if-changed={}", path.display());
        let text = std::fs::read_to_string(&path).expect("the library's source is there");
        // Tests, and comments on the whole file, are no part of it here.
        let text = text.split("#[cfg(test)]\nmod tests").next().expect("there is a first part");
        let text = text.lines().filter(|line| !line.starts_with("//!")).collect::<Vec<_>>().join("\n");
        let healthy = put(&text, source.put, source.name);
        write(&out, &mut modules, source.name, &healthy);
        for (defect, changes) in source.defects {
            let name = format!("{}_{defect}", source.name);
            write(&out, &mut modules, &name, &put(&healthy, changes, &name));
        }
    }
    std::fs::write(Path::new(&out).join("modules.rs"), modules).expect("the output folder can be written");
}

fn put(text: &str, changes: &[(&str, &str)], name: &str) -> String {
    changes.iter().fold(text.to_owned(), |text, (from, to)| {
        assert!(text.contains(from), "{name}: the source has no {from:?} any more");
        text.replace(from, to)
    })
}

fn write(out: &str, modules: &mut String, name: &str, text: &str) {
    let file = Path::new(out).join(format!("{name}.rs"));
    std::fs::write(&file, text).expect("the output folder can be written");
    modules.push_str(&format!(
        "#[path = {:?}]\n#[allow(dead_code)]\npub mod {name};\n",
        file.display().to_string()
    ));
}
