#!/bin/bash
# check-docs.sh - pages made from tables are up to date; `tools/check-docs.sh write` writes them.
cd "$(dirname "$0")/.." || exit 1
moec=${OUT:-build/cpu}/moec
if [ "${1-}" = write ]; then
    "$moec" help options >doc/options.md
elif ! "$moec" help options | diff -u doc/options.md - | head -n 30 | grep .; then
    echo "1 passed, 0 failed, 0 skipped"
else
    echo "doc/options.md differs from src/config/config.def; run tools/check-docs.sh write"
    echo "0 passed, 1 failed, 0 skipped"
    exit 1
fi
