#!/usr/bin/env bash
# The models: every interleaving of two or three threads at the locks and the ring.
#     ci/loom.sh [FILTER]        LOOM_MAX_PREEMPTIONS=3: more of them, and much slower
source "$(dirname "$0")/common.sh"

export LOOM_MAX_PREEMPTIONS=${LOOM_MAX_PREEMPTIONS:-2}
export RUSTFLAGS="${RUSTFLAGS:-} --cfg mp_loom"
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-target/loom} # the flag changes every crate

# A model is a file tests/loom*.rs.
mapfile -t models < <(ls mp-*/tests/loom*.rs 2>/dev/null)
[ ${#models[@]} -gt 0 ] || { echo "no models" >&2; exit 1; }
for model in "${models[@]}"; do
    echo "== $model"
    cargo test --quiet --release -p "${model%%/*}" --test "$(basename "$model" .rs)" -- "$@"
done
