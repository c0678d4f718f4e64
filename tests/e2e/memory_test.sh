#!/bin/bash
# Memory: what compile prints is what train allocates, and nothing is allocated after the first step.
. "$(dirname "$0")/lib.sh"
make_inputs
common="--global_batch_size 8 --max_steps 12 --save_every 0 --eval_sequences 8"
same_bytes() { # NAME RANKS OPTIONS
    local name=$1 ranks=$2 planned class_sum
    shift 2
    "$moec" compile --model_id model --dataset_path data --runtime_ngpus "$ranks" --global_batch_size 8 "$@" >"$name.plan" 2>&1
    planned=$(sed -n 's/^memory of the largest rank: \([0-9]*\) bytes.*/\1/p' "$name.plan")
    train "$ranks" "$name" $common "$@" || { failed "$name" "$name.err"; return; }
    local allocated logged
    allocated=$(sed -n 's/^memory of the largest rank: \([0-9]*\) bytes allocated.*/\1/p' "$name.out")
    logged=$(sed -n 's/.*"peak_memory_bytes": \([0-9]*\),.*/\1/p' "runs/$name/metrics.jsonl" | sort -u)
    class_sum=$(awk '/^  [a-z ]+ +[0-9]+ bytes/ { for (i = 1; i < NF; i++) if ($(i + 1) == "bytes") s += $i } END { print s }' "$name.plan")
    if [ -n "$planned" ] && [ "$planned" = "$allocated" ] && [ "$planned" = "$logged" ]; then
        passed "$name: $planned bytes planned and allocated"
    else
        failed "$name: planned '$planned', allocated '$allocated', logged '$logged'" "$name.out"
    fi
    if [ "$planned" = "$class_sum" ]; then passed "$name: the classes add up"; else failed "$name: the classes add up to $class_sum, not $planned" "$name.plan"; fi
    constant "$name"
}
constant() {
    if [ "$(sed -n 's/.*"arena_allocations": \([0-9]*\),.*/\1/p' "runs/$1/metrics.jsonl" | sort -u | wc -l)" = 1 ]; then
        passed "$1: no arena allocation after step 1"
    else
        failed "$1: arena allocations during the run" "runs/$1/metrics.jsonl"
    fi
}
same_bytes one-rank 1
same_bytes ep-2 2 --expert_parallel 2 --zero 1
same_bytes ep-4-rounds 4 --expert_parallel 4 --zero 0 --row_capacity 40
same_bytes reproducible 2 --reproducible
same_bytes shards 2 --reproducible_shards 8 --expert_parallel 2 --zero 1
same_bytes pipeline 4 --pipeline_stages 2 --pipeline_chunks 2 --expert_parallel 2 --zero 1 --micro_batch_size 2
same_bytes shards-pipeline 2 --reproducible_shards 4 --pipeline_stages 2 --pipeline_chunks 2 --micro_batch_size 1

# With checkpoints: the thread that writes one takes buffers and gives them back, between its start and its end only.
train 1 saving $common --save_every 4 || failed saving saving.err
changed=$(sed -n 's/^{"step": \([0-9]*\),.*"arena_allocations": \([0-9]*\),.*/\1 \2/p' runs/saving/metrics.jsonl | awk 'NR > 1 && $2 != was { print $1 } { was = $2 }' | tr '\n' ' ')
case " $changed" in *" 2 "* | *" 3 "* | *" 4 "*) failed "allocations before the first checkpoint: steps $changed" ;; *) passed "allocations only while a checkpoint is written (steps $changed)" ;; esac

if gcc -D_GNU_SOURCE -shared -fPIC -O1 "$root/tests/e2e/malloc_count.c" -o count.so -ldl 2>count.err; then
    export MALLOC_COUNT_LOG=$work/count.log
    LD_PRELOAD=$work/count.so train 1 counted $common --eval_every 4
    # Streams are flushed after every step and evaluation; the last line is from after the checkpoint, and the
    # first ones are from before the first step. (Lines of 0: `timeout`, which starts the program.)
    grep -vx 0 count.log | head -n -1 | tail -n 11 | sort -u >counts
    if [ "$(wc -l <count.log)" -ge 14 ] && [ "$(wc -l <counts)" = 1 ] && [ "$(cat counts)" -gt 0 ]; then
        passed "no malloc, calloc, realloc or mmap of the program after step 1 ($(cat counts) before)"
    else
        failed "the program allocates between steps" count.log
    fi
else
    failed "malloc_count.c does not compile" count.err
fi

limit="$moec compile --model_id model --dataset_path data --runtime_ngpus 2 --global_batch_size 8 --mem_constraint"
refused "a limit that is too small says by how much" 4 'too small by [0-9.]+ GB.*needs [0-9]+ bytes' $limit 0.001
need=$(sed -n 's/.*allow --mem_constraint \([0-9.]*\).*/\1/p' "$work/log")
ok "the limit that it names is enough" $limit "$need"
finish
