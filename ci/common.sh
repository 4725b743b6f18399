# For the scripts of this folder: strict bash, in the root of the workspace.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# Fails, and names them, if LOG tells of tests that were skipped: what was to be tried was not.
no_skips() { # LOG...
    ! cat "$@" | grep -o 'skipped: .*' | sort -u | grep .
}

# The names of all packages of the workspace, one a line.
members() {
    cargo metadata --format-version 1 --no-deps |
        python3 -c 'import json, sys
for package in json.load(sys.stdin)["packages"]: print(package["name"])'
}
