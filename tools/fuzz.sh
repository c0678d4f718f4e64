#!/bin/bash
# fuzz.sh [NAME...] - builds the fuzz targets of tests/fuzz and runs each for FUZZ_SECONDS (default 60) under ASan
# and UBSan, as many at once as there are cores. A target NAME_fuzz starts from tests/fuzz/corpus/NAME; what it
# finds on the way stays in build/fuzz/NAME, an input that breaks it in build/fuzz/NAME.crash-*.
# FUZZ_SEED=N FUZZ_RUNS=N: from the corpus alone, the same inputs each time; .ci/run does so, since what a change did
# not cause should not stop it. Without them every run looks elsewhere.
cd "$(dirname "$0")/.." || exit 1
seconds=${FUZZ_SECONDS:-60}
make -s -j"$(nproc)" fuzz >build/fuzz.log 2>&1 || { tail -n 30 build/fuzz.log; echo "0 passed, 1 failed, 0 skipped"; exit 1; }
[ $# != 0 ] || set -- $(for f in tests/fuzz/*_fuzz.c; do basename "$f" _fuzz.c; done)
one() {
    local name=$1 seconds=$2
    [ -z "$FUZZ_SEED" ] || rm -rf "build/fuzz/$name"
    mkdir -p "build/fuzz/$name"
    if "build/fuzz/${name}_fuzz" -max_total_time="$seconds" -timeout=20 -rss_limit_mb=3000 -max_len=20000 -print_final_stats=1 \
        ${FUZZ_SEED:+-seed=$FUZZ_SEED} ${FUZZ_RUNS:+-runs=$FUZZ_RUNS} -artifact_prefix="build/fuzz/$name.crash-" "build/fuzz/$name" $(ls -d "tests/fuzz/corpus/$name" 2>/dev/null) >"build/fuzz/$name.log" 2>&1; then
        echo "ok   $name: $(sed -n 's/^stat::number_of_executed_units: *//p' "build/fuzz/$name.log") inputs"
    else
        grep -vE '^#[0-9]+[[:space:]]+(NEW|REDUCE|pulse)' "build/fuzz/$name.log" | tail -n 40 | sed 's/^/    /'
        echo "FAIL $name (build/fuzz/$name.log)"
    fi
}
export -f one
printf '%s\n' "$@" | xargs -P "$(nproc)" -I{} bash -c "one {} $seconds" | tee build/fuzz.result
passed=$(grep -c '^ok ' build/fuzz.result)
failed=$(($# - passed))
echo "$passed passed, $failed failed, 0 skipped"
[ $failed = 0 ]
