#!/bin/bash
# sanitize-cuda.sh - compute-sanitizer over the kernels of every operator, on a CUDA device: a line for each with the tool's own
# summary. Products are plain ones of our own (`make plain`), for the tools do not get through cuBLASLt's kernels.
# Findings inside cuDNN's kernels are counted with the rest, and named; MOEC_PORTABLE=1 runs ours in their place.
#   sanitize-cuda.sh memcheck|racecheck|initcheck|synccheck [OPERATOR...]     default: all operators
#   LIMIT=120    seconds for each
cd "$(dirname "$0")/.." || exit 1
program=${OUT:-build/cpu}/tests/plain/ops_cuda_test tool=$1
[ -x "$program" ] || { echo "sanitize-cuda.sh: $program is missing: make plain" >&2; exit 1; }
sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda/bin/compute-sanitizer 2>/dev/null) ||
    { echo "sanitize-cuda.sh: no compute-sanitizer on PATH or in /usr/local/cuda/bin" >&2; exit 1; }
case $tool in memcheck | racecheck | initcheck | synccheck) shift ;;
*) echo "sanitize-cuda.sh: '$tool', expected memcheck, racecheck, initcheck or synccheck" >&2; exit 1 ;; esac
[ $# -gt 0 ] || set -- $(basename -s .c src/ops/*.c)
log=$(mktemp) bad=0
trap 'rm -f "$log"' EXIT
for op in "$@"; do
    start=$SECONDS
    OPS_ONLY=$op timeout "${LIMIT:-120}" "$sanitizer" --tool "$tool" "$program" cuda_equals_reference >"$log" 2>&1
    status=$?
    summary=$(grep -E '^=+ .*SUMMARY' "$log" | sed 's/^=* *//' | tail -n 1)
    counts=$(grep -E '^[0-9]+ passed' "$log" | tail -n 1)
    printf '%-16s %-60s %s, %d s\n' "$op" "${summary:-no summary, status $status}" "${counts:-test without an end}" $((SECONDS - start))
    if ! grep -qE '^[1-9][0-9]* passed, 0 failed' <<<"$counts" || ! grep -qE 'SUMMARY: 0 ' <<<"$summary"; then
        bad=1
        grep -E '(Error|Warning|access).* at ' "$log" | sed -E 's/.* at ([^+]*).*/\1/' | cut -c1-110 | sort | uniq -c | sort -rn | head -n 6 | sed 's/^/    /'
        grep -E 'expected|reference' "$log" | head -n 3 | sed 's/^/    /'
    fi
done
exit $bad
