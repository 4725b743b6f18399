#!/usr/bin/env bash
# Messages of more than 2 GiB, to another process and to a real Python and back, and tasks with 1 GiB;
# takes 9 GiB of memory.
#     ci/large-messages.sh
source "$(dirname "$0")/common.sh"

cargo test --release -p mp-pipe --test gigabytes -- --ignored --test-threads=1
cargo test --release -p mp-pool --test blocks -- --ignored
