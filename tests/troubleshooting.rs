//! The page `docs/troubleshooting.md` has every error text of the sources, and no other.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

const PAGE: &str = include_str!("../docs/troubleshooting.md");

/// Texts of others, and those that are put together of several pieces.
const NOT_IN_ONE_PIECE: [&str; 4] = [
    "No space left on device (os error 28)",
    "symbol `__pthread_get_minstack` is already defined",
    "`…` exited with code …: …",
    "`…` was ended by signal … (…)",
];

/// What makes an error of the literal that follows it.
const MAKERS: [&str; 15] = [
    "#[error(",
    "io::Error::other(",
    "io::Error::new(",
    "Error::custom(",
    "EncodeError::new::<",
    "DecodeError::new::<",
    "let text =",
    "invalid(",
    "PoolError::Invalid(",
    "Protocol(",            // of `AuthError`, also as `Self`
    "size_of::<F>() == 0,", // of a closure, when the program is built
    "\"Closed\" =>",        // this and the next of `PutError`
    "\"Encode\" =>",
    "\"TooLarge\" =>",
    "\"NoSpace\" =>",
];

fn sources() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let members = fs::read_dir(root).expect("the workspace").flatten();
    let crates = members.filter(|entry| entry.file_name().to_string_lossy().starts_with("mp-"));
    let mut folders: Vec<_> = crates.map(|entry| entry.path().join("src")).collect();
    folders.push(root.join("src"));
    let mut sources = vec![];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder of sources").flatten() {
            let path = entry.path();
            let name = entry.file_name();
            match path.extension().and_then(|extension| extension.to_str()) {
                _ if name == "testing" || name == "fuzzing.rs" => {} // for tests, not for users
                Some("rs") => sources.push(path),
                _ if path.is_dir() => folders.push(path),
                _ => {}
            }
        }
    }
    sources
}

/// The code without its comments and its own tests.
fn code(path: &Path) -> String {
    let text = fs::read_to_string(path).expect("a source");
    let code = text
        .split("#[cfg(test)]\nmod tests {")
        .next()
        .unwrap_or_default();
    let lines = code
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"));
    lines.fold(String::new(), |all, line| all + line + "\n")
}

/// The string literal at the front of `code`, maybe inside a call of `format!`.
fn literal(code: &str) -> Option<String> {
    let quote = code.find('"')?;
    // Another statement or attribute has begun before it: there is no literal here.
    if code[..quote].contains([';', '{', ']']) || quote > 120 {
        return None;
    }
    let mut text = String::new();
    let mut chars = code[quote + 1..].chars();
    loop {
        match chars.next()? {
            '"' => return Some(text),
            '\\' => match chars.next()? {
                '\n' => {
                    let rest = chars.as_str().trim_start();
                    chars = rest.chars();
                }
                other => text.push(other),
            },
            other => text.push(other),
        }
    }
}

/// `text` with … for each of its placeholders.
fn template(text: &str) -> String {
    let mut plain = String::new();
    let mut depth = 0;
    for char in text.chars() {
        match char {
            '{' => depth += 1,
            '}' => {
                depth -= 1;
                plain.push('…');
            }
            _ if depth == 0 => plain.push(char),
            _ => {}
        }
    }
    plain
}

/// The bodies of hand-written `Display`s of errors.
fn displays(code: &str) -> Vec<&str> {
    let names = code.split("std::error::Error for ").skip(1);
    let names = names.map(|rest| rest.split(['<', ' ']).next().unwrap_or_default());
    let body = |name| {
        let begin = code.find(&format!("fmt::Display for {name}"))?;
        let end = code[begin..].find("\n}\n").unwrap_or(code.len() - begin);
        Some(&code[begin..begin + end])
    };
    names.filter_map(body).collect()
}

/// Every error text, and where it stands.
fn texts() -> BTreeMap<String, PathBuf> {
    let mut texts = BTreeMap::new();
    for path in sources() {
        let code = code(&path);
        let made = MAKERS.iter().flat_map(|maker| code.split(maker).skip(1));
        let displayed = displays(&code).into_iter();
        let displayed = displayed.flat_map(|body| {
            let written = body.split("write!(f, ").skip(1);
            written.chain(body.split("write_str(").skip(1))
        });
        for text in made.chain(displayed).filter_map(literal) {
            let template = template(&text);
            if template.contains(' ') {
                texts.insert(template, path.clone());
            }
        }
    }
    assert!(texts.len() > 120, "only {} texts were found", texts.len());
    texts
}

/// The cells of the tables of error texts.
fn rows() -> Vec<[&'static str; 3]> {
    let (_, tables) = PAGE.split_once("| error text |").expect("tables");
    let lines = tables.lines().filter_map(|line| line.strip_prefix("| "));
    let rows = lines.filter(|line| !line.starts_with("error text"));
    let cells = rows.map(|row| {
        let cells: Vec<_> = row
            .trim_end_matches('|')
            .split(" | ")
            .map(str::trim)
            .collect();
        cells
            .try_into()
            .unwrap_or_else(|cells| panic!("{cells:?} are not three cells"))
    });
    cells.collect()
}

#[test]
fn each_error_text_is_explained() {
    let explained: BTreeSet<_> = rows().into_iter().map(|[text, ..]| text).collect();
    let texts = texts();
    let missing: Vec<_> = texts
        .iter()
        .filter(|(text, _)| !explained.contains(text.as_str()))
        .collect();
    assert!(missing.is_empty(), "not in the page: {missing:#?}");
}

#[test]
fn each_explained_text_exists() {
    let texts = texts();
    let strange: Vec<_> = rows()
        .into_iter()
        .map(|[text, ..]| text)
        .filter(|text| !texts.contains_key(*text) && !NOT_IN_ONE_PIECE.contains(text))
        .collect();
    assert!(strange.is_empty(), "in no source: {strange:#?}");
}

#[test]
fn each_error_text_has_one_line_with_its_cause() {
    let mut seen = BTreeSet::new();
    for [text, cause, _] in rows() {
        assert!(seen.insert(text), "twice: {text}");
        assert!(!cause.is_empty(), "no cause: {text}");
    }
}
