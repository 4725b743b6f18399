//! The fuzz target knows every method that a server has.

use std::{collections::BTreeSet, fs, path::Path};

/// Every text that stands in quotes in `line`.
fn quoted(line: &str) -> impl Iterator<Item = &str> {
    line.split('"').skip(1).step_by(2)
}

#[test]
fn the_fuzz_target_calls_every_method_of_every_type() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let fuzzing = fs::read_to_string(source.join("fuzzing.rs")).unwrap();
    let list = fuzzing.lines().skip_while(|line| !line.contains("METHODS"));
    let known: BTreeSet<_> = list
        .take_while(|line| *line != "];")
        .flat_map(quoted)
        .collect();
    let mut methods = 0;
    for file in fs::read_dir(source.join("referents")).unwrap() {
        let text = fs::read_to_string(file.unwrap().path()).unwrap();
        // The arms of `match call.method()`.
        let arms = text.lines().map(str::trim_start);
        let arms = arms.filter(|line| line.starts_with('"') && line.contains("=>"));
        for arm in arms {
            for method in quoted(arm.split("=>").next().unwrap()) {
                assert!(known.contains(method), "`{method}` is not in METHODS");
                methods += 1;
            }
        }
    }
    assert!(methods > 80, "the sources look different now: {methods}");
}
