#!/usr/bin/env bash
# The queue under kills, in full: after every instruction of every operation, and at random moments.
#     ci/sweep-queue.sh [KILLS [SEED...]]        default 10000 kills, seeds 1 2 3
source "$(dirname "$0")/common.sh"

kills=${1:-10000}
[ $# -gt 1 ] && shift || set -- 1 2 3
MP_STEP_STRIDE=${MP_STEP_STRIDE:-1} cargo test --quiet --release -p mp-queue --test step -- --nocapture 2>&1 |
    grep -E "^step |^test result|FAILED|panicked"
for seed in "$@"; do
    cargo run --quiet --release --example killsweep -- --kills "$kills" --target queue --seed "$seed" | tail -n 1
done
