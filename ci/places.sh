#!/usr/bin/env bash
# All tests where they are seldom run: as another user, with /dev/shm full, without /dev/shm, on one
# CPU. Needs root, for the first three. What a place makes impossible is left out there, by name.
#     ci/places.sh [PLACE...]        user full none one
source "$(dirname "$0")/common.sh"

# Test programs that build packages, as a user without a home cannot.
BUILDERS="compile_fail refused foreign init"
# Test programs, and tests of others, whose subject are names in /dev/shm.
NAMERS="shared_memory"
NAMED="a_name_that_is_taken_is_passed_over named:: every_handle_works_in_a_child_that_got_it
    a_named_segment_is_a_leak another_runs_segment_is_none_of_ours
    each_public_name_of_python_has_its_line_and_no_line_is_of_another"

work=$(mktemp -d)
chmod 755 "$work"
trap 'rm -rf "$work"' EXIT

# Lines "name, folder of its package, program".
programs() {
    cargo test --workspace --no-run --message-format=json 2>/dev/null | python3 -c 'import json, os, sys
for line in sys.stdin:
    message = json.loads(line)
    if message.get("executable") and message["profile"]["test"]:
        print(message["target"]["name"], os.path.dirname(message["manifest_path"]), message["executable"])'
}

# Runs every program but those named LEFT_OUT by way of COMMAND, and in it every test but the SKIPPED.
run() { # PLACE LEFT_OUT SKIPPED COMMAND...
    local place=$1 left_out=$2 skipped=$3 failed=0 passed=0 skips=() name folder program
    for name in $skipped; do skips+=(--skip "$name"); done
    shift 3
    while read -r name folder program; do
        case " $left_out " in *" $name "*) continue ;; esac
        if (cd "$folder" && "$@" "$program" "${skips[@]}" </dev/null >"$work/log" 2>&1); then
            passed=$((passed + $(awk '/^test result: ok/ { sum += $4 } END { print sum + 0 }' "$work/log")))
        else
            failed=$((failed + 1))
            echo "--- $place: $program failed:"
            tail -n 40 "$work/log"
        fi
    done <"$work/programs"
    left_out=$(echo $left_out $skipped)
    echo "places: $place: $passed tests passed, $failed programs failed; left out: ${left_out:-nothing}"
    [ "$failed" -eq 0 ]
}

# The programs and their fixtures, where that user can read them.
as_user() {
    chmod -R a+rX target/debug
    run "as another user" "$BUILDERS" "" \
        setpriv --reuid=65534 --regid=65534 --clear-groups --inh-caps=-all --bounding-set=-all \
        env HOME="$work" TMPDIR=/tmp
}

full() {
    run "/dev/shm full" "$NAMERS" "$NAMED" unshare --mount sh -c \
        'mount -t tmpfs -o size=64k full /dev/shm && { head -c 1M /dev/zero >/dev/shm/filled 2>/dev/null; exec "$0" "$@"; }'
}

# In a /dev of its own: to remove the folder from the machine's would take it from every other program.
none() {
    mkdir "$work/dev"
    run "without /dev/shm" "$NAMERS" "$NAMED" unshare --mount sh -c '
        mount -t tmpfs dev "$0" && mkdir "$0/pts" && mount --bind /dev/pts "$0/pts" &&
        (cd /dev && cp -a null zero full random urandom tty ptmx fd stdin stdout stderr "$0") &&
        mount --rbind "$0" /dev && exec "$@"' "$work/dev"
}

one() {
    run "one CPU" "" "" taskset -c 0
}

programs >"$work/programs"
[ -s "$work/programs" ] || { echo "the tests cannot be built" >&2; exit 1; }
[ $# -gt 0 ] || set -- user full none one
status=0
for place in "$@"; do
    case $place in
    user) as_user || status=1 ;;
    full | none | one) "$place" || status=1 ;;
    *) echo "no place $place" >&2; exit 2 ;;
    esac
done
exit "$status"
