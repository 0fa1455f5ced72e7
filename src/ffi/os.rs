//! Process-wide facts: forks, the end of the process, threads of ours inside somebody else's process.
//!
//! A forked child has our statics but none of our threads, and any lock may have been held at that moment.
//! So every object remembers the fork generation it was made in, and is left alone in any other. A lock of SQLite's
//! own that a thread of ours holds at that moment would be locked for ever in the child, which may well use that
//! SQLite: so a fork waits for calls into SQLite that are under way ([`not_during_fork`]).
//!
//! At the end of the process the exiting thread's thread-locals are gone before our callback runs, and that
//! thread may hold any lock of ours: callbacks wait with a deadline only.

use std::sync::Once;
use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use std::{io, mem, ptr, thread};

use super::guard;
use crate::lock::Mutex;

static GENERATION: AtomicU32 = AtomicU32::new(0);
static AT_EXIT: Mutex<Vec<fn()>> = Mutex::new(Vec::new());

/// Ample for a worker: a TLS handshake with a signed upload was seen to need less than 48 KiB.
const STACK_BYTES: usize = 256 * 1024;

/// How many forks lie between this process and the one that loaded us; the same number for a process's life.
#[must_use]
pub fn fork_generation() -> u32 {
    static REGISTERED: Once = Once::new();
    REGISTERED.call_once(|| {
        // SAFETY: pthread_atfork(3); the handlers are async-signal-safe: atomics, clock_gettime, sched_yield.
        unsafe { libc::pthread_atfork(Some(before_fork), Some(after_fork), Some(in_forked_child)) };
    });
    GENERATION.load(Ordering::Relaxed)
}

/// Calls into SQLite that are under way, and forks that wait for them or have not happened yet.
static CALLS: AtomicU32 = AtomicU32::new(0);
static FORKS: AtomicU32 = AtomicU32::new(0);
/// Longest time that a fork waits: a call can be held up by a disk.
const FORK_WAIT: Duration = Duration::from_secs(1);

/// While it lives no fork happens, unless it lives long.
pub(super) struct NotDuringFork(());

/// Call it around a call into SQLite that may take a lock of SQLite's, on any thread.
pub(super) fn not_during_fork() -> NotDuringFork {
    loop {
        CALLS.fetch_add(1, Ordering::SeqCst);
        if FORKS.load(Ordering::SeqCst) == 0 {
            return NotDuringFork(());
        }
        CALLS.fetch_sub(1, Ordering::SeqCst);
        thread::yield_now();
    }
}

impl Drop for NotDuringFork {
    fn drop(&mut self) {
        CALLS.fetch_sub(1, Ordering::SeqCst);
    }
}

extern "C" fn before_fork() {
    FORKS.fetch_add(1, Ordering::SeqCst);
    let deadline = Instant::now() + FORK_WAIT;
    while CALLS.load(Ordering::SeqCst) > 0 && Instant::now() < deadline {
        thread::yield_now();
    }
}

extern "C" fn after_fork() {
    FORKS.fetch_sub(1, Ordering::SeqCst);
}

extern "C" fn in_forked_child() {
    GENERATION.fetch_add(1, Ordering::Relaxed);
    CALLS.store(0, Ordering::SeqCst);
    FORKS.store(0, Ordering::SeqCst);
}

/// Ends this process as `kill -9` does, for tests.
pub(super) fn kill_self() {
    // SAFETY: kill(2) on ourselves.
    unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
}

/// Calls `callback` when the process ends by `exit` or by returning from `main`; not on `_exit` or signals.
/// It runs once, on any thread, in a forked child too: compare [`fork_generation`] there.
pub fn at_exit(callback: fn()) {
    static REGISTERED: Once = Once::new();
    AT_EXIT.lock().push(callback);
    REGISTERED.call_once(|| {
        // SAFETY: atexit(3); the library is linked NODELETE, so the handler is there until the end.
        unsafe { libc::atexit(run_at_exit) };
    });
}

