#!/usr/bin/env bash
# Ten thousand starts by each start method, then what is left of them: no descriptor, no zombie, and
# no memory. With a number, so many starts instead.
set -euo pipefail
cd "$(dirname "$0")/.."

cargo test --release -p mp-process --test neighbours -- many_starts "${1:-10000}"
