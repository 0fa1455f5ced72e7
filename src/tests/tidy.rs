//! Reads the sources and keeps the house: which room may import which, who owns which power, how long a file is, and
//! that nothing unfinished stays behind. The table here is the one `docs/architecture.md` draws.
//!
//! What is read is code: comments do not count, nor does what only tests see (modules under `cfg(test)`), except
//! for length and leftovers, which count everywhere.

use std::collections::HashSet;
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// Rooms by layer, the lowest first. A room imports from lower layers only.
const LAYERS: [&[&str]; 7] = [
    &["types", "error", "status", "clock", "lock", "fs"],
    &["sqlite", "ltx"],
    &["staging", "replica", "catalog"],
    &["capture", "upload", "upkeep", "restore", "verify", "legacy", "doctor", "lease"],
    &["config", "database"],
    &["vfs", "sql", "cli"],
    &["extension"],
];
/// Layers whose rooms may import each other: nouns, and the lifecycle.
const NEIGHBOURS_MEET: [usize; 2] = [0, 4];
/// Imports that the layers alone would refuse or not know: (room, or file, what it may import).
const ALSO: [(&str, &str); 17] = [
    ("fs", "ffi::map"),
    ("fs", "ffi::writeback"),
    ("restore", "ffi::os"),
    ("database", "ffi::os"),
    ("database", "ffi::hooks"),
    ("database", "ffi::overwrite"),
    ("vfs", "ffi"),
    ("sql", "ffi"),
    ("extension", "ffi"),
    ("ffi", "error"),
    ("ffi", "lock"),
    ("ffi/entry.rs", "extension"),
    ("cli", "ffi::engine"),
    ("cli", "ffi::signals"),
    ("cli", "ffi::sql"),
    ("bin", "cli"),
    ("legacy", "restore::check_output"),
];
/// Defects that a test puts into the product, in tests only.
const SEEDED: &str = "testing::mutation";
/// Longest file, in lines, tests at its foot included.
const LINES_MAX: usize = 600;

/// A power, the words that use it, and the files or folders that may.
struct Power {
    name: &'static str,
    words: &'static [&'static str],
    owners: &'static [&'static str],
}

const POWERS: [Power; 8] = [
    Power {
        name: "unsafe code",
        words: &["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern", "allow(unsafe_code)"],
        owners: &["ffi/"],
    },
    Power {
        name: "threads",
        words: &["thread::spawn", "thread::Builder", "thread::scope"],
        owners: &["ffi/os.rs", "database/worker/threads.rs"],
    },
    Power {
        name: "the environment",
        words: &["env::var", "env::set_var", "env::remove_var", "env::current_dir", "env::temp_dir"],
        owners: &["config/"],
    },
    Power {
        name: "sockets",
        words: &["ureq::", "TcpStream", "TcpListener", "UdpSocket", "UnixStream"],
        owners: &["replica/s3/"],
    },
    Power { name: "arguments", words: &["env::args"], owners: &["cli/", "bin/"] },
    Power { name: "the wall clock", words: &["SystemTime::now", "CLOCK_REALTIME"], owners: &["clock.rs"] },
    Power {
        name: "standard output",
        words: &["print!", "println!", "eprint!", "eprintln!", "io::stdout", "io::stderr"],
        owners: &["cli/", "bin/"],
    },
    Power {
        name: "durable files",
        words: &[
            "sync_all",
            "sync_data",
            "fsync(",
            "fs::rename",
            "renameat",
            "hard_link",
            "linkat",
            "flock(",
            "fcntl_lock",
        ],
        owners: &["fs/"],
    },
];
/// Starts of names of the standard library's locks, and what would bring them in unseen.
const LOCKS: [&str; 4] = ["Mutex", "RwLock", "Condvar", "self"];
const ALL_OF_SYNC: [&str; 2] = ["std::sync;", "std::sync::*"];
const LOCKS_OWNER: &str = "lock.rs";
/// A line with this may read the environment wherever a test seam is wired.
const TEST_SEAM: &str = "SQLITEREPLICATE_TEST_";
const TEST_SEAM_OWNERS: [&str; 2] = ["ffi/", "extension.rs"];
/// Marks of unfinished work. Written in two halves, or this file would find itself.
const LEFTOVERS: [&str; 6] = [
    concat!("todo", "!("),
    concat!("unimplemented", "!("),
    concat!("dbg", "!("),
    concat!("FIX", "ME"),
    concat!("TO", "DO"),
    concat!("X", "XX"),
];

