#!/usr/bin/env bash
# Ten thousand starts by each start method, and what is left of them: no descriptor, no zombie, no
# memory.
#     ci/soak-process.sh [STARTS]
source "$(dirname "$0")/common.sh"

cargo test --release -p mp-process --test neighbours -- many_starts "${1:-10000}"
