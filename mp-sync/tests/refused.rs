//! What must not compile, with the text that tells why.

use mp_core::testing::{has_sources_of_std, skip};

/// Also what Python reports at run time: waiting without the lock, releasing another thread's.
#[test]
fn wrong_use_of_guards_and_data_does_not_compile() {
    let cases = trybuild::TestCases::new();
    cases.compile_fail("tests/refused/guard_outlives_lock.rs");
    cases.compile_fail("tests/refused/not_plain_data.rs");
    cases.compile_fail("tests/refused/wait_without_lock.rs");
    // Where the sources of std are installed, the compiler shows lines of them, too.
    if has_sources_of_std() {
        skip("guards in another thread", "a toolchain without rust-src");
    } else {
        cases.compile_fail("tests/refused/guard_in_another_thread.rs");
    }
}
