#!/bin/bash
# Moments in host memory while micro-batches run (--offload): same bits, less memory; clear refusals.
. "$(dirname "$0")/lib.sh"
make_inputs
common="--global_batch_size 16 --micro_batch_size 2 --max_steps 5 --lr 1e-3 --warmup_steps 2 --save_every 2 --threads 1"
peak() { sed -n 's/^memory of the largest rank: \([0-9]*\) bytes.*/\1/p' "$1.out"; } # of a run
train 1 plain $common || failed "plain" plain.err
for n in 1 2 100; do
    train 1 lodge-$n $common --offload $n || { failed "--offload $n" lodge-$n.err; continue; }
    same "--offload $n" lodge-$n plain
    if [ "$(peak lodge-$n)" -lt "$(peak plain)" ]; then passed "--offload $n takes less memory"; else failed "--offload $n: $(peak lodge-$n) bytes, $(peak plain) without" lodge-$n.out; fi
done
grep -H "memory of" *.out | head
train 1 repeats $common --offload 2 --recompute 30 || failed "recomputation" repeats.err
same "with recomputation" repeats plain
finish
