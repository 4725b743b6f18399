//! Locks of the C library, in memory that forked children share.
#![allow(unsafe_code)] // the C library's calls

use std::mem::MaybeUninit;

use nix::libc;

use crate::word::Page;

/// `pthread_mutex_t`, shared between processes.
pub(crate) struct PthreadMutex<'a> {
    mutex: *mut libc::pthread_mutex_t,
    _page: &'a Page,
}

impl<'a> PthreadMutex<'a> {
    pub(crate) fn new(page: &'a Page, index: usize, robust: bool) -> Self {
        let mutex = page.at(index).cast();
        let mut attr = MaybeUninit::uninit();
        let attr = attr.as_mut_ptr();
        // SAFETY: `attr` is valid for writes.
        unsafe { libc::pthread_mutexattr_init(attr) };
        // SAFETY: initialised above.
        unsafe { libc::pthread_mutexattr_setpshared(attr, libc::PTHREAD_PROCESS_SHARED) };
        if robust {
            // SAFETY: initialised above.
            unsafe { libc::pthread_mutexattr_setrobust(attr, libc::PTHREAD_MUTEX_ROBUST) };
        }
        // SAFETY: room in a page that nobody else uses yet.
        unsafe { libc::pthread_mutex_init(mutex, attr) };
        Self::attach(page, index)
    }

    /// The one that [`new`](Self::new) made there.
    pub(crate) fn attach(page: &'a Page, index: usize) -> Self {
        Self {
            mutex: page.at(index).cast(),
            _page: page,
        }
    }

    #[inline]
    pub(crate) fn lock(&self) -> i32 {
        // SAFETY: initialised in `new`, mapped as long as the page.
        unsafe { libc::pthread_mutex_lock(self.mutex) }
    }

    #[inline]
    pub(crate) fn unlock(&self) {
        // SAFETY: as in `lock`.
        unsafe { libc::pthread_mutex_unlock(self.mutex) };
    }
}

/// `sem_t`, shared between processes, with one permit.
pub(crate) struct PosixSemaphore<'a> {
    semaphore: *mut libc::sem_t,
    _page: &'a Page,
}

impl<'a> PosixSemaphore<'a> {
    pub(crate) fn new(page: &'a Page, index: usize) -> Self {
        let semaphore = page.at(index).cast();
        // SAFETY: room in a page that nobody else uses yet.
        unsafe { libc::sem_init(semaphore, 1, 1) };
        Self {
            semaphore,
            _page: page,
        }
    }

    #[inline]
    pub(crate) fn acquire(&self) {
        // SAFETY: initialised in `new`, mapped as long as the page.
        unsafe { libc::sem_wait(self.semaphore) };
    }

    #[inline]
    pub(crate) fn release(&self) {
        // SAFETY: as in `acquire`.
        unsafe { libc::sem_post(self.semaphore) };
    }
}
