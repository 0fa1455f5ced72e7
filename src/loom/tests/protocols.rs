//! Every order in which the threads of each protocol can meet; each protocol again with a defect, which must be found.

use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use loom::thread;
use sqlitereplicate_loom::atomic::{AtomicBool, AtomicU64, Ordering};
use sqlitereplicate_loom::clock::Deadline;
use sqlitereplicate_loom::types::Pgno;

fn every_order(body: impl Fn() + Sync + Send + 'static) {
    let builder = loom::model::Builder::new();
    let runs = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
    let counted = std::sync::Arc::clone(&runs);
    builder.check(move || {
        counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        body();
    });
    println!("{} orders", runs.load(std::sync::atomic::Ordering::Relaxed));
}

/// A test of the protocol; then with each defect, in a process of its own, as loom may not survive what it finds.
macro_rules! protocol {
    ($test:ident, $body:ident, $module:ident, [$($defect:ident),*]) => {
        #[test]
        fn $test() {
            $body!($module);
            $(must_be_found(stringify!($defect));)*
        }
        $(
            #[test]
            #[ignore = "a seeded defect"]
            fn $defect() {
                $body!($defect);
            }
        )*
    };
}

fn must_be_found(defect: &str) {
    let program = std::env::current_exe().unwrap();
    let mut child = Command::new(program);
    child.args(["--ignored", "--exact", "--nocapture", defect]).env("RUST_BACKTRACE", "0");
    let run = child.output().unwrap();
    let said = String::from_utf8_lossy(&run.stdout).into_owned() + &String::from_utf8_lossy(&run.stderr);
    assert!(said.contains("running 1 test"), "{said}");
    assert!(!run.status.success(), "the defect {defect} was not found");
    // Not because the model is too large.
    assert!(!said.contains("exceeded"), "{said}");
}

/// A page is changed and then noted by one process, while another takes, reads and settles: a change is read, or still noted.
/// Page 1 was noted before, for another change: a note of it finds its bit set, and one of page 2 finds others in the word.
macro_rules! a_note_is_not_lost {
    ($module:ident, $page:expr) => {
        every_order(|| {
            use sqlitereplicate_loom::$module::NotedSet;
            let open = || NotedSet::open(std::path::Path::new("")).unwrap();
            let (set, of_writer) = (open(), open());
            set.note(Pgno::FIRST);
            let pgno = Pgno::new($page).unwrap();
            let page = Arc::new(AtomicU64::new(0));
            let writer = {
                let page = Arc::clone(&page);
                thread::spawn(move || {
                    page.store(1, Ordering::Relaxed);
                    of_writer.note(pgno);
                })
            };
            let taken = set.take(false);
            let is_read = taken.pages.contains(&pgno) && page.load(Ordering::Relaxed) == 1;
            set.settle();
            writer.join().unwrap();
            assert!(is_read || set.take(false).pages.contains(&pgno), "the change is neither read nor noted");
        });
    };
}
macro_rules! a_second_note_is_not_lost {
    ($module:ident) => {
        a_note_is_not_lost!($module, 1)
    };
}
macro_rules! a_neighbour_is_not_lost {
    ($module:ident) => {
        a_note_is_not_lost!($module, 2)
    };
}
protocol!(
    page_noted_twice_is_read_after_its_change_or_stays_noted,
    a_second_note_is_not_lost,
    noted,
    [noted_relaxed_note]
);
protocol!(
    page_noted_beside_another_is_read_after_its_change_or_stays_noted,
    a_neighbour_is_not_lost,
    noted,
    [noted_clears_first, noted_looks_before_it_clears, noted_acquire_release]
);

