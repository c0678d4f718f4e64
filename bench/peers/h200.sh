#!/bin/bash
# moec beside its peers on one GPU, in one call: the experts' products and a whole step, a table with the ratio of each.
#   MODEL_CONFIG=DIR  directory with config.json; DATA=DIR  dataset of moec prepare; without them the step is left out
#   MOEC, PYTHON, TOKENS, LAYERS (fewer layers for both), RUNS, WORK (keeps the JSON of all)
set -eu
here=$(cd "$(dirname "$0")" && pwd)
MOEC=${MOEC:-./moec} PYTHON=${PYTHON:-python3} WORK=${WORK:-$(mktemp -d /tmp/moec-peers-XXXXXX)}
TOKENS=${TOKENS:-131072} RUNS=${RUNS:-10}
mkdir -p "$WORK"

into() { # FILE COMMAND...: its standard output; a failure is told and the rest goes on
    local file=$WORK/$1 begin=$SECONDS
    shift
    if "$@" >"$file" 2>"$file.err"; then
        echo "$(basename "$file"): $((SECONDS - begin)) s"
    else
        echo "$(basename "$file"): failed: $(tail -n 1 "$file.err")"
        rm -f "$file"
    fi
}

into grouped.json "$MOEC" bench grouped-gemm --json
into grouped-peer.json "$PYTHON" "$here/grouped_gemm.py" --runs "$RUNS"
if [ -n "${MODEL_CONFIG:-}" ] && [ -n "${DATA:-}" ]; then
    into step.json "$MOEC" bench step --model_id "$MODEL_CONFIG" --dataset_path "$DATA" --tokens "$TOKENS" \
        ${LAYERS:+--layers "$LAYERS"} --json
    into step-peer.json "$PYTHON" "$here/step.py" --model_id "$MODEL_CONFIG" --tokens "$TOKENS" \
        ${LAYERS:+--layers "$LAYERS"}
fi
"$PYTHON" "$here/compare.py" "$WORK"
echo "JSON in $WORK"
