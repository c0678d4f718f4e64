#!/bin/bash
# Moments in host memory while micro-batches run (--offload): same bits, less memory; clear refusals.
. "$(dirname "$0")/lib.sh"
make_inputs
common="--global_batch_size 16 --micro_batch_size 2 --max_steps 5 --lr 1e-3 --warmup_steps 2 --save_every 2 --keep_last 0 --threads 1"
peak() { sed -n 's/^memory of the largest rank: \([0-9]*\) bytes.*/\1/p' "$1.out"; } # of a run
train 1 plain $common || failed "plain" plain.err
for n in 1 2 100; do
    train 1 lodge-$n $common --offload $n || { failed "--offload $n" lodge-$n.err; continue; }
    same "--offload $n" lodge-$n plain
    if [ "$(peak lodge-$n)" -lt "$(peak plain)" ]; then passed "--offload $n takes less memory"; else failed "--offload $n: $(peak lodge-$n) bytes, $(peak plain) without" lodge-$n.out; fi
done
train 1 repeats $common --offload 2 --recompute 30 || failed "recomputation" repeats.err
same "with recomputation" repeats plain
train 4 zero $common --offload 2 --zero 3 --micro_batch_size 8 && train 4 zero-plain $common --zero 3 --micro_batch_size 8 || failed "four ranks" zero.err
same "four ranks, ZeRO 3" zero zero-plain
refused "with pipelines" 2 'offload 2: expected neither --pipeline_stages nor' "$moec" train --model_id model --dataset_path data $common --runtime_ngpus 2 --run_mode compile --pipeline_stages 2 --offload 2
train 1 resumed $common --offload 1 --resume_path runs/plain/checkpoints/step-00000002 || failed "resume" resumed.err
if [ "$(losses resumed)" = "$(losses plain | tail -n 3)" ]; then passed "moments of a checkpoint leave before the first step"; else failed "resume: other losses" resumed.out; fi
finish
