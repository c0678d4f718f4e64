#!/bin/bash
# check-headers.sh - every header compiles alone and only once.
cd "$(dirname "$0")/.." || exit 1
out=${OUT:-build/cpu}
problems=$(
    for file in src/*/*.h; do
        grep -q '^#pragma once' "$file" || echo "$file: no #pragma once"
        ${CC:-gcc} -std=c17 -D_GNU_SOURCE -Wall -Wextra -march=native -I. -Isrc -I"$out" -fsyntax-only -x c - <<<"#include \"${file#src/}\"" 2>&1 |
            grep -E 'error|warning' | sed "s|^<stdin>|$file|"
    done
)
if [ -n "$problems" ]; then
    echo "$problems"
    echo "0 passed, 1 failed, 0 skipped"
    exit 1
fi
echo "1 passed, 0 failed, 0 skipped"
