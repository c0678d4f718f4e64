#!/bin/bash
# A pipeline computes what as many workers compute without it: every loss, norm and weight to the bit.
. "$(dirname "$0")/lib.sh"
make_inputs
common="--global_batch_size 16 --max_steps 6 --lr 1e-3 --warmup_steps 2 --save_every 0 --eval_sequences 6 --eval_every 3 --threads 1"
like() { # NAME REFERENCE RANKS OPTIONS...
    local name=$1 reference=$2
    train "$3" "$name" $common "${@:4}" || { failed "$name" "$name.err"; return; }
    same "$name" "$name" "$reference"
    if [ "$(figures "$name")" = "$(figures "$reference")" ]; then passed "$name: metrics"; else failed "$name: metrics differ"; fi
}
ok "one worker, accumulation 4" train 1 one-4 $common --micro_batch_size 4
ok "one worker, accumulation 8" train 1 one-8 $common --micro_batch_size 2
ok "two workers" train 2 two $common --micro_batch_size 4 --expert_parallel 2 --zero 1
ok "tensor parallel" train 2 tensor $common --micro_batch_size 4 --tensor_parallel 2 --expert_parallel 2 --zero 2
ok "ZeRO-3" train 2 zero $common --micro_batch_size 4 --expert_parallel 1 --tensor_parallel 1 --zero 3
[ "$(figures one-4 | wc -l)" = 32 ] || failed "metrics have other names" runs/one-4/metrics.jsonl
like stages-2 one-4 2 --pipeline_stages 2 --micro_batch_size 4
like stages-3 one-8 3 --pipeline_stages 3 --micro_batch_size 2
like stages-4 one-8 4 --pipeline_stages 4 --micro_batch_size 2 --recompute 1000
like interleaved one-4 2 --pipeline_stages 2 --pipeline_chunks 2 --micro_batch_size 4 --recompute 7
like ep-zero-1 two 4 --pipeline_stages 2 --expert_parallel 2 --zero 1 --micro_batch_size 4
ok "half on two stages" train 2 half $common --max_steps 3 --pipeline_stages 2 --pipeline_chunks 2 --micro_batch_size 4
ok "the rest on three" train_again 3 half $common --pipeline_stages 3 --micro_batch_size 4 --resume_path last
same "resumed on other stages" half one-4
(train 2 killed $common --max_steps 2000 --epochs 1000 --pipeline_stages 2 --micro_batch_size 4) &
if wait_for 60 steps_done killed 2; then passed "the pipeline runs"; else failed "the pipeline does not run" killed.err; fi
kill -KILL "$(my_ranks | tail -n 1)"
if wait_for 20 no_ranks; then passed "a killed rank ends all"; else failed "a killed rank: the others go on" killed.err; fi
wait
like tensor-zero-2 tensor 4 --pipeline_stages 2 --tensor_parallel 2 --expert_parallel 2 --zero 2 --micro_batch_size 4
like zero-3 zero 4 --pipeline_stages 2 --expert_parallel 1 --tensor_parallel 1 --zero 3 --micro_batch_size 4
# Messages on a device are predicted by the links between devices, or by what the host reaches: 4 micro-batches of 2 values of 32 KB.
exchange_us() { # OPTIONS...
    "$moec" train --model_id model --dataset_path data --device cuda --run_mode compile --runtime_ngpus 2 --pipeline_stages 2 --global_batch_size 16 \
        --micro_batch_size 4 --cluster h200 --json "$@" 2>"$work/log" | sed -n 's/.*"exchange": \([0-9]*\), "reduce".*/\1/p'
}
device=$(exchange_us --comm nccl) host=$(exchange_us --comm mpi)
if grep -q 'built without' "$work/log"; then
    skip "messages of devices, predicted" "built without nvcc"
elif [ "$device" = 105 ] && [ "$host" = 742 ]; then
    passed "messages of devices, predicted"
else
    failed "messages of devices are predicted to take $device us by NCCL, $host us by MPI, expected 105 and 742" "$work/log"
fi
refused "stages that do not divide the ranks" 2 'pipeline_stages' "$moec" compile --model_id model --dataset_path data --runtime_ngpus 4 --pipeline_stages 3
refused "more stages than places to cut" 2 'cannot be cut' "$moec" compile --model_id model --dataset_path data --runtime_ngpus 64 --pipeline_stages 64
refused "chunks without stages" 2 'pipeline_chunks' "$moec" compile --model_id model --dataset_path data --runtime_ngpus 4 --pipeline_chunks 2
refused "chunks with an odd accumulation" 2 "pipeline_chunks 2: expected --global_batch_size 12 .*multiple of --pipeline_stages 2" "$moec" compile --model_id model --dataset_path data --runtime_ngpus 2 --pipeline_stages 2 --pipeline_chunks 2 --global_batch_size 12 --micro_batch_size 4
finish