/// A position and its salts are two words: who reads them without a lock gets both of one position.
macro_rules! covered_is_one_position {
    ($module:ident) => {
        every_order(|| {
            use sqlitereplicate_loom::$module::State;
            let state = Arc::new(State::open(std::path::Path::new("")).unwrap());
            state.set_covered(Some((7, 5)));
            let writer = {
                let state = Arc::clone(&state);
                thread::spawn(move || {
                    state.set_covered(Some((8, 3)));
                    state.set_covered(Some((8, 4)));
                })
            };
            let covered = state.covered();
            assert!([None, Some((7, 5)), Some((8, 3)), Some((8, 4))].contains(&covered), "{covered:?}");
            writer.join().unwrap();
            assert_eq!(state.covered(), Some((8, 4)));
        });
    };
}
protocol!(
    covered_position_is_never_of_two,
    covered_is_one_position,
    state,
    [state_keeps_the_frame, state_looks_at_the_salts_once]
);

/// One process notes what it saw of a cycle of the WAL while another begins the next: that has no more frames than it has.
macro_rules! frames_are_of_the_cycle {
    ($module:ident) => {
        every_order(|| {
            use sqlitereplicate_loom::$module::State;
            let open = || State::open(std::path::Path::new("")).unwrap();
            let (state, of_other) = (open(), open());
            state.set_cycle(Some(7));
            let other = thread::spawn(move || of_other.see_frames(7, 900));
            state.set_cycle(Some(8));
            state.see_frames(8, 1);
            other.join().unwrap();
            assert!(state.frames_seen() <= 1, "{} frames of a cycle that has 1", state.frames_seen());
        });
    };
}
protocol!(
    frames_seen_are_of_the_cycle_that_is_named,
    frames_are_of_the_cycle,
    state,
    [state_frames_of_any_cycle]
);

/// The mark of a clean close is seven words: whoever reads it while it is replaced gets one of them, or none.
macro_rules! clean_mark_is_whole {
    ($module:ident) => {
        every_order(|| {
            use sqlitereplicate_loom::fs::FileStat;
            use sqlitereplicate_loom::$module::State;
            let stat =
                |n| FileStat { device: 0, inode: n, size: n, modified_ns: n as i64, changed_ns: n as i64 };
            let state = Arc::new(State::open(std::path::Path::new("")).unwrap());
            state.set_clean(Some((&stat(1), 1)));
            let writer = {
                let state = Arc::clone(&state);
                thread::spawn(move || state.set_clean(Some((&stat(2), 2))))
            };
            let found = state.clean();
            assert!([None, Some(stat(1)), Some(stat(2))].contains(&found), "{found:?}");
            writer.join().unwrap();
            assert_eq!(state.clean(), Some(stat(2)));
        });
    };
}
protocol!(clean_mark_is_never_of_two_closes, clean_mark_is_whole, state, [state_mark_without_a_checksum]);

/// While somebody stands at commit phase two, the file is one commit: what is read under a token that is still good.
macro_rules! standing_file_is_one_commit {
    ($module:ident) => {
        every_order(|| {
            use sqlitereplicate_loom::$module::Standing;
            let standing = Arc::new(Standing::default());
            let file = Arc::new(AtomicU64::new(0));
            let committer = {
                let (standing, file) = (Arc::clone(&standing), Arc::clone(&file));
                thread::spawn(move || {
                    file.store(1, Ordering::Relaxed);
                    let stand = standing.stand();
                    drop(stand);
                    // The next transaction, which is not committed; reads and writes of a file are ordered by the kernel.
                    file.store(2, Ordering::Release);
                })
            };
            if let Some(token) = standing.now() {
                let read = file.load(Ordering::Acquire);
                assert!(!standing.still(token) || read == 1, "{read} was not committed");
            }
            committer.join().unwrap();
        });
    };
}
protocol!(
    file_is_one_commit_while_a_committer_stands,
    standing_file_is_one_commit,
    standing,
    [standing_does_not_look_again]
);

