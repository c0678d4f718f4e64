#!/bin/bash
# The same bits on a CUDA device, whatever moves them: ranks that share one GPU (--comm mpi, --comm peer), so everything but NCCL's
# own calls is tried; with two GPUs also NCCL, and copies between GPUs. Skips without a device.
#   OPTIONS=--portable   of every run: with the kernels of compute capability 8.0
. "$(dirname "$0")/layouts_cuda.sh"
# The expert-parallel degree, ZeRO and rounds do not change a bit; several tiles of 128 rows from one sender are a case.
for ranks in 2 4 8; do
    micro="--reproducible --micro_batch_size $((4 * ranks))"
    first=same-$ranks-ep-1
    layout $first $ranks $micro --expert_parallel 1 --zero 0 || continue
    close_to "$first" $first one-rank $reordered
    for ep in 2 4 8; do
        name=same-$ranks-ep-$ep
        if [ $ep -le $ranks ] && layout $name $ranks $micro --expert_parallel $ep --zero $((ep / 2 % 2)); then same $name $name $first; fi
    done
done
rounds=same-4-rounds
if layout $rounds 4 --reproducible --micro_batch_size 16 --expert_parallel 4 --row_capacity 512; then
    same $rounds $rounds same-4-ep-1
    if grep -q '"rounds": [2-9]' runs/$rounds/metrics.jsonl; then passed "several rounds"; else failed "one round only" $rounds.out; fi
fi
# Nor does the number of workers, with shards: 1, 2 and 4 add up what 4 workers did above.
for workers in 1 2 4; do
    name=shards-$workers
    if layout $name $workers --reproducible_shards 4 --micro_batch_size $((4 * workers)) --expert_parallel $workers --zero 1; then
        same $name $name same-4-ep-1
    fi
done
refused "a capacity that would cut a segment" 2 'row_capacity = 128.*at least 512' "$moec" train --model_id model --dataset_path data \
    $common --runtime_ngpus 4 --run_mode compile --reproducible --micro_batch_size 16 --expert_parallel 4 --row_capacity 128
refused "gradients in bfloat16" 2 'gradient_dtype bf16.*reproducible' "$moec" train --model_id model --dataset_path data \
    $common --runtime_ngpus 4 --run_mode compile --reproducible --gradient_dtype bf16

# Ranks that read each other's memory, of one GPU.
for options in "1 --zero 1" "4 --zero 1" "4 --zero 0 --row_capacity 512"; do
    name=peer-4-ep-${options// --/-}
    name=${name// /-}
    train 4 $name $common --comm peer --reproducible --micro_batch_size 16 --expert_parallel $options || { failed $name $name.err; continue; }
    same $name $name same-4-ep-1
done
# NCCL: refused where ranks share a GPU; with a GPU for each the same bits.
train 2 shared $common --comm nccl
if [ $? = 2 ] && grep -q -- '--comm nccl: 2 ranks share one GPU' shared.err; then passed "--comm nccl on one GPU"; else failed "--comm nccl on one GPU" shared.err; fi
if [ -n "$devices" ]; then n_gpus=$(echo "$devices" | tr , '\n' | grep -c .); else n_gpus=$(nvidia-smi -L 2>/dev/null | grep -c '^GPU '); fi
for ranks in 2 4 8; do
    if [ "$n_gpus" -lt $ranks ]; then
        skip "NCCL and peers on $ranks ranks" "there are $n_gpus GPUs"
        continue
    fi
    if [ -n "$devices" ]; then export CUDA_VISIBLE_DEVICES=$devices; else unset CUDA_VISIBLE_DEVICES; fi
    for way in nccl peer; do
        for ep in 1 $ranks; do
            name=$way-$ranks-ep-$ep
            train $ranks $name $common --comm $way --reproducible --micro_batch_size $((4 * ranks)) --expert_parallel $ep --zero 1 ||
                { failed $name $name.err; continue; }
            same $name $name same-$ranks-ep-1
            for overlap in on rounds off; do
                train $ranks $name-$overlap $common --comm $way --micro_batch_size $((4 * ranks)) --expert_parallel $ep --tensor_parallel 1 \
                    --zero 1 --row_capacity 2048 --overlap $overlap || failed $name-$overlap $name-$overlap.err
            done
            same "$name: with and without a lane of communication" $name-on $name-off
            same "$name: two rounds at once" $name-rounds $name-off
            case $way in nccl) means=NCCL ;; *) means='copies between peers' ;; esac
            if grep -q "^ranks .*$means" $name.out; then passed "$name: through $means"; else failed "$name: the ranks line" $name.out; fi
        done
        train $ranks $way-$ranks-split $common --comm $way --tensor_parallel 2 --zero 3 --micro_batch_size $((4 * ranks)) ||
            failed $way-$ranks-split $way-$ranks-split.err
    done
    same "peer-$ranks-split: tensors, slices of weights" peer-$ranks-split nccl-$ranks-split
