//! The three ways of making a process do the same; and each what only it does.

mod cases;

use mp_process::{Process, StartMethod, set_start_method, start_method};

fn main() {
    mp_process::init();
    macro_rules! cases {
        ($($case:ident)*) => { cases::run(&[$((stringify!($case), $case)),*]) };
    }
    cases! {
        values_come_back
        default_is_spawn_and_can_be_set
    }
}

fn add(a: u32, b: u32) -> u32 {
    a + b
}

fn for_each_method(case: impl Fn(StartMethod)) {
    for method in StartMethod::all() {
        case(method);
    }
}

fn values_come_back() {
    for_each_method(|method| {
        let child = Process::new(add, (40, 2))
            .start_method(method)
            .start()
            .unwrap();
        assert_eq!(child.join().unwrap(), 42, "{method}");
    });
}

/// Conformance: TestStartMethod.test_get_all
/// Conformance: TestStartMethod.test_set_get
fn default_is_spawn_and_can_be_set() {
    assert_eq!(StartMethod::all()[0], start_method());
    for_each_method(|method| {
        let before = set_start_method(method);
        assert_eq!(start_method(), method);
        let child = Process::new(|| start_method().to_string(), ())
            .start()
            .unwrap();
        assert_eq!(child.join().unwrap(), method.name(), "children inherit it");
        set_start_method(before);
    });
}
