//! What the types rule out.

/// Conformance: _TestConnection.test_duplex_false
#[test]
fn an_end_does_only_what_its_direction_and_types_allow() {
    trybuild::TestCases::new().compile_fail("tests/ui/*.rs");
}
