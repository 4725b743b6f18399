#!/usr/bin/env bash
# What lives in shared memory under kills, in full: a victim for every single instruction of every
# operation of every object.
#     ci/sweep-sync.sh [FILTER]        MP_STEP_STRIDE=10: every tenth instruction
#
# Fails if there is no right to trace, too, so that nothing was killed.
source "$(dirname "$0")/common.sh"

log=$(mktemp)
trap 'rm -f "$log"' EXIT
begin=$SECONDS
MP_STEP_STRIDE=${MP_STEP_STRIDE:-1} cargo test --quiet --release -p mp-sync --test death -- \
    --nocapture --test-threads 1 "$@" 2>&1 |
    tee "$log" | grep -oE "death of .*|^test result.*|^error.*|.*FAILED|.*panicked.*"
no_skips "$log"
echo "sweep: $((SECONDS - begin)) s"
