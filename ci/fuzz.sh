#!/usr/bin/env bash
# Feeds every parser of foreign bytes with libFuzzer, on the stable toolchain: its coverage pass is
# part of rustc, the driver comes with the crate libfuzzer-sys.
#     ci/fuzz.sh [SECONDS_PER_TARGET [TARGET...]]        default 60, all targets of fuzz/fuzz_targets
source "$(dirname "$0")/common.sh"

seconds=${1:-60}
shift || true
host=$(rustc -vV | sed -n 's/^host: //p')
# As cargo-fuzz sets them, but for the sanitizer, which needs a nightly toolchain. With `--target`
# build scripts and macros stay without instruments.
export RUSTFLAGS="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
 -Cllvm-args=-sanitizer-coverage-trace-compares --cfg fuzzing -Cdebug-assertions -Ccodegen-units=1"
cargo build --quiet --release --manifest-path fuzz/Cargo.toml --target "$host" --bins

targets=("$@")
[ ${#targets[@]} -gt 0 ] || mapfile -t targets < <(basename -s .rs fuzz/fuzz_targets/*.rs)
for target in "${targets[@]}"; do
    echo "== $target, $seconds s"
    mkdir -p "fuzz/corpus/$target" "fuzz/artifacts/$target"
    "fuzz/target/$host/release/$target" "fuzz/corpus/$target" -max_total_time="$seconds" \
        -artifact_prefix="fuzz/artifacts/$target/" -timeout=10 -rss_limit_mb=1024 \
        -print_final_stats=1 2>&1 | tee "fuzz/artifacts/$target.log" |
        grep -E "DONE|^stat::(number_of_executed_units|peak_rss_mb)|ERROR|SUMMARY|panicked|Test unit" || true
    status=${PIPESTATUS[0]}
    [ "$status" -eq 0 ] || { tail -n 40 "fuzz/artifacts/$target.log"; exit "$status"; }
done