extern "C" fn run_at_exit() {
    // A lock held by a thread that a fork did not copy must not hang the child: then nothing is called.
    let Some(callbacks) = AT_EXIT.try_lock().map(|mut list| mem::take(&mut *list)) else { return };
    for callback in callbacks {
        // Nobody is left to tell of a panic.
        let _ = guard::catch(callback);
    }
}

/// The one `T` of this process, made at the first use and never freed. A forked child makes its own; the one it
/// inherited belongs to threads that it does not have.
pub fn process_wide<T: Sync>(
    slot: &AtomicPtr<T>,
    generation_of: fn(&T) -> u32,
    make: impl FnOnce(u32) -> T,
) -> &'static T {
    if let Some(there) = process_wide_if_there(slot, generation_of) {
        return there;
    }
    let generation = fork_generation();
    let old = slot.load(Ordering::Acquire);
    let new = Box::into_raw(Box::new(make(generation)));
    match slot.compare_exchange(old, new, Ordering::AcqRel, Ordering::Acquire) {
        // SAFETY: just made, and never freed from here on.
        Ok(_) => unsafe { &*new },
        Err(theirs) => {
            // SAFETY: nobody but us has seen it.
            drop(unsafe { Box::from_raw(new) });
            // SAFETY: only pointers made above are ever stored, and those are never freed.
            unsafe { &*theirs }
        }
    }
}

/// The same, without making one.
pub fn process_wide_if_there<T: Sync>(
    slot: &AtomicPtr<T>,
    generation_of: fn(&T) -> u32,
) -> Option<&'static T> {
    // SAFETY: null, or stored by `process_wide` and never freed.
    let there = unsafe { slot.load(Ordering::Acquire).as_ref() }?;
    (generation_of(there) == fork_generation()).then_some(there)
}

/// The name of this machine; empty where it has none.
#[must_use]
pub fn host_name() -> String {
    let mut name = [0u8; 256];
    // SAFETY: gethostname(2) writes at most what it is told; the last byte stays 0 whatever is cut.
    let answer = unsafe { libc::gethostname(name.as_mut_ptr().cast(), name.len() - 1) };
    let end = name.iter().position(|&b| b == 0).unwrap_or(0);
    if answer == 0 { String::from_utf8_lossy(&name[..end]).into_owned() } else { String::new() }
}

/// Starts a thread that a host does not notice: it takes none of the process's signals, has a small stack,
/// and runs at `nice` more than the process (0: the same; a thread cannot go back without privilege).
/// Of `name` the system shows 15 bytes.
///
/// # Errors
/// As `std::thread::Builder::spawn`.
pub fn spawn_quiet(name: &str, nice: u8, body: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    let before = block_signals()?;
    let spawned = thread::Builder::new().name(name.to_owned()).stack_size(STACK_BYTES).spawn(move || {
        if nice > 0 {
            be_nice(nice);
        }
        body();
    });
    // SAFETY: pthread_sigmask(3) with the mask it gave us.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const before, ptr::null_mut()) };
    spawned
}

/// Runs `task` with each number below `count` at the same time, each on a thread that takes none of the process's signals,
/// and waits for all.
///
/// # Errors
/// As `std::thread::Builder::spawn`; then some have not run.
pub fn in_parallel(count: usize, task: &(dyn Fn(usize) + Sync)) -> io::Result<()> {
    let before = block_signals()?;
    thread::scope(|scope| {
        let spawn = |n| thread::Builder::new().spawn_scoped(scope, move || task(n));
        let spawned: io::Result<Vec<_>> = (0..count).map(spawn).collect();
        // SAFETY: pthread_sigmask(3) with the mask it gave us.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const before, ptr::null_mut()) };
        spawned.map(drop)
    })
}

