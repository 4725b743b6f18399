#!/usr/bin/env bash
# Builds and tests each crate alone: a run of the whole workspace unifies features, and so hides a
# missing one.      ci/test.sh [CRATE...]
source "$(dirname "$0")/common.sh"

if [ $# -eq 0 ]; then
    mapfile -t crates < <(members)
    set -- "${crates[@]}"
fi
for crate in "$@"; do
    echo "== cargo test -p $crate"
    cargo test --quiet -p "$crate"
done
# What a crate has only with its features.
cargo test --quiet -p mp-pipe --features tokio --test tokio
cargo test --quiet -p mp-pipe --features tokio --doc asynchronous
cargo test --quiet -p mp-manager --features pool,sync --test pool --test shared_memory
cargo test --quiet -p multiprocess --features tokio --test reexports tokio
cargo test --quiet -p mp-pool --features progress --test progress
cargo test --quiet -p mp-sync --features ndarray --doc ndarray
