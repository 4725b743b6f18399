//! Beside code that is not ours: a shared library in somebody's program, C++ objects in a test binary.
#![allow(unsafe_code)] // loads a library and calls into it

use std::{
    ffi::{CStr, CString},
    fs,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use mp_core::testing::{skip, tool};
use nix::libc;

/// Where the fixture's package was made, from the files in `tests/fixture`.
fn fixture() -> &'static Path {
    static FIXTURE: OnceLock<PathBuf> = OnceLock::new();
    FIXTURE.get_or_init(|| {
        let own = Path::new(env!("CARGO_MANIFEST_DIR"));
        let made = Path::new(env!("CARGO_TARGET_TMPDIR")).join("mp-fixture");
        for dir in ["src/bin", "tests"] {
            fs::create_dir_all(made.join(dir)).unwrap();
        }
        for file in [
            "build.rs",
            "src/early.cpp",
            "src/lib.rs",
            "src/bin/aborts.rs",
            "tests/early.rs",
        ] {
            fs::copy(own.join("tests/fixture").join(file), made.join(file)).unwrap();
        }
        let manifest = fs::read_to_string(own.join("tests/fixture/manifest.toml")).unwrap();
        let manifest = manifest.replace("MP_PROCESS", own.to_str().unwrap());
        fs::write(made.join("Cargo.toml"), manifest).unwrap();
        // The versions that are here already.
        let _ = fs::copy(own.join("../Cargo.lock"), made.join("Cargo.lock"));
        made
    })
}

/// Where everything of this workspace is built: what the fixture depends on is there already.
fn target() -> &'static Path {
    Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap()
}

fn cargo(command: &str) -> Command {
    let mut cargo = Command::new(env!("CARGO"));
    cargo
        .args([command, "--offline"])
        .current_dir(fixture())
        .env("CARGO_TARGET_DIR", target())
        .env_remove("CARGO_ENCODED_RUSTFLAGS");
    cargo
}

#[test]
fn constructors_in_cpp_have_run_before_a_child_of_a_test_begins() {
    if tool("c++").is_none() {
        return skip("constructors_in_cpp_have_run", "c++");
    }
    let output = cargo("test").args(["--test", "early"]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("2 passed"),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn a_panic_that_aborts_is_told() {
    if tool("c++").is_none() {
        return skip("a_panic_that_aborts_is_told", "c++");
    }
    let aborting = ["--config", "profile.dev.panic='abort'"];
    let output = cargo("run")
        .args(aborting)
        .args(["--bin", "aborts"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(
        text,
        "told: the last words\n",
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn a_shared_library_is_told_where_children_begin() {
    if tool("c++").is_none() {
        return skip("a_shared_library_is_told_where_children_begin", "c++");
    }
    let output = cargo("build").arg("--lib").output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let library = target().join("debug/libmp_fixture.so");
    let path = CString::new(library.as_os_str().as_bytes()).unwrap();
    // SAFETY: a string that ends in NUL; the library runs no code of consequence when loaded.
    let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW) };
    assert!(!handle.is_null());
    // SAFETY: a library that was loaded, and a string that ends in NUL.
    let function = unsafe { libc::dlsym(handle, c"start_a_child".as_ptr()) };
    assert!(!function.is_null());
    // SAFETY: the type it has in the fixture.
    let function: unsafe extern "C" fn(*mut u8, usize) = unsafe { std::mem::transmute(function) };
    let mut text = [0_u8; 512];
    // SAFETY: room for that many bytes.
    unsafe { function(text.as_mut_ptr(), text.len()) };
    let text = CStr::from_bytes_until_nul(&text).unwrap().to_str().unwrap();
    assert!(
        text.contains("shared library") && text.contains("main executable"),
        "{text}"
    );
}