/// Blocks every signal on this thread, except those that its own faults raise: blocked, they would end the
/// process without the host's crash handler. Returns the mask before.
fn block_signals() -> io::Result<libc::sigset_t> {
    const OWN_FAULTS: [i32; 6] =
        [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGABRT, libc::SIGTRAP];
    // SAFETY: sigset_t is plain data, filled by sigfillset(3); pthread_sigmask(3) reads one and writes the other.
    unsafe {
        let mut blocked: libc::sigset_t = mem::zeroed();
        let mut before: libc::sigset_t = mem::zeroed();
        libc::sigfillset(&raw mut blocked);
        for signal in OWN_FAULTS {
            libc::sigdelset(&raw mut blocked, signal);
        }
        match libc::pthread_sigmask(libc::SIG_SETMASK, &raw const blocked, &raw mut before) {
            0 => Ok(before),
            code => Err(io::Error::from_raw_os_error(code)),
        }
    }
}

/// On Linux a thread id names one thread to setpriority(2). A refusal costs speed only.
fn be_nice(nice: u8) {
    // SAFETY: plain system calls on the calling thread.
    unsafe {
        let thread = libc::syscall(libc::SYS_gettid);
        let now = libc::getpriority(libc::PRIO_PROCESS, thread as libc::id_t);
        libc::setpriority(libc::PRIO_PROCESS, thread as libc::id_t, now + i32::from(nice));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    fn status_line(key: &str) -> String {
        let status = std::fs::read_to_string("/proc/thread-self/status").expect("read status");
        status.lines().find(|line| line.starts_with(key)).expect("the line").to_owned()
    }

    #[test]
    fn a_quiet_thread_blocks_signals_but_its_own_faults_and_the_spawner_keeps_its_mask() {
        let before = status_line("SigBlk");
        let (send, receive) = mpsc::channel();
        let report = move || {
            // SAFETY: getpriority(2) on this thread.
            let nice =
                unsafe { libc::getpriority(libc::PRIO_PROCESS, libc::syscall(libc::SYS_gettid) as u32) };
            send.send((status_line("SigBlk"), nice)).expect("send");
        };
        spawn_quiet("quiet", 5, report).expect("spawn").join().expect("join");
        let (mask, nice) = receive.recv().expect("receive");
        let mask = u64::from_str_radix(mask.split_whitespace().nth(1).expect("mask"), 16).expect("hex");
        assert_ne!(mask & (1 << (libc::SIGTERM - 1)), 0, "SIGTERM must be blocked");
        assert_eq!(mask & (1 << (libc::SIGSEGV - 1)), 0, "SIGSEGV must reach the crash handler");
        assert!(nice >= 5, "nice {nice}");
        assert_eq!(status_line("SigBlk"), before);
    }

    #[test]
    fn a_fork_waits_for_a_call_that_is_under_way() {
        let _ = fork_generation();
        // Stands for a lock of SQLite's.
        static LOCK: Mutex<()> = Mutex::new(());
        let call = not_during_fork();
        let held = LOCK.lock();
        let forking = thread::spawn(|| {
            // SAFETY: the child calls only try_lock, which allocates nothing, and _exit; it is awaited by its id.
            unsafe {
                let child = libc::fork();
                if child == 0 {
                    libc::_exit(i32::from(LOCK.try_lock().is_none()));
                }
                let mut status = 0;
                assert_eq!(libc::waitpid(child, &raw mut status, 0), child);
                status
            }
        });
        while FORKS.load(Ordering::SeqCst) == 0 {
            thread::yield_now();
        }
        drop(held);
        drop(call);
        assert_eq!(forking.join().unwrap(), 0, "the child found the lock held");
        drop(not_during_fork());
    }

    #[test]
    fn a_forked_child_is_of_the_next_generation() {
        let here = fork_generation();
        // SAFETY: the child makes async-signal-safe calls only.
        let status = unsafe {
            let child = libc::fork();
            if child == 0 {
                libc::_exit(i32::from(fork_generation() != here + 1));
            }
            let mut status = 0;
            assert_eq!(libc::waitpid(child, &raw mut status, 0), child);
            status
        };
        assert_eq!(status, 0);
        assert_eq!(fork_generation(), here);
    }
}
