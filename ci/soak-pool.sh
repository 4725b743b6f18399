#!/usr/bin/env bash
# Ten thousand workers of one pool, each with one task, and what is left of them: no descriptor, no
# memory, no process.
#     ci/soak-pool.sh [WORKERS]
source "$(dirname "$0")/common.sh"

workers=${1:-10000}
begin=$SECONDS
MP_RECYCLED=$workers cargo test --quiet --release -p mp-pool --test recycling -- --nocapture
echo "soak: $workers workers of a pool left nothing behind, $((SECONDS - begin)) s"
