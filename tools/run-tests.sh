#!/bin/bash
# run-tests.sh - runs every test program of $OUT/tests, then every script of tests/e2e, then the gates; each ends
# with "N passed, N failed, N skipped". Prints what failed, and the sums as the last line.
#   OUT=DIR     folder of the build (default build/cpu)
#   ONLY=WORD   only what has WORD in its name
cd "$(dirname "$0")/.." || exit 1
export OUT=${OUT:-build/cpu}
suppressions=$PWD/tools/lsan.supp
export LSAN_OPTIONS=${LSAN_OPTIONS:-suppressions=$suppressions:print_suppressions=0}
export UBSAN_OPTIONS=${UBSAN_OPTIONS:-print_stacktrace=1}
passed=0 failed=0 skipped=0 bad=
log=$(mktemp)
trap 'rm -f "$log"' EXIT

# A program that crashes, hangs, or prints no counts is one failure.
count() { # NAME STATUS SECONDS
    local line p=0 f=0 s=0
    line=$(grep -E '^[0-9]+ passed, [0-9]+ failed' "$log" | tail -n 1)
    if [ -n "$line" ]; then
        p=${line%% passed*}
        f=${line#*passed, }
        f=${f%% failed*}
        case $line in *skipped*) s=${line#*failed, } s=${s%% skipped*} ;; esac
    fi
    [ "$2" = 0 ] || [ "$f" != 0 ] || f=1
    [ -n "$line" ] || [ "$f" != 0 ] || f=1
    passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
    printf '%-28s %4d passed, %d failed, %d skipped   %d s\n' "$1" "$p" "$f" "$s" "$3"
    if [ "$f" != 0 ]; then
        bad="$bad $1"
        if [ "$2" = 124 ]; then echo "    (stopped after its time limit)"
        elif [ "$2" -gt 128 ]; then echo "    (ended by signal $(kill -l "$(($2 - 128))"))"
        elif [ -z "$line" ]; then echo "    (ended with status $2 and without its counts)"; fi
        grep -vE '^(ok  |skip) ' "$log" | tail -n 40 | sed 's/^/    /'
    fi
    grep -E '^ *skip(ped)?[ :]' "$log" | grep -v '^skip [a-z_0-9]*$' | sed 's/^ */    /'
}
run() { # NAME LIMIT COMMAND...
    local name=$1 limit=$2 start=$SECONDS
    case $name in *"${ONLY:-}"*) ;; *) return ;; esac
    shift 2
    timeout "$limit" "$@" >"$log" 2>&1 </dev/null
    count "$name" $? $((SECONDS - start))
}

for source in tests/*_test.c; do
    name=$(basename "$source" .c)
    run "$name" 600 "$OUT/tests/$name"
done
[ "${UNIT_ONLY:-}" ] || for script in tests/e2e/*_test.sh; do
    run "$(basename "$script" .sh)" 600 "$script"
done
[ "${UNIT_ONLY:-}" ] || for gate in tools/check-*.sh; do
    run "$(basename "$gate" .sh)" 300 "$gate"
done
[ -z "$bad" ] || echo "failed:$bad"
if [ "$skipped" = 0 ]; then echo "$passed passed, $failed failed"; else echo "$passed passed, $failed failed, $skipped skipped"; fi
[ "$failed" = 0 ]
