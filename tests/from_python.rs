//! The page `docs/from-python.md` is complete, and what it names is there.

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::{self, Command, Stdio},
};

use mp_core::testing::skip;

const PAGE: &str = include_str!("../docs/from-python.md");

/// A line of a table: the Python module of its section, and its three cells.
struct Row {
    module: &'static str,
    cells: Vec<&'static str>,
}

impl Row {
    fn parse(module: &'static str, line: &'static str) -> Self {
        let inner = line.strip_prefix("| ").and_then(|l| l.strip_suffix('|'));
        let inner = inner.unwrap_or_else(|| panic!("a row without its bars: {line}"));
        let mut cells = vec![];
        let mut rest = inner;
        while let Some(end) = rest
            .match_indices('|')
            .find(|(at, _)| !rest[..*at].ends_with('\\'))
        {
            cells.push(rest[..end.0].trim());
            rest = &rest[end.0 + 1..];
        }
        cells.push(rest.trim());
        Self { module, cells }
    }

    /// The names on the left, each with the version of Python that brought it, if the row says so.
    fn python(&self) -> Vec<(&'static str, Option<u32>)> {
        let names = self.cells[0].split(", ").map(|item| {
            let (name, note) = item.split_once(" (3.").unwrap_or((item, ""));
            let plain = name.strip_prefix('`').and_then(|n| n.strip_suffix('`'));
            let plain = plain.unwrap_or_else(|| panic!("{name} stands without backticks"));
            (plain, note.trim_end_matches(')').parse().ok())
        });
        names.collect()
    }

    /// What stands between [`…`] on the right.
    fn rust(&self) -> Vec<&'static str> {
        labels(self.cells[1])
    }
}

/// What stands between [`…`] in a text.
fn labels(text: &'static str) -> Vec<&'static str> {
    let begun = text.split("[`").skip(1);
    begun
        .filter_map(|rest| rest.split_once("`]").map(|(label, _)| label))
        .collect()
}

/// The page up to the definitions of its links.
fn text() -> &'static str {
    PAGE.split_once("\n[`").expect("definitions of links").0
}

fn rows() -> Vec<Row> {
    let mut module = "";
    let mut rows = vec![];
    for line in text().lines() {
        if let Some(heading) = line.strip_prefix("## ") {
            module = heading.trim_matches('`');
        } else if line.starts_with("| `") {
            rows.push(Row::parse(module, line));
        }
    }
    assert!(rows.len() > 150, "the page has {} rows", rows.len());
    rows
}

/// The minor version of `python3`, and the public names that it has, by module.
fn python() -> Option<(u32, BTreeSet<(String, String)>)> {
    let run = |args: &[&str]| {
        let mut python = Command::new("python3");
        let done = python.args(args).stderr(Stdio::inherit()).output().ok()?;
        assert!(done.status.success(), "python3 {args:?}: {}", done.status);
        Some(String::from_utf8(done.stdout).expect("text"))
    };
    let version = run(&["-c", "import sys; print(sys.version_info.minor)"])?;
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/from_python.py");
    let names = run(&[script])?;
    let pair = |line: &str| {
        let (module, name) = line.split_once(' ').expect("module and name");
        (module.to_owned(), name.to_owned())
    };
    Some((
        version.trim().parse().expect("a number"),
        names.lines().map(pair).collect(),
    ))
}

#[test]
fn each_public_name_of_python_has_its_line_and_no_line_is_of_another() {
    let Some((version, python)) = python() else {
        return skip(
            "each_public_name_of_python_has_its_line_and_no_line_is_of_another",
            "python3",
        );
    };
    let mut page = BTreeMap::new();
    for row in rows() {
        for (name, since) in row.python() {
            let before = page.insert((row.module.to_owned(), name.to_owned()), since);
            assert!(before.is_none(), "{} {name} has two lines", row.module);
        }
    }
    let missing: Vec<_> = python
        .iter()
        .filter(|name| !page.contains_key(*name))
        .collect();
    assert!(missing.is_empty(), "no line for {missing:#?}");
    let newer = |since: &Option<u32>| since.is_some_and(|since| since > version);
    let strange: Vec<_> = page
        .iter()
        .filter(|(name, since)| !python.contains(*name) && !newer(since))
        .collect();
    assert!(strange.is_empty(), "Python 3.{version} has no {strange:#?}");
}

#[test]
fn each_line_says_what_to_write_or_why_there_is_nothing() {
    for row in rows() {
        assert_eq!(row.cells.len(), 3, "{:?}", row.cells);
        let nothing = row.cells[1] == "–";
        assert_eq!(nothing, row.rust().is_empty(), "{:?}", row.cells);
        assert!(!nothing || !row.cells[2].is_empty(), "{:?}", row.cells);
    }
}

/// Where a label leads: below `mp`, unless it says otherwise.
fn path(label: &str) -> String {
    if label.starts_with("std::") {
        label.to_owned()
    } else {
        format!("mp::{label}")
    }
}

#[test]
fn each_rust_name_leads_somewhere() {
    let names: BTreeSet<_> = labels(text()).into_iter().collect();
    let wanted: String = names
        .iter()
        .map(|name| format!("[`{name}`]: {}\n", path(name)))
        .collect();
    let has = &PAGE[text().len() + 1..];
    assert!(has == wanted, "the page should end with\n\n{wanted}");
}

/// The library that this test was built with: the newest that lies beside it.
fn library(beside: &Path) -> PathBuf {
    let is_ours = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("libmp-") && name.ends_with(".rlib")
    };
    let files = fs::read_dir(beside).expect("the folder of this test");
    let candidates = files
        .filter_map(|file| Some(file.ok()?.path()))
        .filter(is_ours);
    candidates
        .max_by_key(|path| path.metadata().and_then(|meta| meta.modified()).ok())
        .expect("the library is built before its tests")
}

#[test]
fn each_rust_name_is_in_the_public_api() {
    let mut version = Command::new("rustdoc");
    let version = version.arg("--version").stderr(Stdio::null()).output();
    if !version.is_ok_and(|done| done.status.success()) {
        return skip("each_rust_name_is_in_the_public_api", "rustdoc");
    }
    let scratch = env::temp_dir().join(format!("mp-from-python-{}", process::id()));
    fs::create_dir_all(&scratch).expect("a folder for the check");
    let unresolved = unresolved_links(&scratch);
    fs::remove_dir_all(&scratch).expect("it was made above");
    assert_eq!(unresolved, None);
}

/// What rustdoc says if a name of the page is not public, by a page of documentation in `scratch`
/// that has a link to each.
fn unresolved_links(scratch: &Path) -> Option<String> {
    let source = scratch.join("links.rs");
    let labels = rows().into_iter().flat_map(|row| row.rust());
    let links: String = labels
        .map(|label| format!("//! [{}]\n", path(label)))
        .collect();
    fs::write(&source, links).expect("the file to check");

    let exe = env::current_exe().expect("this test");
    let beside = exe.parent().expect("a folder");
    let mut library_is = OsString::from("mp=");
    library_is.push(library(beside));
    let done = Command::new("rustdoc")
        .args(["--edition=2024", "--crate-type=lib", "--color=never"])
        .args(["-D", "rustdoc::broken_intra_doc_links"])
        .args(["-D", "rustdoc::private_intra_doc_links"])
        .arg("--extern")
        .arg(library_is)
        .arg("-L")
        .arg(format!("dependency={}", beside.display()))
        .arg("-o")
        .arg(scratch.join("doc"))
        .arg(source)
        .output()
        .expect("rustdoc");
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    (!done.status.success()).then_some(said)
}
