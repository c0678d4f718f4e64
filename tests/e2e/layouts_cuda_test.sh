#!/bin/bash
# As layouts_test.sh, on a CUDA device: all ranks share one GPU. Skips without a device.
#   OPTIONS=--portable   of every run: with the kernels of compute capability 8.0
. "$(dirname "$0")/layouts_cuda.sh"
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
    layout $name-off 4 $options --micro_batch_size 16 --overlap off || continue
    for overlap in on rounds; do
        layout $name-$overlap 4 $options --micro_batch_size 16 --overlap $overlap && same "$name-$overlap" $name-$overlap $name-off
    done
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
finish
