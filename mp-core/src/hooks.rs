//! What runs in a forked child, and what runs when this process ends.
//!
//! Exit hooks run once, at a normal exit (return from `main`, `process::exit`, a panic of the main
//! thread), from the highest priority to the lowest, last registered first among equals. A forked
//! child does not run those of its parent.
#![allow(unsafe_code)] // registers with glibc, and locks over a fork

use std::{
    cell::UnsafeCell,
    os::fd::RawFd,
    sync::{
        Once,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use nix::libc;

/// Everything here that a fork must not catch half-way: locked before, released on both sides.
///
/// A lock of our own, spinning for a few instructions only: it is the one lock that is taken in
/// the thread that forks and released in the child, which no library lock promises to allow.
#[repr(align(64))] // all of it that a forked child writes is on one page
struct Registry {
    locked: AtomicBool,
    /// Zero until somebody cares: from then on forks are counted.
    generation: AtomicU64,
    state: UnsafeCell<State>,
}

// SAFETY: `state` is only touched while `locked` is held.
unsafe impl Sync for Registry {}

struct State {
    after_fork: Vec<fn()>,
    /// To close in a forked child, which starts with none of its own.
    fork_closed: Vec<(u64, RawFd)>,
    exit: Vec<Exit>,
    next_id: u64,
}

struct Exit {
    id: u64,
    order: Order,
    /// The process that registered it, by fork generation.
    generation: u64,
    run: Box<dyn FnOnce() + Send>,
}

/// When an exit hook runs: the larger comes first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Order {
    /// Priorities below zero.
    After(i32),
    /// The children are ended and waited for.
    Children,
    /// Priorities from zero up.
    Before(i32),
}

static REGISTRY: Registry = Registry {
    locked: AtomicBool::new(false),
    generation: AtomicU64::new(0),
    state: UnsafeCell::new(State {
        after_fork: Vec::new(),
        fork_closed: Vec::new(),
        exit: Vec::new(),
        next_id: 0,
    }),
};

fn install() {
    static INSTALL: Once = Once::new();
    INSTALL.call_once(|| {
        // SAFETY: three functions that live as long as the program.
        unsafe {
            libc::pthread_atfork(
                Some(before_fork),
                Some(after_fork_parent),
                Some(after_fork_child),
            )
        };
        REGISTRY.generation.store(1, Ordering::Relaxed); // whoever reads 0 comes here, too, and waits
    });
}

impl Registry {
    fn acquire(&self) {
        while self
            .locked
            .compare_exchange_weak(false, true, Ordering::Acquire, Ordering::Relaxed)
            .is_err()
        {
            std::thread::yield_now(); // held for a few instructions, or over a fork
        }
    }

    fn release(&self) {
        self.locked.store(false, Ordering::Release); // meets the Acquire above
    }

    fn with<R>(&self, f: impl FnOnce(&mut State) -> R) -> R {
        install();
        self.acquire();
        // SAFETY: the lock is held, and `f` cannot reach the registry again without a deadlock.
        let result = f(unsafe { &mut *self.state.get() });
        self.release();
        result
    }
}

extern "C" fn before_fork() {
    REGISTRY.acquire();
}

extern "C" fn after_fork_parent() {
    REGISTRY.release();
}

/// Async-signal-safe but for the hooks, whose registrars promise it: no allocation, no lock.
extern "C" fn after_fork_child() {
    REGISTRY.generation.fetch_add(1, Ordering::Relaxed); // the child has one thread
    // SAFETY: locked by `before_fork` in this very thread.
    let state = unsafe { &mut *REGISTRY.state.get() };
    for (_, fd) in state.fork_closed.drain(..) {
        // SAFETY: the child's copy of a descriptor whose owner does not use it across a fork.
        // The raw call lies on a page of the C library that the child needs anyway.
        unsafe { libc::syscall(libc::SYS_close, fd) };
    }
    let hooks: *const [fn()] = state.after_fork.as_slice();
    REGISTRY.release();
    // SAFETY: the only thread is here, and a hook must not register hooks.
    for hook in unsafe { &*hooks } {
        hook();
    }
}

/// Runs `hook` in every child that this process forks, before `fork` returns there.
///
/// The hook may only do what is safe in a signal handler.
pub fn after_fork_in_child(hook: fn()) {
    REGISTRY.with(|state| {
        if !state
            .after_fork
            .iter()
            .any(|known| std::ptr::fn_addr_eq(*known, hook))
        {
            state.after_fork.push(hook);
        }
    });
}

/// Changes in a forked child: state that a child must not share with its parent remembers it.
#[inline]
#[must_use]
pub fn fork_generation() -> u64 {
    match REGISTRY.generation.load(Ordering::Relaxed) {
        0 => first_generation(),
        generation => generation, // written before the child has a second thread
    }
}

#[cold]
fn first_generation() -> u64 {
    install();
    REGISTRY.generation.load(Ordering::Relaxed) // written by `install`
}

/// Closes `fd` in every child that this process forks.
///
/// The owner must not use the number in a child, where [`fork_generation`] has changed.
#[must_use]
pub fn close_after_fork(fd: RawFd) -> ForkClosed {
    let generation = fork_generation();
    REGISTRY.with(|state| {
        state.next_id += 1;
        state.fork_closed.push((state.next_id, fd));
        ForkClosed {
            id: state.next_id,
            generation,
        }
    })
}

/// The registration of [`close_after_fork`].
#[derive(Debug)]
pub struct ForkClosed {
    id: u64,
    generation: u64,
}

impl ForkClosed {
    /// Ends the registration; whether the descriptor is still open, so that its owner closes it.
    pub fn forget(&self) -> bool {
        REGISTRY.with(|state| state.fork_closed.retain(|(id, _)| *id != self.id));
        self.generation == fork_generation()
    }
}

/// Runs `hook` when this process ends normally.
///
/// Python's order: priorities from 0 up come before the children are ended and joined, negative
/// ones after. A panic in a hook is reported and the others still run.
pub fn at_exit(priority: i32, hook: impl FnOnce() + Send + 'static) -> ExitHook {
    register(
        match priority {
            ..0 => Order::After(priority),
            0.. => Order::Before(priority),
        },
        hook,
    )
}

/// Runs `hook` when this process ends normally, after the exit hooks with a priority from 0 up and
/// before the others: for ending and joining children.
pub fn at_exit_for_children(hook: impl FnOnce() + Send + 'static) -> ExitHook {
    register(Order::Children, hook)
}

fn register(order: Order, hook: impl FnOnce() + Send + 'static) -> ExitHook {
    static INSTALL: Once = Once::new();
    extern "C" fn run() {
        run_exit_hooks();
    }
    INSTALL.call_once(|| {
        // SAFETY: a function that lives as long as the program.
        unsafe { libc::atexit(run) };
    });
    let generation = fork_generation();
    REGISTRY.with(|state| {
        state.next_id += 1;
        let id = state.next_id;
        state.exit.push(Exit {
            id,
            order,
            generation,
            run: Box::new(hook),
        });
        ExitHook { id }
    })
}

/// The registration of [`at_exit`]; dropping it leaves the hook registered.
#[derive(Debug)]
pub struct ExitHook {
    id: u64,
}

impl ExitHook {
    /// Takes the hook back; `false` if it has run or is running.
    pub fn cancel(self) -> bool {
        take(|exit| exit.id == self.id).is_some()
    }

    /// Runs the hook now instead of at exit; `false` if it has run or is running.
    pub fn run(self) -> bool {
        take(|exit| exit.id == self.id).is_some_and(|exit| {
            (exit.run)();
            true
        })
    }
}

/// Runs the exit hooks of this process that have not run yet. Done by `exit` itself; who leaves by
/// `_exit` calls it before.
pub fn run_exit_hooks() {
    while let Some(exit) = next() {
        // The default hook has printed the panic; the others must run all the same.
        let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(exit.run));
    }
}

