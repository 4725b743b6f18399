#!/usr/bin/env python3
"""Fails for a public type that several processes share, or that stands for one, whose documentation
has no section "Process death". Reads what `cargo doc --workspace --all-features` has written.
"""

import pathlib
import re
import sys

DOC = pathlib.Path(__file__).resolve().parent.parent / "target" / "doc"
CRATES = ["mp_process", "mp_pipe", "mp_sync", "mp_queue", "mp_pool", "mp_manager"]

# They do not travel, and stand for processes, or serve them.
ALSO = {
    "mp_process::Process", "mp_pipe::Listener", "mp_queue::Claimed", "mp_pool::Pool",
    "mp_pool::Executor", "mp_manager::Manager", "mp_manager::Server",
}
# Plain values: a copy of one has nothing to do with the process that made it.
PLAIN = {
    "mp_process::Bytes", "mp_process::Fd", "mp_pipe::Bytes", "mp_queue::Bytes", "mp_pool::Bytes",
    "mp_manager::ClientInfo", "mp_manager::DebugInfo", "mp_manager::ObjectInfo",
    "mp_process::target::Address",
}


def pages():
    for crate in CRATES:
        for page in sorted((DOC / crate).glob("**/struct.*.html")):
            text = page.read_text()
            if 'http-equiv="refresh"' not in text:  # the old place of a re-exported type
                folder = "::".join(page.relative_to(DOC).parent.parts)
                yield f"{folder}::{page.name.split('.')[1]}", text


def main():
    pages_by_name = dict(pages())
    lost = (ALSO | PLAIN) - pages_by_name.keys()
    if not pages_by_name or lost:
        sys.exit(f"no documentation of {sorted(lost)}: cargo doc --workspace --all-features --no-deps")
    travels = {name for name, text in pages_by_name.items() if re.search('id="impl-Serialize-for-', text)}
    shared = (travels | ALSO) - PLAIN
    silent = sorted(name for name in shared if 'id="process-death"' not in pages_by_name[name])
    for name in silent:
        print(f"{name}: no section `# Process death`, and it is shared between processes")
    print(f"process death: {len(shared)} shared types, {len(silent)} without a word on it")
    sys.exit(bool(silent))


if __name__ == "__main__":
    main()
