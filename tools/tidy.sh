#!/bin/bash
# tidy.sh [FILE...] - clang-tidy with .clang-tidy over src and tests, one process per core. Needs a build first
# (ops.def, version.h).
cd "$(dirname "$0")/.." || exit 1
out=${OUT:-build/cpu}
tidy=$(command -v clang-tidy-14 || command -v clang-tidy) || exit 1
make -s "$out/ops.def" "$out/version.h" OUT="$out" || exit 1
mpi=$(mpicc --showme:compile 2>/dev/null)
[ $# != 0 ] || set -- $(find src tests -name '*.c' | sort)
log=$(mktemp)
trap 'rm -f "$log"' EXIT
export tidy out mpi
printf '%s\n' "$@" | xargs -P "$(nproc)" -I{} sh -c \
    '$tidy --quiet {} -- -std=c17 -D_GNU_SOURCE -O1 -march=native -pthread -I. -Isrc -I"$out" $mpi 2>/dev/null || echo "{}: clang-tidy failed"' >"$log"
if [ -s "$log" ]; then
    grep -v '^$' "$log" | head -n 200
    echo "0 passed, 1 failed, 0 skipped"
    exit 1
fi
echo "1 passed, 0 failed, 0 skipped"