/// One source file, its path below `src/` with `/`.
struct Source {
    path: String,
    text: String,
    /// The whole file is seen by tests only.
    is_test: bool,
}

impl Source {
    fn room(&self) -> &str {
        let first = self.path.split('/').next().expect("BUG: a path has a first part");
        first.strip_suffix(".rs").unwrap_or(first)
    }

    /// Numbered lines of shipped code, comments taken out.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let end = if self.is_test { 0 } else { tests_at_foot(&self.text).unwrap_or(usize::MAX) };
        let lines = self.text.lines().take(end).enumerate();
        lines.map(|(i, line)| (i + 1, without_comment(line))).filter(|(_, line)| !line.trim().is_empty())
    }

    /// What the code imports from this crate: `room` or `room::part`, with the line.
    fn imports(&self) -> Vec<(usize, String)> {
        self.behind("crate::")
    }

    /// The first two names of each path behind `prefix`, with the line.
    fn behind(&self, prefix: &str) -> Vec<(usize, String)> {
        let mut code = String::new();
        let mut starts = Vec::new();
        for (number, line) in self.code() {
            starts.push((code.len(), number));
            writeln!(code, "{line}").unwrap();
        }
        let mut found = Vec::new();
        for (at, _) in code.match_indices(prefix) {
            if code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '$') {
                continue;
            }
            let number =
                starts.iter().rev().find(|(start, _)| *start <= at).expect("BUG: before the first line").1;
            for name in imported(&code[at + prefix.len()..]) {
                found.push((number, name));
            }
        }
        found
    }
}

/// The line index of `#[cfg(test)]` in front of `mod tests`.
fn tests_at_foot(text: &str) -> Option<usize> {
    let lines: Vec<&str> = text.lines().collect();
    lines.windows(2).position(|pair| {
        pair[0] == "#[cfg(test)]" && pair[1].trim_start_matches("pub(super) ").starts_with("mod tests")
    })
}

/// The line without a `//` comment; one inside a text, after a colon as in a URL, does not count.
fn without_comment(line: &str) -> &str {
    let comment = line.match_indices("//").find(|(at, _)| !line[..*at].ends_with(':'));
    comment.map_or(line, |(at, _)| &line[..at])
}

/// The names at the start of a path: one, or those of a group in braces.
fn imported(rest: &str) -> Vec<String> {
    let Some(group) = rest.strip_prefix('{') else { return vec![two_names(rest)] };
    let mut depth = 1;
    let mut items = vec![String::new()];
    for c in group.chars() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 1 => {
                items.push(String::new());
                continue;
            }
            _ => {}
        }
        if depth == 0 {
            break;
        }
        items.last_mut().expect("BUG: there is always one").push(c);
    }
    items.iter().map(|item| two_names(item.trim())).filter(|name| !name.is_empty()).collect()
}

/// `room` or `room::part` at the start of a path.
fn two_names(path: &str) -> String {
    let end = path.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':')).unwrap_or(path.len());
    path[..end].split("::").filter(|part| !part.is_empty()).take(2).collect::<Vec<_>>().join("::")
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    collect(&root, &mut files);
    files.sort();
    let texts: Vec<_> = files.iter().map(|file| std::fs::read_to_string(file).unwrap()).collect();
    let test_only: HashSet<PathBuf> =
        files.iter().zip(&texts).flat_map(|(file, text)| modules_of_tests(file, text)).collect();
    let below = |file: &Path| file.strip_prefix(&root).unwrap().to_str().unwrap().replace('\\', "/");
    let found = files.iter().zip(texts);
    found
        .map(|(file, text)| Source {
            path: below(file),
            text,
            is_test: file
                .ancestors()
                .any(|at| test_only.contains(at) || test_only.contains(&at.with_extension(""))),
        })
        .collect()
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            // A package of its own is no part of the library.
            if !path.join("Cargo.toml").exists() {
                collect(&path, files);
            }
        } else if path.extension().is_some_and(|e| e == "rs") {
            files.push(path);
        }
    }
}