done

# Pipelines: messages on the device, from the third step and the third block of an evaluation on, bring what messages through the host do.
bytes_of() { # RUN: planned, allocated, outside the slab
    sed -n 's/^memory of the largest rank: \([0-9]*\) bytes allocated, \([0-9]*\) bytes planned.*/\1 \2/p' "$1.out"
    grep -o '"outside_slab_bytes": [0-9]*' "runs/$1/metrics.jsonl" | head -n 1
}
passes() { # NAME RANKS OPTIONS...
    local name=$1 ranks=$2 planned
    local options="--eval_sequences 24 --eval_every 2 --micro_batch_size 4"
    if [ "$n_gpus" -lt "$ranks" ]; then
        skip "$name" "there are $n_gpus GPUs"
        return
    fi
    for comm in mpi nccl peer; do
        train "$ranks" $name-$comm $common $options --comm $comm "${@:3}" || { failed "$name-$comm" $name-$comm.err; return; }
    done
    for comm in nccl peer; do
        same "$name: by $comm and by MPI" $name-$comm $name-mpi
        if [ "$(figures $name-$comm)" = "$(figures $name-mpi)" ]; then passed "$name: metrics by $comm"; else failed "$name: metrics by $comm differ"; fi
        planned=$(bytes_of $name-$comm | head -n 1)
        if [ -n "$planned" ] && [ "${planned% *}" = "${planned#* }" ]; then passed "$name: planned = allocated by $comm"; else failed "$name: planned, allocated by $comm: $planned" $name-$comm.out; fi
    done
    echo "     outside the slab: by MPI $(bytes_of $name-mpi | tail -n 1), by NCCL $(bytes_of $name-nccl | tail -n 1), by peers $(bytes_of $name-peer | tail -n 1)"
}
if [ -n "$devices" ]; then export CUDA_VISIBLE_DEVICES=$devices; else unset CUDA_VISIBLE_DEVICES; fi
passes passes-2 2 --pipeline_stages 2
passes passes-2-chunks-2 2 --pipeline_stages 2 --pipeline_chunks 2
passes passes-2-repeated 2 --pipeline_stages 2 --pipeline_chunks 2 --recompute 1000 --graphs off
passes passes-4 4 --pipeline_stages 4
passes passes-2-experts-2 4 --pipeline_stages 2 --pipeline_chunks 2 --expert_parallel 2 --overlap on
# A rank that stops in front of a message, when messages stay on the device.
for call in nccl:ncclSend "peer:peer send"; do
    [ "$n_gpus" -ge 2 ] || break
    name=stopped-${call%%:*}
    MOEC_TEST_FAIL="1 19 10 about to enter ${call#*:}" train 2 $name $common --comm ${call%%:*} --micro_batch_size 4 --pipeline_stages 2 --collective_timeout 5
    if grep -Eq "waits in .* for 5 s; rank 1 has not come, it is at .* \(micro-batch, instruction [0-9]+\), about to enter ${call#*:} of group \"gradients to the stage before\"" $name.err; then passed "$name: named"; else failed "$name" $name.err; fi
done
finish
