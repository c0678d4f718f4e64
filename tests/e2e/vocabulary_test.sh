#!/bin/bash
# Embedding, head and loss in parts of the vocabulary: the losses of one rank, whole checkpoints, the same bits twice.
. "$(dirname "$0")/lib.sh"
make_inputs
common="--global_batch_size 16 --max_steps 8 --lr 1e-3 --warmup_steps 3 --save_every 0"
parts() { # RUN: what its plan says
    sed -n 's/.*"vocabulary_parallel": \([0-9]*\).*/\1/p' "runs/$1/plan.json"
}
norms() { # RUN: of its gradients
    sed -n 's/.*"grad_norm": \([^,]*\),.*/\1/p' "runs/$1/metrics.jsonl"
}
layout() { # NAME REFERENCE PARTS RANKS OPTIONS...
    train "$4" "$1" $common "${@:5}" || { failed "$1" "$1.err"; return; }
    close_to "$1" "$1" "$2" 1e-6
    paste <(norms "$1") <(norms "$2") | awk '{ d = $1 / $2 - 1; if (NF != 2 || d > 1e-5 || d < -1e-5) exit 1 } END { exit NR == 0 }' ||
        failed "$1: norms of gradients $(norms "$1") and $(norms "$2")"
    [ "$(parts "$1")" = "$3" ] || failed "$1: the vocabulary has $(parts "$1") parts, expected $3"
}
split="--split_vocabulary on"
ok "one rank" train 1 one-rank $common --micro_batch_size 4
layout zero-0 one-rank 2 2 --tensor_parallel 2 --zero 0 $split
layout zero-1 one-rank 2 4 --tensor_parallel 2 --expert_parallel 2 --zero 1 $split
layout zero-2 one-rank 4 4 --tensor_parallel 4 --expert_parallel 4 --zero 2 --recompute 1000 $split
layout zero-3 one-rank 2 4 --tensor_parallel 2 --zero 3 --plan_ngpus 2 --micro_batch_size 4 $split
layout stages one-rank 2 4 --tensor_parallel 2 --pipeline_stages 2 --micro_batch_size 4 --zero 1 $split
layout stages-in-parts one-rank 2 4 --tensor_parallel 2 --pipeline_stages 2 --pipeline_chunks 2 --micro_batch_size 4 --expert_parallel 2 $split
judging="--eval_every 4 --eval_sequences 8"
ok "one rank that evaluates" train 1 judge $common --micro_batch_size 4 $judging
layout judges judge 2 4 --tensor_parallel 2 $judging $split
judged() { # RUN: losses of its evaluations
    sed -n 's/.*"eval_loss": \([0-9.]*\).*/\1/p' "runs/$1/metrics.jsonl"
}
paste <(judged judge) <(judged judges) | awk '{ d = $1 / $2 - 1; if (d > 1e-6 || d < -1e-6) exit 1 } END { exit NR != 2 }' &&
    passed "evaluations agree" || failed "evaluations: $(judged judge) and $(judged judges)"
layout whole one-rank 1 2 --tensor_parallel 2 --split_vocabulary off
cp -r runs/zero-2 runs/first
train 4 zero-2 $common --tensor_parallel 4 --expert_parallel 4 --zero 2 --recompute 1000 $split || failed "the second run" zero-2.err
same "two runs" zero-2 first
for name in zero-0 zero-2 zero-3 stages; do
    ok "the checkpoint of $name is whole" "$moec" verify "runs/$name"
done
# From one layout to the next: the same steps as without a stop.
resumed() { # NAME FROM RANKS OPTIONS...
    train_again "$3" "$1" $common "${@:4}" --resume_path "runs/$2" --max_steps 12 || { failed "$1" "$1.err"; return; }
    close_to "$1" "$1" longer 1e-6
}
ok "one rank, longer" train_again 1 longer $common --micro_batch_size 4 --resume_path runs/one-rank --max_steps 12
resumed parts-to-one zero-2 1 --micro_batch_size 4
resumed one-to-parts one-rank 4 --tensor_parallel 4 --zero 3 $split
resumed parts-to-stages zero-3 4 --tensor_parallel 2 --pipeline_stages 2 --micro_batch_size 4 --zero 1 $split
# Where both fit, whole: parts only save memory. Where whole does not fit, parts.
planned() { # KEY OPTIONS... : of the plan for two ranks
    local key=$1
    shift
    rm -f two.json
    "$moec" compile --model_id model --dataset_path data --runtime_ngpus 2 --tensor_parallel 2 --split_experts off --zero 0 --recompute 0 --micro_batch_size 4 \
        --global_batch_size 16 --plan two.json "$@" >two.out 2>&1
    sed -n "s/.*\"$key\": \([0-9]*\).*/\1/p" two.json
}
whole=$(planned peak_bytes --split_vocabulary off) less=$(planned peak_bytes $split)
limit=$(awk "BEGIN { printf \"%.9f\", ($whole + $less) / 2e9 }")
[ "$less" -lt "$whole" ] && passed "parts need $less bytes, whole $whole" || failed "parts need $less bytes, whole $whole" two.out
[ "$(planned vocabulary_parallel)" = 1 ] && passed "whole where it fits" || failed "split though whole fits" two.out
[ "$(planned vocabulary_parallel --mem_constraint "$limit")" = 2 ] && passed "split under $limit GB" || failed "whole under $limit GB" two.out
# A tied head is a part of the same table.
sed -i 's/"tie_word_embeddings": false/"tie_word_embeddings": true/' model/config.json
ok "one rank, tied" train 1 tied $common --micro_batch_size 4
layout tied-zero-0 tied 2 2 --tensor_parallel 2 --zero 0 $split
layout tied-zero-3 tied 4 4 --tensor_parallel 4 --zero 3 $split
# Parts must be equal.
sed -i 's/"vocab_size": 512/"vocab_size": 514/' model/config.json
ok "one rank, 514 tokens" train 1 odd $common --micro_batch_size 4
layout odd-whole odd 1 4 --tensor_parallel 4
ok "a plan for 514 tokens" "$moec" compile --model_id model --dataset_path data --plan_ngpus 4 --runtime_ngpus 4 --tensor_parallel 4
shows "the plan tells" '^vocabulary: whole'
refused "parts of 514 tokens for 4" 2 'vocabulary of 514 .*multiple of 4' "$moec" compile --model_id model --dataset_path data \
    --plan_ngpus 4 --runtime_ngpus 4 --tensor_parallel 4 --split_vocabulary on
refused "parts for no group" 2 '--tensor_parallel of 2' "$moec" compile --model_id model --dataset_path data --plan_ngpus 4 \
    --runtime_ngpus 4 --split_vocabulary on
finish
