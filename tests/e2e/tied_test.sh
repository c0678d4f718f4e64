#!/bin/bash
# A matrix at both ends of a pipeline (doc/adr/0020): any stages and parts have the same bits; without a pipeline the run is
# close, and has the same bits with --reproducible, whatever the layout. The matrix is counted once and saved once.
. "$(dirname "$0")/lib.sh"
make_inputs
tie() {
    sed -i 's/"tie_word_embeddings": false/"tie_word_embeddings": true/' model/config.json
}
common="--global_batch_size 16 --max_steps 6 --lr 1e-3 --warmup_steps 2 --save_every 0 --eval_sequences 6 --eval_every 3 --threads 1"
state_sums() { # weights and moments, merged, whatever the layout
    rm -rf merged && "$moec" merge --ckpt_dir "runs/$1" --output_fname merged >/dev/null 2>"$1.err" && (cd merged && md5sum *.safetensors)
}
like() { # NAME REFERENCE
    local sums
    if [ "$(figures "$1" | wc -l)" -ge 14 ] && [ "$(figures "$1")" = "$(figures "$2")" ]; then passed "$1: metrics"; else failed "$1: metrics differ from $2 by $(distance "$1" "$2")" "$1.err"; fi
    sums=$(state_sums "$1")
    if [ -n "$sums" ] && [ "$sums" = "$(state_sums "$2")" ]; then passed "$1: weights and moments"; else failed "$1: weights or moments differ from $2" "$1.err"; fi
}
# Close to one rank in losses and norms: if the matrix were counted twice, norms would be off by 0.4.
run() { # NAME REFERENCE RANKS OPTIONS...
    local name=$1
    train "$3" "$name" $common "${@:4}" || { failed "$name" "$name.err"; return; }
    close_to "$name" "$name" one 1e-6
    if awk "BEGIN { exit !($(distance "$name" one norms) <= 1e-5) }"; then passed "$name: norms"; else failed "$name: norms differ by $(distance "$name" one norms)"; fi
    [ "$name" = "$2" ] || like "$name" "$2"
}
each_once() { # RUN: tensors of the checkpoint, of which none is a head
    local names
    names=$(for f in "runs/$1"/checkpoints/last/model*.safetensors; do tail -c +9 "$f" | head -c 20000 | grep -ao '"[a-z_0-9.]*weight"'; done | sort)
    if [ "$(echo "$names" | uniq | wc -l)" = "$(echo "$names" | wc -l)" ] && echo "$names" | grep -q embed_tokens && ! echo "$names" | grep -q lm_head; then
        passed "$1: every tensor once"
    else
        failed "$1: tensors of the checkpoint: $names"
    fi
    ok "$1: the checkpoint is whole" "$moec" verify "runs/$1"
}
memory() { # RUN OPTIONS of compile...: what is printed is what is allocated
    local name=$1 planned allocated
    planned=$("$moec" compile --model_id model --dataset_path data --global_batch_size 16 "${@:2}" 2>&1 | sed -n 's/^memory of the largest rank: \([0-9]*\) bytes.*/\1/p')
    allocated=$(sed -n 's/^memory of the largest rank: \([0-9]*\) bytes allocated.*/\1/p' "$name.out")
    if [ -n "$planned" ] && [ "$planned" = "$allocated" ]; then passed "$name: memory"; else failed "$name: planned '$planned' bytes, allocated '$allocated'"; fi
}

make_llama_config model 512
tie
m4="--micro_batch_size 4" m2="--micro_batch_size 2"
run one one 1 $m4
run two two 2 $m4 --pipeline_stages 2
run three two 3 $m4 --pipeline_stages 3 --recompute 1000
run four two 4 $m4 --pipeline_stages 4
run parts two 2 $m4 --pipeline_stages 2 --pipeline_chunks 2
each_once two
each_once parts
memory two --runtime_ngpus 2 $m4 --pipeline_stages 2
memory parts --runtime_ngpus 2 $m4 --pipeline_stages 2 --pipeline_chunks 2
if [ "$(losses two)" != "$(losses one)" ]; then passed "other sums have other bits"; else failed "one rank has the bits of two stages: nothing was tested"; fi

