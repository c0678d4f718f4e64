#!/bin/bash
# format.sh [check] - clang-format 14 over all C files: in place, or only looking.
cd "$(dirname "$0")/.." || exit 1
format=$(command -v clang-format-14 || command -v clang-format) || exit 1
files=$(find src tests -name '*.[ch]' -o -name '*.cu' -o -name '*.cuh' | sort)
if [ "${1-}" != check ]; then
    exec $format -i $files
fi
n=0
for file in $files; do
    $format --dry-run --Werror "$file" 2>/dev/null || { echo "$file: is not formatted (tools/format.sh does it)"; n=$((n + 1)); }
done
[ $n = 0 ] && echo "1 passed, 0 failed, 0 skipped" && exit
echo "0 passed, 1 failed, 0 skipped"
exit 1
