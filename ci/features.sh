#!/usr/bin/env bash
# Every crate without features, with each of its features alone, and with all.
source "$(dirname "$0")/common.sh"

combinations() {
    cargo metadata --format-version 1 --no-deps | python3 -c 'import json, sys
for package in json.load(sys.stdin)["packages"]:
    if not package["features"]: continue
    print(package["name"])
    for feature in package["features"]:
        if feature != "default": print(package["name"], feature)
    print(package["name"], ",".join(package["features"]))'
}

combinations | awk '!seen[$0]++' | while read -r crate features; do
    echo "== $crate: ${features:-no features}"
    cargo clippy --quiet -p "$crate" --no-default-features --features "${features:-}" -- -D warnings </dev/null
done
