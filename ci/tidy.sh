#!/usr/bin/env bash
# Formatting, lints and documentation, with warnings as errors.
source "$(dirname "$0")/common.sh"

cargo fmt --all --check
cargo fmt --manifest-path fuzz/Cargo.toml --check
cargo clippy --keep-going --workspace --all-targets --all-features -- -D warnings
cargo clippy --workspace --lib --all-features -- -D clippy::print_stdout # that is for programs
RUSTDOCFLAGS="-D warnings" cargo doc --workspace --all-features --no-deps
ci/process_death.py
ci/dependencies.py
