//! Counts the words of text files with several processes and one managed dict.
//!
//!     cargo run --example manager_dict [DIRECTORY [PROCESSES]]
//!
//! Without a directory: of this repository's own documentation.

use std::{collections::HashMap, path::PathBuf};

use mp::{Dict, Manager, Process, manager};

/// Takes files until there are none, and adds what is in each.
fn count(files: manager::Queue<PathBuf>, words: Dict<String, u64>) -> Result<u64, String> {
    let mut total = 0;
    for file in files.iter() {
        let file = file.map_err(|error| error.to_string())?;
        let Ok(text) = std::fs::read_to_string(&file) else {
            continue; // not text, or gone
        };
        let mut counts = HashMap::<String, u64>::new();
        for word in text
            .split(|c: char| !c.is_alphabetic())
            .filter(|word| !word.is_empty())
        {
            *counts.entry(word.to_lowercase()).or_default() += 1;
            total += 1;
        }
        // Atomic for each word, a few messages for all of them: no count is lost.
        words
            .merge(counts, |sum, count| sum.unwrap_or(0) + count)
            .map_err(|error| error.to_string())?;
    }
    Ok(total)
}

fn main() -> Result<(), mp::Error> {
    mp::init();

    let mut args = std::env::args().skip(1);
    let directory = args
        .next()
        .unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").to_owned());
    let processes = args.next().and_then(|n| n.parse().ok()).unwrap_or(3);

    let manager = Manager::start()?;
    let files = manager.queue::<PathBuf>()?;
    let words = manager.dict::<String, u64>()?;
    let texts = walkdir::WalkDir::new(&directory)
        .into_iter()
        .filter_entry(|entry| {
            !["target", ".git"]
                .iter()
                .any(|name| entry.file_name() == *name)
        })
        .filter_map(Result::ok)
        .map(walkdir::DirEntry::into_path)
        .filter(|path| {
            path.extension()
                .is_some_and(|end| end == "md" || end == "txt")
        });
    files.put_many(texts)?;
    println!("{} files in {directory}", files.len()?);
    files.close()?;

    let children: Vec<_> = (0..processes)
        .map(|_| Process::new(count, (files.clone(), words.clone())).start())
        .collect::<Result<_, _>>()?;
    let mut total = 0;
    for child in children {
        let name = child.name().to_owned();
        let counted = child
            .join()?
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        println!("{name} counted {counted} words");
        total += counted;
    }

    let mut all = words.items()?;
    assert_eq!(all.iter().map(|(_, count)| count).sum::<u64>(), total);
    all.sort_by_key(|(word, count)| (std::cmp::Reverse(*count), word.clone()));
    println!("{} different ones; the most frequent:", all.len());
    for (word, count) in all.iter().take(10) {
        println!("{count:8} {word}");
    }
    Ok(())
}
