#!/bin/bash
# check-vector.sh - with the build's flags the compiler vectorizes loops of exp() for AVX2, where it has no masked
# instructions to turn a condition into; scalar, they cost a quarter of a training step.
cd "$(dirname "$0")/.." || exit 1
out=${OUT:-build/cpu}
if ! ${CC:-gcc} --version | grep -q 'Free Software Foundation'; then
    echo "skipped: the report is gcc's"
    echo "0 passed, 0 failed, 1 skipped"
    exit
fi
flags=$(make -s --eval 'flags: ; @echo $(CFLAGS)' flags MARCH=-march=haswell SAN= OUT="$out") || exit 1
source='#include "ops/vector.h"
void f(float *restrict y, const float *restrict x, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        y[i] = x[i] * vector_sigmoid(x[i]);
}'
# shellcheck disable=SC2086
report=$(${CC:-gcc} $flags -Wno-missing-prototypes -MF /dev/null -fopt-info-vec -x c -c -o /dev/null - <<<"$source" 2>&1)
if ! grep -q '^<stdin>:4.*vectorized using 32 byte vectors' <<<"$report"; then
    echo "src/ops/vector.h: a loop of vector_sigmoid is not vectorized for AVX2; the compiler says"
    echo "$report"
    echo "0 passed, 1 failed, 0 skipped"
    exit 1
fi
echo "1 passed, 0 failed, 0 skipped"