/// Who waits for its ticket is woken, and what it committed was looked at.
macro_rules! ticket_is_served {
    ($module:ident) => {
        every_order(|| {
            use sqlitereplicate_loom::$module::Tickets;
            let tickets = Arc::new(Tickets::default());
            let (commit, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
            let engine = {
                let (tickets, commit, sent) = (Arc::clone(&tickets), Arc::clone(&commit), Arc::clone(&sent));
                thread::spawn(move || {
                    loop {
                        let upto = tickets.newest();
                        if commit.load(Ordering::Relaxed) {
                            sent.store(true, Ordering::Relaxed);
                        }
                        tickets.serve(upto);
                        if upto == 1 {
                            break;
                        }
                        thread::yield_now();
                    }
                })
            };
            commit.store(true, Ordering::Relaxed);
            let ticket = tickets.draw();
            tickets.wait(ticket, Deadline::after(Duration::MAX)).unwrap();
            assert!(sent.load(Ordering::Relaxed), "let go before the commit was sent");
            engine.join().unwrap();
        });
    };
}
protocol!(waiting_commit_is_woken_when_it_was_sent, ticket_is_served, tickets, [tickets_serves_silently]);

/// Another process has sent it, and the worker of this one tells who waits.
macro_rules! nudge_is_heard {
    ($module:ident) => {
        every_order(|| {
            use sqlitereplicate_loom::$module::Tickets;
            let tickets = Arc::new(Tickets::default());
            let covered = Arc::new(AtomicBool::new(false));
            let worker = {
                let (tickets, covered) = (Arc::clone(&tickets), Arc::clone(&covered));
                thread::spawn(move || {
                    covered.store(true, Ordering::SeqCst);
                    tickets.nudge();
                })
            };
            let ticket = tickets.draw();
            tickets
                .wait_or(ticket, Deadline::after(Duration::MAX), &|| covered.load(Ordering::SeqCst))
                .unwrap();
            worker.join().unwrap();
        });
    };
}
protocol!(nudge_reaches_who_is_about_to_sleep, nudge_is_heard, tickets, [tickets_nudges_without_the_lock]);

/// A commit finds a run due, or makes one due; the run that it found sees it.
macro_rules! commit_has_a_run {
    ($module:ident) => {
        let at = std::time::Instant::now();
        every_order(move || {
            use sqlitereplicate_loom::$module::Due;
            let due = Arc::new(Due::default());
            // SQLite's own words in shared memory: no order of theirs counts.
            let commit = Arc::new(AtomicBool::new(false));
            assert!(due.set(at, false, || at));
            let worker = {
                let (due, commit) = (Arc::clone(&due), Arc::clone(&commit));
                thread::spawn(move || due.take(at) && commit.load(Ordering::Relaxed))
            };
            commit.store(true, Ordering::Relaxed);
            let found = due.is_set();
            if !found {
                due.set(at, false, || at);
            }
            let seen = worker.join().unwrap();
            assert!(seen || due.is_set(), "the run did not see the commit, and no other is due");
        });
    };
}
protocol!(
    commit_is_seen_by_the_run_that_it_finds_due,
    commit_has_a_run,
    due,
    [due_looks_without_a_fence, due_takes_without_a_fence]
);

/// Who finds the engine taken does what it came for, or whoever holds the engine hears of it.
macro_rules! request_is_heard {
    ($module:ident) => {
        every_order(|| {
            use sqlitereplicate_loom::$module::Again;
            use sqlitereplicate_loom::lock::Mutex;
            let (again, engine) = (Arc::new(Again::default()), Arc::new(Mutex::new(())));
            let work = Arc::new(AtomicU64::new(0));
            let other = {
                let (again, engine, work) = (Arc::clone(&again), Arc::clone(&engine), Arc::clone(&work));
                thread::spawn(move || {
                    // So that loom tries to come while the other one works: it does not think of that by itself.
                    work.fetch_add(1, Ordering::SeqCst);
                    again.lock_or_ask(&engine).is_some()
                })
            };
            let held = engine.lock();
            work.fetch_add(1, Ordering::SeqCst);
            drop(held);
            work.fetch_add(1, Ordering::SeqCst);
            let asked = again.was_asked();
            let ran = other.join().unwrap();
            assert!(asked || ran, "nobody runs, and nobody was asked to");
        });
    };
}
protocol!(request_for_another_run_is_heard, request_is_heard, due, [due_asks_without_trying_again]);
