//! Errors as one meets them: passed on by `?`, printed by a `main` that returns them, and by `unwrap`.
//!
//! Without `mp::init_in_tests!()`, so that one of them is there to be met.

use mp::{manager, pool, process, subprocess, sync};

/// Whether `?` turns an `E` into the error of the facade.
fn passes<E: Into<mp::Error>>() {}

#[test]
fn each_error_of_each_crate_is_passed_on_by_a_question_mark() {
    passes::<std::io::Error>();
    passes::<mp::EncodeError>();
    passes::<mp::DecodeError>();

    passes::<mp::StartError>();
    passes::<mp::ExitError>();
    passes::<process::UnknownStartMethod>();
    passes::<subprocess::SubprocessError>();

    passes::<mp::SendError>();
    passes::<mp::RecvError>();
    passes::<mp::AcceptError>();
    passes::<mp::ConnectError>();
    passes::<mp::AuthError>();

    passes::<mp::PutError<u8>>();
    passes::<mp::TryPutError<u8>>();
    passes::<mp::queue::PutManyError<u8>>();
    passes::<mp::GetError>();
    passes::<mp::TryGetError>();
    passes::<mp::JoinError>();
    passes::<mp::TaskDoneError>();

    passes::<mp::LockError<mp::LockGuard>>();
    passes::<mp::TryLockError<mp::LockGuard>>();
    passes::<mp::AcquireError>();
    passes::<mp::TryAcquireError>();
    passes::<mp::ReleaseError>();
    passes::<mp::BarrierError>();
    passes::<mp::OnceError>();
    passes::<sync::ListError>();

    passes::<mp::PoolError>();
    passes::<mp::TaskError>();
    passes::<mp::Unfinished>();
    passes::<pool::NotYet>();

    passes::<manager::StartError>();
    passes::<manager::ConnectError>();
    passes::<manager::CallError>();
    passes::<manager::LockError<()>>();
    passes::<manager::TryLockError<()>>();
    passes::<manager::PutError<u8>>();
    passes::<manager::TryPutError<u8>>();
    passes::<manager::GetError>();
    passes::<manager::TryGetError>();
    passes::<manager::TryAcquireError>();
    passes::<manager::BarrierError>();
    passes::<manager::TaskError>();
}

#[test]
fn a_forgotten_init_is_told_by_main_and_by_unwrap() {
    let Err(error) = mp::Pool::new(1) else {
        panic!("`init` was not called");
    };
    let remedy = "call `mp::init()` first in `main`";
    assert!(format!("{error:?}").contains(remedy), "{error:?}"); // what `unwrap` prints
    let error = mp::Error::from(error);
    assert!(format!("{error:?}").ends_with(&error.to_string())); // what `main` prints
    assert!(error.to_string().contains(remedy), "{error}");
}

#[test]
fn main_prints_the_stack_of_a_worker_as_lines() {
    let error = mp::Error::from(mp::TaskError::Panicked {
        message: "no luck".to_owned(),
        location: Some("a.rs:1:2".to_owned()),
        backtrace: Some("0: f\n1: main".to_owned()),
        pid: 7,
    });
    let text = "the task panicked in worker 7 at a.rs:1:2: no luck";
    assert_eq!(format!("{error:?}"), format!("{text}\n\n0: f\n1: main"));
}
