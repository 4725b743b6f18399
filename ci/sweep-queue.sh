#!/usr/bin/env bash
# The queue under kills, in full: after every instruction of every operation, and at random moments.
#     ci/sweep-queue.sh [KILLS [SEED...]]        default 10000 kills, seeds 1 2 3
#
# Fails if somebody who sleeps in the queue goes on later than 300 ms after a kill, or if there is no
# right to trace, so that nothing was killed.
#
# Some ten minutes on two cores for the instructions, less than two for each seed; cut after 40. For a
# look in two minutes: MP_STEP_STRIDE=10 ci/sweep-queue.sh 1000 1
source "$(dirname "$0")/common.sh"

log=$(mktemp)
trap 'rm -f "$log"' EXIT
kills=${1:-10000}
[ $# -gt 1 ] && shift || set -- 1 2 3
# Copies by vector instructions: each byte of `rep movsb` would be a step of its own.
large=0x40000000
export GLIBC_TUNABLES=glibc.cpu.x86_rep_movsb_threshold=$large:glibc.cpu.x86_rep_stosb_threshold=$large
MP_STEP_BOUND_MS=${MP_STEP_BOUND_MS:-300} MP_STEP_STRIDE=${MP_STEP_STRIDE:-1} timeout 2400 \
    cargo test --quiet --release -p mp-queue --test step -- --nocapture 2>&1 |
    tee "$log" | grep -E "^step |^test result|FAILED|panicked"
no_skips "$log"
for seed in "$@"; do
    start=$SECONDS
    cargo run --quiet --release --example killsweep -- --kills "$kills" --target queue --seed "$seed" | tail -n 1
    echo "seed $seed: $((SECONDS - start)) s"
done