# Two workers: ZeRO, tensors, the vocabulary in parts, lanes.
run zero-0 zero-0 4 $m4 --pipeline_stages 2 --zero 0
run zero-1 zero-0 4 $m4 --pipeline_stages 2 --zero 1
MOEC_TEST_LATE=1 run lanes zero-0 4 $m4 --pipeline_stages 2 --zero 1 --overlap on
run zero-2 zero-2 4 $m4 --pipeline_stages 2 --zero 2
run zero-3 zero-2 4 $m4 --pipeline_stages 2 --zero 3
MOEC_TEST_LATE=1 run zero-3-three zero-2 6 $m4 --pipeline_stages 3 --zero 3 --overlap on
run tensor tensor 4 $m4 --pipeline_stages 2 --tensor_parallel 2 --split_vocabulary off --zero 0
run tensor-zero-1 tensor 6 $m4 --pipeline_stages 3 --tensor_parallel 2 --split_vocabulary off --zero 1
run vocabulary vocabulary 4 $m4 --pipeline_stages 2 --tensor_parallel 2 --split_vocabulary on --zero 0
run vocabulary-parts vocabulary 4 $m4 --pipeline_stages 2 --pipeline_chunks 2 --tensor_parallel 2 --split_vocabulary on --zero 0
run vocabulary-zero-3 vocabulary-zero-3 8 $m4 --pipeline_stages 2 --tensor_parallel 2 --split_vocabulary on --zero 3
reads_peers && run peers zero-0 4 $m4 --pipeline_stages 2 --zero 1 --comm peer
ok "all ranks' lists end" "$moec" simulate --model_id model --dataset_path data --global_batch_size 16 --runtime_ngpus 6 $m4 --pipeline_stages 3 --zero 1
shows "a step is predicted" 'simulated step'
for name in zero-1 zero-3 vocabulary vocabulary-zero-3; do each_once $name; done
memory zero-3 --runtime_ngpus 4 $m4 --pipeline_stages 2 --zero 3
memory vocabulary-zero-3 --runtime_ngpus 8 $m4 --pipeline_stages 2 --tensor_parallel 2 --split_vocabulary on --zero 3

# --reproducible: one stage too.
run exact exact 1 $m4 --reproducible
run exact-two exact 2 $m4 --reproducible --pipeline_stages 2
run exact-parts exact 2 $m4 --reproducible --pipeline_stages 2 --pipeline_chunks 2
memory exact --runtime_ngpus 1 $m4 --reproducible
run pair pair 2 $m4 --reproducible --zero 0 --expert_parallel 1
MOEC_TEST_LATE=1 run pair-zero-3 pair 2 $m4 --reproducible --zero 3 --overlap on
run pair-stages pair 4 $m4 --reproducible --zero 2 --pipeline_stages 2
MOEC_TEST_LATE=1 run pair-stages-3 pair 6 $m4 --reproducible --zero 3 --pipeline_stages 3 --overlap on
run slices slices 2 $m4 --reproducible --tensor_parallel 2 --split_vocabulary on
run slices-stages slices 4 $m4 --reproducible --tensor_parallel 2 --split_vocabulary on --pipeline_stages 2 --zero 1

# Shards: the number of workers as well.
run shards shards 1 $m2 --reproducible_shards 4
run shards-workers shards 2 --micro_batch_size 4 --reproducible_shards 4 --zero 3
run shards-stages shards 4 --micro_batch_size 4 --reproducible_shards 4 --pipeline_stages 2 --zero 1
run shards-parts shards 2 $m2 --reproducible_shards 4 --pipeline_stages 2 --pipeline_chunks 2

# A run goes on with another layout: to a pipeline, to another one, and back.
goes_on() { # NAME REFERENCE RANKS "OPTIONS" RANKS OPTIONS...: three steps, then three more
    ok "$1: three steps" train "$3" "$1" $common $m4 --max_steps 3 $4
    ok "$1: three more" train_again "$5" "$1" $common $m4 "${@:6}" --resume_path last
    like "$1" "$2"
}
goes_on to-stages exact 1 "--reproducible" 2 --reproducible --pipeline_stages 2 --pipeline_chunks 2
goes_on to-one exact 3 "--reproducible --pipeline_stages 3" 1 --reproducible
goes_on to-others two 4 "--pipeline_stages 4" 2 --pipeline_stages 2

# With experts.
make_config model 512
tie
run one one 1 $m4
run experts experts 2 $m4 --reproducible --expert_parallel 1 --zero 0
run experts-stages experts 4 $m4 --reproducible --expert_parallel 2 --pipeline_stages 2 --zero 1 --row_capacity 40
run experts-parts experts 4 $m4 --reproducible --expert_parallel 2 --pipeline_stages 2 --pipeline_chunks 2 --zero 3
finish
