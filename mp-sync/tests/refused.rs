//! What must not compile, with the text that tells why.

/// Also what Python reports at run time: waiting without the lock, releasing another thread's.
#[test]
fn wrong_use_of_guards_and_data_does_not_compile() {
    trybuild::TestCases::new().compile_fail("tests/refused/*.rs");
}
