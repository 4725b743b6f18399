//! Alone in its process: nothing but the question itself may have begun to count forks.

use mp_core::{hooks::fork_generation, testing::fork_child};

#[test]
fn a_forked_child_has_another_generation_and_its_parent_keeps_its_own() {
    let before = fork_generation();
    fork_child(|| {
        let here = fork_generation();
        assert_ne!(here, before);
        fork_child(|| assert!(![before, here].contains(&fork_generation()))).wait_success();
    })
    .wait_success();
    assert_eq!(fork_generation(), before);
}
