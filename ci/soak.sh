#!/usr/bin/env bash
# All tests again and again: plain, on one CPU, two runs at once, under load. Stops at the first
# failure, or test that was skipped, with its output.
#     ci/soak.sh [ROUNDS]        default 50; CARGO_TEST_ARGS="-p mp-queue" narrows it
source "$(dirname "$0")/common.sh"

rounds=${1:-50}
read -ra what <<<"${CARGO_TEST_ARGS:---workspace}"
logs=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true' EXIT

cargo test --quiet "${what[@]}" --no-run

one() { # LOG [COMMAND...]
    local log=$1
    shift
    "$@" cargo test --quiet "${what[@]}" >"$log" 2>&1
}

two_at_once() {
    one "$1" & local first=$!
    one "$1.second" & local second=$!
    wait $first && wait $second
}

under_load() {
    local hogs=() status=0
    for _ in $(seq $(($(nproc) * 2))); do
        (while :; do :; done) & hogs+=($!)
    done
    one "$1" || status=$?
    kill "${hogs[@]}"
    wait "${hogs[@]}" 2>/dev/null || true
    return $status
}

begin=$SECONDS
for round in $(seq "$rounds"); do
    log=$logs/$round
    case $((round % 4)) in
    1) how=plain && run=(one "$log") ;;
    2) how="one CPU" && run=(one "$log" taskset -c 0) ;;
    3) how="two at once" && run=(two_at_once "$log") ;;
    0) how="under load" && run=(under_load "$log") ;;
    esac
    if ! "${run[@]}" || ! no_skips "$log"*; then
        cat "$log"*
        echo "soak: round $round of $rounds ($how) failed after $((SECONDS - begin)) s"
        exit 1
    fi
    tests=$(cat "$log"* | awk '/^test result: ok/ { sum += $4 } END { print sum + 0 }')
    echo "round $round ($how): $tests tests passed, $((SECONDS - begin)) s"
    rm -f "$log"*
done
echo "soak: $rounds rounds without a failure in $((SECONDS - begin)) s"
