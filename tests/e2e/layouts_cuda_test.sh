#!/bin/bash
# As layouts_test.sh, on a CUDA device: all ranks share one GPU (--comm mpi, --comm peer), so everything but NCCL's own calls is
# tried. With two GPUs also NCCL, and copies between GPUs. Skips without a device.
#   OPTIONS=--portable   of every run: with the kernels of compute capability 8.0
. "$(dirname "$0")/lib.sh"
gpu=${devices%%,*}
export CUDA_VISIBLE_DEVICES=${gpu:-0}
make_tokenizer "$work/tokenizer" 512
make_config "$work/model" 512 bfloat16
sed -i 's/"hidden_size": 64/"hidden_size": 128/; s/"moe_intermediate_size": 40/"moe_intermediate_size": 136/
        s/"kv_lora_rank": 24/"kv_lora_rank": 64/' model/config.json
cp tokenizer/* model/
make_dataset "$work/data" "$work/tokenizer" 128 300000
common="--device cuda --global_batch_size 32 --max_steps 6 --epochs 9 --lr 1e-3 --warmup_steps 2 --save_every 0 --threads 1 --pipeline_stages 1 ${OPTIONS:-}"
if ! train 1 one-rank $common --micro_batch_size 8; then
    if grep -Eq 'no CUDA device|built without|needs lib' one-rank.err; then
        skip "layouts on CUDA" "$(sed 's/^moec: //' one-rank.err | head -n 1)"
    else
        failed "one rank" one-rank.err
    fi
    finish
fi
passed "one rank"
reordered=3e-3 # of a loss: what another order of sums does to bfloat16 within a few steps
layout() { # NAME RANKS OPTIONS...
    local name=$1
    train "$2" "$name" $common --comm mpi "${@:3}" || { failed "$name" "$name.err"; return 1; }
}
layout ranks-4 4 && close_to ranks-4 ranks-4 one-rank $reordered
planned=$(sed -n 's/^memory of the largest rank: \([0-9]*\) bytes allocated, \([0-9]*\) bytes planned/\1 \2/p' ranks-4.out)
if [ -n "$planned" ] && [ "${planned% *}" = "${planned#* }" ]; then passed "ranks-4: planned = allocated"; else failed "ranks-4: planned, allocated: $planned" ranks-4.out; fi
parts=$(awk '/^predicted and measured time/ {on = 1} on && $1 == "step" {step = $4} on && /^  (compute|exchange|reduce|optimizer) / {sum += $4}
    END {if (step > 0) printf "%.2f", sum / step}' ranks-4.out)
if [ -n "$parts" ] && awk "BEGIN {exit !($parts > 0.8 && $parts < 1.2)}"; then passed "ranks-4: the parts of a step, by the device's clock, make $parts of it"; else failed "ranks-4: parts of a step make $parts of it" ranks-4.out; fi
# Moments in host memory while micro-batches run.
for options in "1 --micro_batch_size 4 --moments fp32" "1 --micro_batch_size 4 --moments int8 --gradient_dtype bf16" "2 --micro_batch_size 8 --zero 1"; do
    name=offload-${options//[ -]/}
    layout $name $options --offload 0 && layout $name-2 $options --offload 2 && same $name-2 $name-2 $name
done
layout zero-2 4 --zero 2 --expert_parallel 2 && close_to zero-2 zero-2 one-rank $reordered
layout zero-3 4 --zero 3 --recompute 1000 && close_to zero-3 zero-3 one-rank $reordered
layout tensor-2 4 --tensor_parallel 2 --expert_parallel 2 && close_to tensor-2 tensor-2 one-rank $reordered
layout tensor-vocabulary 4 --tensor_parallel 2 --expert_parallel 2 --split_vocabulary on && close_to tensor-vocabulary tensor-vocabulary one-rank $reordered
# The experts' width of 136 in halves of 68 is refused; with 144, halves of 72 are multiples of 8.
refused "halves of 68" 2 'width of 136 of experts.*multiple of 16' "$moec" train --model_id model --dataset_path data $common \
    --runtime_ngpus 4 --run_mode compile --tensor_parallel 2 --split_experts on
sed 's/"moe_intermediate_size": 136/"moe_intermediate_size": 144/' model/config.json >wider.json
mkdir -p wide && cp model/* wide/ && cp wider.json wide/config.json
mv model narrow && mv wide model
if layout wide 1 --micro_batch_size 8; then
    layout width-2 2 --tensor_parallel 2 --split_experts on && close_to width-2 width-2 wide $reordered
    layout width-2-ep-2 4 --tensor_parallel 2 --expert_parallel 2 --split_experts on --zero 3 --recompute 1000 && close_to width-2-ep-2 width-2-ep-2 wide $reordered
    planned=$(sed -n 's/^memory of the largest rank: \([0-9]*\) bytes allocated, \([0-9]*\) bytes planned/\1 \2/p' width-2-ep-2.out)
    if [ -n "$planned" ] && [ "${planned% *}" = "${planned#* }" ]; then passed "width-2-ep-2: planned = allocated"; else failed "width-2-ep-2: planned, allocated: $planned" width-2-ep-2.out; fi
    options="--tensor_parallel 2 --expert_parallel 2 --split_experts on --moments int8 --zero 1 --keep_last 0 --save_every 3"
    if layout width-int8 4 $options && train_again 4 width-again $common --comm mpi $options --resume_path runs/width-int8/checkpoints/step-00000003 &&
        diff -r runs/width-int8/checkpoints/step-00000006 runs/width-again/checkpoints/step-00000006 >diff.log; then
        passed "width-int8: stopped and resumed, the same bits"
    else
        failed "width-int8: stopped and resumed" diff.log
    fi
    same_width="--reproducible --tensor_parallel 2 --split_experts on --micro_batch_size 16"
    if layout width-same-1 4 $same_width --expert_parallel 1 --zero 0 && layout width-same-2 4 $same_width --expert_parallel 2 --zero 1; then
        same width-same width-same-2 width-same-1
    fi
fi
mv model wide && mv narrow model

# Stopped and resumed: what ranks hold in slices comes back as it was, blocks of 8-bit moments too.
for kind in "fp32 --zero 3" "int8 --zero 1"; do
    name=tensor-${kind%% *}
    options="--tensor_parallel 2 --expert_parallel 2 --moments $kind --keep_last 0 --save_every 3"
    layout $name 4 $options || continue
    if train_again 4 $name-again $common --comm mpi $options --resume_path runs/$name/checkpoints/step-00000003; then
        if diff -r runs/$name/checkpoints/step-00000006 runs/$name-again/checkpoints/step-00000006 >diff.log; then
            passed "$name: stopped and resumed, the same bits"
        else
            failed "$name: stopped and resumed, other bits" diff.log
        fi
    else
        failed "$name-again" $name-again.err
    fi
    ok "$name: resumed on one rank" train_again 1 $name-one $common --micro_batch_size 8 --moments ${kind%% *} --resume_path runs/$name/checkpoints/step-00000003
done
# The lane of communication changes no bit; with --comm mpi it waits for the host, but the lists are those of two lanes.
for options in "--expert_parallel 4 --zero 1 --row_capacity 2048" "--expert_parallel 4 --zero 1 --row_capacity 512 --recompute 1000" \
    "--expert_parallel 2 --zero 3 --row_capacity 2048" "--tensor_parallel 2 --expert_parallel 2 --zero 2 --row_capacity 2048"; do
    name=lanes-$(echo "$options" | tr -dc 'a-z0-9')
    [[ $options = *tensor* ]] || options="$options --tensor_parallel 1"
    layout $name-off 4 $options --micro_batch_size 16 --overlap off && layout $name-on 4 $options --micro_batch_size 16 --overlap on &&
        same "$name" $name-on $name-off
done
layout pipeline 2 --micro_batch_size 8 --pipeline_stages 2 && same "pipeline" pipeline one-rank
layout pipeline-3 3 --micro_batch_size 8 --pipeline_stages 3 --recompute 9 && same "pipeline-3" pipeline-3 one-rank
layout interleaved 2 --micro_batch_size 8 --pipeline_stages 2 --pipeline_chunks 2 && same "interleaved" interleaved one-rank
# A matrix at both ends: with --reproducible one stage has its two sums too.
sed -i 's/"tie_word_embeddings": false/"tie_word_embeddings": true/' model/config.json
if layout tied 1 --micro_batch_size 8 --reproducible; then
    layout tied-2 2 --micro_batch_size 8 --reproducible --pipeline_stages 2 --overlap on && same "tied-2" tied-2 tied
    layout tied-3 3 --micro_batch_size 8 --pipeline_stages 3 && close_to "tied-3" tied-3 tied $reordered
    layout tied-4 4 --micro_batch_size 8 --pipeline_stages 2 --zero 3 && close_to "tied-4" tied-4 tied $reordered
fi
sed -i 's/"tie_word_embeddings": true/"tie_word_embeddings": false/' model/config.json

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
            for overlap in on off; do
                train $ranks $name-$overlap $common --comm $way --micro_batch_size $((4 * ranks)) --expert_parallel $ep --tensor_parallel 1 \
                    --zero 1 --row_capacity 2048 --overlap $overlap || failed $name-$overlap $name-$overlap.err
            done
            same "$name: with and without a lane of communication" $name-on $name-off
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
