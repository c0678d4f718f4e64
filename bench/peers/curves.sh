#!/bin/bash
# Loss curves of moec, one per way to store the optimizer's states, beside a torch bfloat16 reference with float32
# AdamW: the same initial weights (written by moec init), batches and schedule. Prints one table; curves that are there
# already are kept, so a second call goes on where the first stopped. Exit status 1: a mean differs by more than LIMIT
# percent.
#   DATA=DIR          dataset of moec prepare
#   MODEL_CONFIG=DIR  directory with config.json; WORK=DIR gets weights (2 or 4 bytes per parameter) and curves
#   DTYPE             of the weights that all begin with. From bfloat16 ones, whose first updates are below their
#                     precision, --master none would start before the others
#   MODES             names master-moments-gradients, or torch
#   MOEC, PYTHON, LAYERS, STEPS, MICRO_BATCH, LR, WARMUP, DEVICE, LIMIT
set -eu
here=$(cd "$(dirname "$0")" && pwd)
: "${DATA:?a dataset of moec prepare}" "${MODEL_CONFIG:?a directory with config.json}"
MOEC=${MOEC:-./moec} PYTHON=${PYTHON:-python3} WORK=${WORK:-/tmp/moec-curves}
LAYERS=${LAYERS:-8} STEPS=${STEPS:-300} MICRO_BATCH=${MICRO_BATCH:-4} LR=${LR:-3e-4} WARMUP=${WARMUP:-20}
MODES=${MODES:-torch split-fp32-fp32 split-bf16-fp32 split-int8-bf16 none-int8-bf16}
DEVICE=${DEVICE:-auto} LIMIT=${LIMIT:-0.5} DTYPE=${DTYPE:-float32}
mkdir -p "$WORK/curves"

timed() { # NAME COMMAND...
    local name=$1 begin=$SECONDS
    shift
    "$@" >"$WORK/$name.log" 2>&1 || {
        tail -n 5 "$WORK/$name.log"
        exit 1
    }
    echo "$name: $((SECONDS - begin)) s"
}

if [ ! -d "$WORK/init" ]; then
    "$PYTHON" "$here/curves.py" config --model_id "$MODEL_CONFIG" --layers "$LAYERS" --torch_dtype "$DTYPE" \
        --output "$WORK/config"
    timed init "$MOEC" init --model_id "$WORK/config" --output "$WORK/init"
fi
for mode in $MODES; do
    curve=$WORK/curves/$mode.jsonl
    [ ! -s "$curve" ] || continue
    if [ "$mode" = torch ]; then
        timed torch "$PYTHON" "$here/curves.py" train --model_id "$WORK/init" --dataset_path "$DATA" \
            --output "$curve.part" --steps "$STEPS" --global_batch_size "$MICRO_BATCH" --lr "$LR" \
            --warmup_steps "$WARMUP" --device "${DEVICE/cuda/auto}"
    else
        IFS=- read -r master moments gradients <<<"$mode"
        rm -rf "$WORK/runs/$mode"
        timed "$mode" "$MOEC" train --model_id "$WORK/init" --dataset_path "$DATA" --device "$DEVICE" \
            --master "$master" --moments "$moments" --gradient_dtype "$gradients" --micro_batch_size "$MICRO_BATCH" \
            --grad_accumulation_steps 1 --epochs 1000 --max_steps "$STEPS" --lr "$LR" --warmup_steps "$WARMUP" \
            --save_every -1 --progress lines --log_every 50 --output_dir "$WORK/runs" --name "$mode"
        cp "$WORK/runs/$mode/metrics.jsonl" "$curve.part"
    fi
    mv "$curve.part" "$curve"
done
"$PYTHON" "$here/curves.py" table "$WORK/curves" --limit "$LIMIT"
