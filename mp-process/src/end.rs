//! The end of a child, as its parent puts it together: the exit status, and the child's own report.

use std::os::fd::AsFd;

use mp_core::{codec, transfer};
use serde::de::DeserializeOwned;

use crate::{
    child::Child,
    error::{ExitError, ExitStatus, MemoryUse},
    outcome::{PanicReport, Report},
    wire::{self, Message},
};

/// How a child ended, and what it said about it.
pub(crate) struct End<'a> {
    child: &'a Child,
    status: ExitStatus,
    peak: u64,
    message: Option<Message>,
}

impl<'a> End<'a> {
    pub(crate) fn of(child: &'a Child) -> Result<Self, ExitError> {
        let failed = |source| ExitError::System {
            name: child.name().to_owned(),
            pid: child.pid(),
            source,
        };
        let (status, peak) = loop {
            child.wait().map_err(failed)?;
            if let Some(ended) = child.try_reap().map_err(failed)? {
                break ended;
            }
        };
        let message = match child.take_line() {
            Some(line) => wire::receive(line.as_fd(), wire::REPORT).map_err(failed)?,
            None => None,
        };
        Ok(Self {
            child,
            status,
            peak,
            message,
        })
    }

    pub(crate) fn value<R: DeserializeOwned>(mut self) -> Result<R, ExitError> {
        let (name, pid) = (self.child.name().to_owned(), self.child.pid());
        let Some(Message { body, fds }) = self.message.take() else {
            return self.without_a_word();
        };
        let (report, value) = match codec::decode_prefix::<Report>(&body) {
            Ok(parts) => parts,
            Err(source) => return Err(ExitError::Decode { name, pid, source }),
        };
        match report {
            // It may have failed later, in an exit hook, say.
            Report::Value if !matches!(self.status, ExitStatus::Code(0) | ExitStatus::Unknown) => {
                self.without_a_word()
            }
            Report::Value => transfer::attach(fds, || codec::decode(value))
                .map_err(|source| ExitError::Decode { name, pid, source }),
            Report::Panic(PanicReport {
                message,
                location,
                backtrace,
            }) => Err(ExitError::Panic {
                name,
                pid,
                message,
                location,
                backtrace,
            }),
            Report::Encode { reason } => Err(ExitError::Encode { name, pid, reason }),
            Report::Bootstrap { reason } => Err(ExitError::Bootstrap { name, pid, reason }),
        }
    }

    /// It left no value, or must not be believed about it.
    fn without_a_word<R: DeserializeOwned>(&self) -> Result<R, ExitError> {
        let (name, pid) = (self.child.name().to_owned(), self.child.pid());
        let memory = self
            .child
            .memory_limit()
            .map(|limit| MemoryUse::new(limit, self.peak));
        match self.status {
            ExitStatus::Code(0) if std::any::type_name::<R>() == "()" => {
                codec::decode(&[]).map_err(|source| ExitError::Decode { name, pid, source })
            }
            ExitStatus::Code(code) => Err(ExitError::Code {
                name,
                pid,
                code,
                memory,
            }),
            ExitStatus::Signal(signal) => Err(ExitError::Signal {
                name,
                pid,
                signal,
                memory,
            }),
            ExitStatus::Unknown => Err(ExitError::Unknown { name, pid }),
        }
    }
}
