//! Objects in a server process: children and other programs change them through proxies.
//!
//! `cargo run --example manager_hello` prints
//!
//! ```text
//! the words: {"be": 2, "not": 1, "or": 1, "to": 2}
//! the list: [1, 2, 3]
//! the namespace: answer = 42, names = ["answer", "question"]
//! another connection sees 3 objects
//! ```

use std::collections::BTreeMap;

use mp::{Dict, Manager, Process};

fn count(words: Dict<String, u64>, text: String) {
    for word in text.split_whitespace() {
        // One step for all who count: Python's `words[word] += 1` would lose some.
        words.update(word.to_owned(), 0, |n| n + 1).unwrap();
    }
}

fn main() -> Result<(), mp::Error> {
    mp::init();

    let manager = Manager::start()?;
    let words = manager.dict()?;
    let children = ["to be or", "not to be"]
        .map(|text| Process::new(count, (words.clone(), text.to_owned())).start());
    for child in children {
        child?.join()?;
    }
    let sorted: BTreeMap<String, u64> = words.items()?.into_iter().collect();
    println!("the words: {sorted:?}");

    let list = manager.list::<i64>()?;
    list.extend([3, 1, 2])?;
    list.sort()?;
    println!("the list: {:?}", list.to_vec()?);

    let settings = manager.namespace()?;
    settings.set("answer", &42)?;
    settings.set("question", "unknown")?;
    let answer = settings.get::<i32>("answer")?.expect("it was set");
    println!(
        "the namespace: answer = {answer}, names = {:?}",
        settings.names()?
    );

    // Another program joins by address and key; here it is this one again.
    let again = Manager::connect(manager.address(), manager.authkey())?;
    println!(
        "another connection sees {} objects",
        again.number_of_objects()?
    );
    Ok(())
}
