#!/bin/bash
# check-headers.sh - every header compiles alone; every .c file of src that has a header includes it first.
cd "$(dirname "$0")/.." || exit 1
out=${OUT:-build/cpu}
problems=$(
    for file in src/*/*.h; do
        grep -q '^#pragma once' "$file" || echo "$file: no #pragma once"
        ${CC:-gcc} -std=c17 -D_GNU_SOURCE -Wall -Wextra -march=native -I. -Isrc -I"$out" -fsyntax-only -x c - <<<"#include \"${file#src/}\"" 2>&1 |
            grep -E 'error|warning' | sed "s|^<stdin>|$file|"
    done
    for file in src/*/*.c; do
        own=${file%.c}.h
        [ ! -f "$own" ] || [ "$(sed -n 's/^#include "\(.*\)".*/\1/p' "$file" | head -n 1)" = "${own#src/}" ] ||
            echo "$file: does not include ${own#src/} first"
    done
)
if [ -n "$problems" ]; then
    echo "$problems"
    echo "0 passed, 1 failed, 0 skipped"
    exit 1
fi
echo "1 passed, 0 failed, 0 skipped"
