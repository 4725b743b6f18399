#!/usr/bin/env bash
# Ten thousand starts by each start method, and what is left of them: no descriptor, no zombie, no
# memory.
#     ci/soak-process.sh [STARTS]        MP_PROFILE=dev: with what `cargo test` has built
source "$(dirname "$0")/common.sh"

starts=${1:-10000}
profile=--release
[ "${MP_PROFILE:-release}" = release ] || profile=
begin=$SECONDS
cargo test --quiet ${profile:+"$profile"} -p mp-process --test neighbours -- many_starts "$starts"
echo "soak: $starts starts by each method left nothing behind, $((SECONDS - begin)) s"
