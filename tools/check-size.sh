#!/bin/bash
# check-size.sh - no function over 100 lines, no file over 500. Exceptions with their reasons stand below.
cd "$(dirname "$0")/.." || exit 1
allowed_files='
'
if ! ctags --version 2>/dev/null | grep -q Universal; then
    echo "skip check-size: universal-ctags is not installed"
    echo "0 passed, 0 failed, 1 skipped"
    exit 0
fi
problems=$(
    for file in src/*/*.[ch] tests/*.[ch] tests/*/*.[ch]; do
        [ -f "$file" ] || continue
        lines=$(wc -l <"$file")
        [ "$lines" -le 500 ] || echo "$allowed_files" | grep -q "^$file " || echo "$file: $lines lines, at most 500"
    done
    ctags -R --languages=C --map-C=+.h --kinds-C=f --fields=+ne --output-format=u-ctags -f - src tests |
        sed -n 's/^\([^\t]*\)\t\([^\t]*\)\t.*\tline:\([0-9]*\).*\tend:\([0-9]*\).*/\1 \2 \3 \4/p' |
        awk '$4 - $3 + 1 > 100 { print $2 ":" $3 ": " $1 "() has " $4 - $3 + 1 " lines, at most 100" }'
)
if [ -n "$problems" ]; then
    echo "$problems"
    echo "0 passed, 1 failed, 0 skipped"
    exit 1
fi
echo "1 passed, 0 failed, 0 skipped"