/// Modules that a file declares for tests or `cargo fuzz` alone, as paths without extension.
fn modules_of_tests(file: &Path, text: &str) -> Vec<PathBuf> {
    let stem = file.file_stem().unwrap();
    let folder = file.parent().unwrap();
    let folder = if ["mod", "lib"].iter().any(|s| stem == *s) { folder.into() } else { folder.join(stem) };
    let lines: Vec<&str> = text.lines().collect();
    let for_tests = ["#[cfg(test)]", "#[cfg(any(test, fuzzing))]"];
    let pairs = lines.windows(2).filter(|pair| for_tests.contains(&pair[0]) && pair[1].ends_with(';'));
    pairs.filter_map(|pair| Some(folder.join(pair[1].trim_end_matches(';').split("mod ").nth(1)?))).collect()
}

fn layer(room: &str) -> Option<usize> {
    LAYERS.iter().position(|rooms| rooms.contains(&room))
}

/// Whether `file` of `room` may import `name`.
fn may_import(file: &str, room: &str, name: &str) -> bool {
    let other = name.split("::").next().expect("BUG: split gives one part at least");
    let also = ALSO.iter().any(|(who, what)| {
        (*who == room || *who == file) && (name == *what || name.starts_with(&format!("{what}::")))
    });
    let by_layer = match (layer(room), layer(other)) {
        (Some(mine), Some(theirs)) => theirs < mine || (theirs == mine && NEIGHBOURS_MEET.contains(&mine)),
        _ => false,
    };
    room == other || also || by_layer || name.starts_with(SEEDED)
}

/// Fails with every finding and what to do about them.
fn assert_none(findings: &[String], remedy: &str) {
    assert!(findings.is_empty(), "{}\n{remedy}", findings.join("\n"));
}

#[test]
fn rooms_import_only_from_below() {
    let mut findings = Vec::new();
    for source in sources().iter().filter(|s| s.path != "lib.rs") {
        for (number, name) in source.imports() {
            if !may_import(&source.path, source.room(), &name) {
                findings.push(format!("src/{}:{number}: {} imports {name}", source.path, source.room()));
            }
        }
    }
    assert_none(
        &findings,
        "a room imports from lower layers only: hand it what it needs, as a value or a trait",
    );
}

#[test]
fn every_room_has_a_layer() {
    let known: HashSet<&str> = LAYERS
        .iter()
        .flat_map(|rooms| rooms.iter().copied())
        .chain(["lib", "bin", "ffi", "fuzz", "protocol", "testing", "tests"])
        .collect();
    let mut findings: Vec<String> =
        sources().iter().filter(|s| !known.contains(s.room())).map(|s| s.path.clone()).collect();
    findings.dedup();
    assert_none(&findings, "give the room a layer here and in docs/architecture.md");
}

#[test]
fn powers_are_used_by_their_owners_only() {
    let mut findings = Vec::new();
    for source in sources() {
        for (number, line) in source.code() {
            for power in &POWERS {
                let owned = power.owners.iter().any(|owner| source.path.starts_with(owner));
                let seam = line.contains(TEST_SEAM)
                    && TEST_SEAM_OWNERS.iter().any(|owner| source.path.starts_with(owner));
                if !owned && !seam && power.words.iter().any(|word| uses(line, word)) {
                    findings.push(format!("src/{}:{number}: {} ({})", source.path, power.name, line.trim()));
                }
            }
        }
    }
    assert_none(
        &findings,
        "each power has one owner (docs/architecture.md): ask it, or be handed what it gives",
    );
}

#[test]
fn locks_are_those_that_a_forked_child_can_go_on_with() {
    let sources = sources();
    let others = sources.iter().filter(|s| s.path != LOCKS_OWNER);
    let findings: Vec<String> = others
        .flat_map(|s| locks_of(s).into_iter().map(|(line, name)| format!("src/{}:{line}: {name}", s.path)))
        .collect();
    assert_none(&findings, "take crate::lock, and name the rest of std::sync one by one");
}

