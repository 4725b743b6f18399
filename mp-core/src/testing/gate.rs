//! A gate between processes that start each other in any way.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::Duration,
};

/// Closed until it is opened; whoever has its key, in whichever process, can wait for that.
///
/// It is a file that is not there yet, so that the key is plain text and a killed process leaves
/// nothing. Dropping it removes the file.
#[derive(Debug)]
pub struct Gate(PathBuf);

impl Gate {
    /// A gate that nobody else has.
    #[must_use]
    #[allow(clippy::new_without_default)] // it makes something outside
    pub fn new() -> Self {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let number = MADE.fetch_add(1, Ordering::Relaxed); // only unique
        Self(env::temp_dir().join(format!("mp-gate-{}-{number}", process::id())))
    }

    /// What another process needs to [`pass`](Self::pass).
    #[must_use]
    pub fn key(&self) -> String {
        self.0.display().to_string()
    }

    /// Lets everybody pass, now and later.
    ///
    /// # Panics
    ///
    /// When the folder for temporary files cannot be written to.
    pub fn open(&self) {
        fs::write(&self.0, "").expect("the gate's file can be written");
    }

    /// Waits until the gate of this key is open.
    pub fn pass(key: &str) {
        while !Path::new(key).exists() {
            thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0); // nobody may have opened it
    }
}
