//! What must not compile, with what the compiler says about it.

use mp_core::testing::has_sources_of_std;

/// Built, not only checked: that a closure captures is seen when code is made for it.
#[test]
fn what_cannot_travel_is_refused_with_a_remedy() {
    let cases = trybuild::TestCases::new();
    cases.pass("tests/refused/allowed.rs");
    cases.compile_fail("tests/refused/captures_a_string.rs");
    cases.compile_fail("tests/refused/wrong_arguments.rs");
    cases.compile_fail("tests/refused/joined_before_start.rs");
    cases.compile_fail("tests/refused/started_twice.rs");
    cases.compile_fail("tests/refused/used_after_close.rs");
    // Where the sources of std are installed, the compiler shows lines of them, too.
    if has_sources_of_std() {
        mp_core::testing::skip(
            "the text of const assertions",
            "a toolchain without rust-src",
        );
    } else {
        cases.compile_fail("tests/refused/captures.rs");
        cases.compile_fail("tests/refused/function_pointer.rs");
    }
}