/// Locks of the standard library that the code names.
fn locks_of(source: &Source) -> Vec<(usize, String)> {
    let modules = source.code().filter(|(_, line)| ALL_OF_SYNC.iter().any(|all| uses(line, all)));
    let mut found: Vec<_> = modules.map(|(number, _)| (number, "sync".to_owned())).collect();
    let names = source.behind("sync::").into_iter();
    found.extend(names.filter(|(_, name)| LOCKS.iter().any(|lock| name.starts_with(lock))));
    found
}

/// Whether the line has the word, and not as the end of a longer one.
fn uses(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| !line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_'))
}

#[test]
fn files_can_be_read_in_one_sitting() {
    let sources = sources();
    let long = sources.iter().map(|s| (s, s.text.lines().count())).filter(|(_, lines)| *lines > LINES_MAX);
    let findings: Vec<String> = long.map(|(s, lines)| format!("src/{}: {lines} lines", s.path)).collect();
    assert_none(&findings, "more than 600 lines: which second noun moved in?");
}

#[test]
fn every_file_says_what_it_is_for() {
    let sources = sources();
    let silent = sources.iter().filter(|s| !s.text.starts_with("//!") && s.room() != "bin");
    assert_none(
        &silent.map(|s| format!("src/{}", s.path)).collect::<Vec<_>>(),
        "begin with a //! comment: purpose, bytes, promises",
    );
}

#[test]
fn nothing_unfinished_stays_behind() {
    let mut findings = Vec::new();
    for source in sources() {
        for (i, line) in source.text.lines().enumerate() {
            if LEFTOVERS.iter().any(|word| uses(line, word)) {
                findings.push(format!("src/{}:{}: {}", source.path, i + 1, line.trim()));
            }
        }
    }
    assert_none(&findings, "finish it or take it out");
}

#[test]
fn the_reader_of_sources_sees_what_is_there() {
    let text = "//! x\nuse crate::{\n    error::{Error, Result},\n    ffi::map, // crate::sql\n};\n\
                fn f() { crate::types::Pgno::new(1) }\n// crate::cli\n#[cfg(test)]\nmod tests {\n    use crate::testing;\n}\n";
    let source = Source { path: "fs/x.rs".into(), text: text.into(), is_test: false };
    let names: Vec<_> = source.imports().into_iter().map(|(_, name)| name).collect();
    assert_eq!(
        names,
        ["error", "ffi::map", "types::Pgno"].map(String::from),
        "group, part, path; no comment, no test"
    );
    assert!(may_import("fs/x.rs", "fs", "ffi::map") && !may_import("fs/x.rs", "fs", "ffi::api"));
    assert!(may_import("ffi/entry.rs", "ffi", "extension") && !may_import("ffi/api.rs", "ffi", "extension"));
    assert!(
        may_import("config/mod.rs", "config", "database")
            && !may_import("replica/x.rs", "replica", "staging")
    );
    assert!(!may_import("ltx/x.rs", "ltx", "capture") && !may_import("ltx/x.rs", "ltx", "unheard_of"));
    assert!(
        uses("    env::var(x)", "env::var")
            && !uses("eprintln!(x)", "println!")
            && uses("eprintln!()", "eprintln!")
    );
    let text = "use std::sync::{Arc, Mutex};\nuse std::{io, sync::{RwLockReadGuard, atomic::AtomicBool}};\n\
                use crate::database::wait::sync::Tickets;\nuse std::sync;\nfn f(_: std::sync::Condvar) {}\n\
                use crate::lock::Mutex;\nuse std::sync::*;\n";
    let locks = locks_of(&Source { path: "fs/x.rs".into(), text: text.into(), is_test: false });
    let lines: Vec<_> = locks.into_iter().map(|(line, _)| line).collect();
    assert_eq!(lines, [4, 7, 1, 2, 5]);
    assert!(
        sources().iter().any(|s| s.path == "config/tests.rs" && s.is_test),
        "a test module in a file of its own"
    );
}
