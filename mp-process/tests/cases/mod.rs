//! A harness without threads: the cases of a test file, one after the other in the main thread, each
//! under an alarm that ends the whole when it rings.

/// How many seconds a case may take; a watchdog that is not a thread.
const LIMIT: u32 = 120;

/// Runs those of `cases` whose name holds one of the words on the command line; all if there is none.
pub(crate) fn run(cases: &[(&str, fn())]) {
    let mut words: Vec<String> = std::env::args().skip(1).collect();
    if words.iter().any(|word| word == "--list") {
        cases.iter().for_each(|(name, _)| println!("{name}: test"));
        return;
    }
    words.retain(|word| !word.starts_with('-'));
    let wanted = |name: &str| words.is_empty() || words.iter().any(|word| name.contains(word));
    let chosen: Vec<_> = cases.iter().filter(|(name, _)| wanted(name)).collect();
    println!("\nrunning {} tests", chosen.len());
    for (name, case) in &chosen {
        nix::unistd::alarm::set(LIMIT);
        case(); // a panic ends this process, with its code
        nix::unistd::alarm::cancel();
        println!("test {name} ... ok");
    }
    println!("\ntest result: ok. {} passed", chosen.len());
}