fn next() -> Option<Exit> {
    let generation = fork_generation();
    REGISTRY.with(|state| {
        let (index, _) = state
            .exit
            .iter()
            .enumerate()
            .filter(|(_, exit)| exit.generation == generation)
            .max_by_key(|(_, exit)| (exit.order, exit.id))?;
        Some(state.exit.remove(index))
    })
}

fn take(matches: impl Fn(&Exit) -> bool) -> Option<Exit> {
    REGISTRY.with(|state| {
        let index = state.exit.iter().position(matches)?;
        Some(state.exit.remove(index))
    })
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[test]
    fn hooks_run_by_priority_then_last_first_and_once() {
        let order = Arc::new(Mutex::new(Vec::new()));
        let push = |priority, name: &'static str| {
            let order = order.clone();
            at_exit(priority, move || order.lock().unwrap().push(name))
        };
        push(0, "first at 0");
        push(10, "at 10");
        let children = order.clone();
        at_exit_for_children(move || children.lock().unwrap().push("children"));
        push(0, "second at 0");
        push(-5, "at -5");
        assert!(push(20, "cancelled").cancel());
        assert!(push(30, "run early").run());
        at_exit(5, || panic!("a hook that panics stops nobody"));
        run_exit_hooks();
        run_exit_hooks();
        let order = order.lock().unwrap();
        assert_eq!(
            *order,
            [
                "run early",
                "at 10",
                "second at 0",
                "first at 0",
                "children",
                "at -5"
            ]
        );
    }
}
