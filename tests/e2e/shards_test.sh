#!/bin/bash
# --reproducible_shards: the number of workers changes no bit of losses, norms, loads, weights and moments.
. "$(dirname "$0")/lib.sh"
make_inputs
# Steps of 16 sequences; 30 train, so the second step of an epoch is short.
make_dataset data tokenizer 64 5000
sequences=$("$moec" inspect data | sed -n 's/^ *\([0-9]*\) sequences.*/\1/p')
common="--global_batch_size 16 --max_steps 5 --epochs 3 --lr 1e-3 --warmup_steps 2 --save_every 0 --eval_every 2 --eval_sequences $((sequences - 30))"
state_sums() { # weights and moments, merged, whatever the layout
    [ -s "$1.sums" ] || { rm -rf merged && "$moec" merge --ckpt_dir "runs/$1" --output_fname merged >/dev/null 2>"$1.err" && (cd merged && md5sum *.safetensors) >"$1.sums"; }
    cat "$1.sums"
}
like() { # NAME REFERENCE
    local sums
    if [ "$(figures "$1")" = "$(figures "$2")" ]; then passed "$1: metrics"; else failed "$1: metrics differ" "$1.err"; fi
    sums=$(state_sums "$1")
    if [ -n "$sums" ] && [ "$sums" = "$(state_sums "$2")" ]; then passed "$1: weights and moments"; else failed "$1: weights or moments differ" "$1.err"; fi
}
run() { # NAME RANKS WORKERS OPTIONS... : one sequence for each worker at a time
    local name=$1 ranks=$2 workers=$3
    shift 3
    train "$ranks" "$name" $common --micro_batch_size "$workers" "$@" || failed "$name" "$name.err"
}
shards() { # NAME REFERENCE RANKS WORKERS OPTIONS...
    local name=$1 reference=$2
    shift 2
    run "$name" "$@" --reproducible_shards 8
    like "$name" "$reference"
}
run one 1 1 --reproducible_shards 8 --threads 2
if [ "$(figures one | wc -l)" = 28 ] && [ "$(state_sums one | wc -l)" -ge 2 ]; then passed "what is compared is there"; else failed "what is compared is not there" one.out; fi
grep -q '8 of 2 sequences, 8 for each worker, added in a tree (3 sums are kept); same bits on 8, 4, 2, 1 of them' one.out && passed "the run tells its shards" || failed "the run does not tell its shards" one.out
shards two one 2 2 --expert_parallel 1 --zero 0 --threads 2
shards two-ep one 2 2 --expert_parallel 2 --zero 1 --threads 1
shards four-zero-2 one 4 4 --expert_parallel 2 --zero 2 --threads 1 --recompute 1000
shards four-rounds one 4 4 --expert_parallel 4 --zero 1 --row_capacity 40 --threads 1
shards eight-zero-3 one 8 8 --expert_parallel 4 --zero 3 --threads 1
shards stages one 4 2 --pipeline_stages 2 --expert_parallel 2 --zero 1 --threads 1
shards chunks one 2 1 --pipeline_stages 2 --pipeline_chunks 2 --recompute 7 --threads 1
run plain 8 8 --reproducible --expert_parallel 2 --threads 1
like plain one # as many workers as shards: nothing to add in a worker
run half 1 1 --reproducible_shards 8 --max_steps 2
train_again 4 half $common --micro_batch_size 4 --reproducible_shards 8 --expert_parallel 2 --zero 1 --threads 1 --resume_path last || failed half half.err
like half one
run other 1 1 --reproducible --threads 2
if [ "$(figures other)" != "$(figures one)" ]; then passed "other sums have other bits"; else failed "without shards the bits are the same: nothing was tested"; fi
close_to "shards and none" other one 1e-6

# A tensor group works on one sequence of each member: the number of groups changes nothing.
run tensor-1 2 2 --reproducible_shards 4 --tensor_parallel 2 --threads 1
run tensor-4 8 8 --reproducible_shards 4 --tensor_parallel 2 --zero 3 --threads 1
like tensor-4 tensor-1
close_to "tensor groups" tensor-1 one 1e-6
sed 's/"seq_aux": true/"seq_aux": false/' -i model/config.json
run batch-1 1 1 --reproducible_shards 8 --threads 2
run batch-4 4 4 --reproducible_shards 8 --expert_parallel 4 --threads 1
like batch-4 batch-1

compile="$moec compile --model_id model --dataset_path data --reproducible_shards"
refused "three shards for a worker" 2 'reproducible_shards 6 on 2 ranks.*power of two' $compile 6 --runtime_ngpus 2 --global_batch_size 12
refused "fewer shards than workers" 2 'reproducible_shards 2 on 4 ranks' $compile 2 --runtime_ngpus 4 --global_batch_size 16 --pipeline_stages 1
refused "unequal shards" 2 'reproducible_shards 8: a step of 20 sequences' $compile 8 --runtime_ngpus 2 --global_batch_size 20
refused "a micro-batch that is no part of a shard" 2 'divides the 2 sequences of a shard' $compile 8 --runtime_ngpus 2 --global_batch_size 16 --micro_batch_size 8
refused "shards and chunks" 2 "reproducible_shards 1 .*pipeline_chunks 2: expected --global_batch_size 12 .*multiple of --pipeline_stages 2" $compile 1 --runtime_ngpus 2 --global_batch_size 12 --micro_batch_size 4 --pipeline_stages 2 --pipeline_chunks 2
refused "tensors and experts" 2 'tensor_parallel 2: expected --expert_parallel 1' $compile 8 --runtime_ngpus 4 --global_batch_size 16 --tensor_parallel 2 --expert_parallel 2
finish
