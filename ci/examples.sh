#!/usr/bin/env bash
# Runs every example with short arguments; each has to end with status 0 in a minute.
#     ci/examples.sh [EXAMPLE...]        MP_PROFILE=release: as a user would measure
source "$(dirname "$0")/common.sh"

profile=${MP_PROFILE:-dev}
folder=target/$([ "$profile" = dev ] && echo debug || echo "$profile")/examples
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

list() {
    cargo metadata --format-version 1 --no-deps | python3 -c 'import json, sys
for package in json.load(sys.stdin)["packages"]:
    for target in package["targets"]:
        if "example" in target["kind"]: print(target["name"])'
}

# What coreutils prints is what the example has to print, also while its workers are killed.
sha256sum_like_coreutils() {
    local program=$1 tree=target/ci-tree
    rm -rf "$tree"
    mkdir -p "$tree"
    cp -r src mp-*/src "$tree"
    touch "$tree/with \\ backslash" "$tree/with
newline" "$tree/"$'not utf-8 \xff'
    local size=128K # long enough that workers are killed, each not too long to end
    [ "$profile" = dev ] || size=2M
    for number in $(seq 200); do
        head -c $size /dev/urandom >"$tree/random $number"
    done
    find "$tree" -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum >"$scratch/expected"
    timeout 60 "$program" "$tree" >"$scratch/plain"
    diff "$scratch/expected" "$scratch/plain"
    timeout 60 "$program" --kill-workers "$tree" 2>&1 >"$scratch/killed" | tee "$scratch/summary"
    diff "$scratch/expected" "$scratch/killed"
    grep -qE ' [1-9][0-9]* killed' "$scratch/summary"
    rm -rf "$tree"
}

run() {
    local name=$1 program=$folder/$1
    case $name in
    sha256sum) sha256sum_like_coreutils "$program" ;;
    killsweep)
        for target in queue lock pool; do
            timeout 60 "$program" --kills 300 --target "$target" </dev/null
        done
        ;;
    *) timeout 60 "$program" </dev/null ;;
    esac
}

cargo build --quiet --workspace --examples --profile "$profile"
mapfile -t examples < <(list)
[ $# -eq 0 ] || examples=("$@")
failed=()
for name in "${examples[@]}"; do
    begin=$EPOCHREALTIME
    # Not in a condition: `set -e` would be off inside `run`.
    set +e
    (set -e; run "$name") >"$scratch/out" 2>&1
    status=$?
    set -e
    grep -o 'skipped: .*' "$scratch/out" || true # for .ci/run
    printf '%-28s status %d  %5d ms\n' "$name" "$status" \
        $(((${EPOCHREALTIME/./} - ${begin/./}) / 1000))
    if [ $status -ne 0 ]; then
        failed+=("$name")
        tail -n 40 "$scratch/out" | sed 's/^/    /'
    fi
done
echo "examples: ${#examples[@]} run, ${#failed[@]} failed${failed:+: ${failed[*]}}"
[ ${#failed[@]} -eq 0 ]
