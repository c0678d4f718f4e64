#!/bin/bash
# The width of experts in parts over a tensor group: stops and resumes, exports, evaluates and generates; pipelines; the same
# bits whatever the expert-parallel degree; rules that ask for it. (Losses of more layouts: layouts_test.sh, random_plans_test.sh.)
. "$(dirname "$0")/lib.sh"
make_inputs
common="--global_batch_size 16 --lr 1e-3 --warmup_steps 3 --keep_last 0"
split="--tensor_parallel 2 --split_experts on"
width() { # RUN: what its plan says
    sed -n 's/.*"width_parallel": \([0-9]*\).*/\1/p' "runs/$1/plan.json"
}
run() { # NAME RANKS OPTIONS...
    train "$2" "$1" $common --max_steps 8 --save_every 4 "${@:3}" || { failed "$1" "$1.err"; return 1; }
    [ "$(width "$1")" = 2 ] || failed "$1: the width has $(width "$1") parts"
    planned=$(sed -n 's/^memory of the largest rank: \([0-9]*\) bytes allocated, \([0-9]*\) bytes planned/\1 \2/p' "$1.out")
    [ -n "$planned" ] && [ "${planned% *}" = "${planned#* }" ] || failed "$1: allocated, planned: $planned" "$1.out"
}
judging="--eval_every 4 --eval_sequences 8"
ok "one rank" train 1 one-rank $common --max_steps 8 --save_every 4 --micro_batch_size 4 $judging
ok "one rank, the last steps" train_again 1 rest $common --max_steps 8 --save_every 4 --micro_batch_size 4 $judging \
    --resume_path runs/one-rank/checkpoints/step-00000004
judged() { # RUN: losses of its evaluations
    sed -n 's/.*"eval_loss": \([0-9.]*\).*/\1/p' "runs/$1/metrics.jsonl"
}
for kind in "whole 8 --expert_parallel 4 --zero 1 --row_capacity 40" "shared 4 --expert_parallel 2 --zero 3 --recompute 1000" \
    "stages 8 --expert_parallel 2 --pipeline_stages 2 --micro_batch_size 4" "units 8 --plan_ngpus 4 --expert_parallel 2 --zero 2 --micro_batch_size 4" \
    "lanes 8 --expert_parallel 2 --zero 2 --overlap on --row_capacity 60"; do
    set -- $kind
    run "$1" "$2" $split "${@:3}" $judging || continue
    close_to "$1" "$1" one-rank 1e-6
    paste <(judged one-rank) <(judged "$1") | awk '{ d = $1 / $2 - 1; if (d > 1e-6 || d < -1e-6) exit 1 } END { exit NR != 2 }' ||
        failed "$1: evaluations: $(judged one-rank) and $(judged "$1")"
    ok "$1: the checkpoint is whole" "$moec" verify "runs/$1"
    from=runs/$1/checkpoints/step-00000004
    train_again "$2" "$1-again" $common --max_steps 8 --save_every 4 $split "${@:3}" $judging --resume_path "$from" || { failed "$1-again" "$1-again.err"; continue; }
    if diff -r "runs/$1/checkpoints/step-00000008" "runs/$1-again/checkpoints/step-00000008" >diff.log; then passed "$1: stopped and resumed, the same bits"; else failed "$1: stopped and resumed, other bits" diff.log; fi
    train_again 1 "$1-one" $common --max_steps 8 --save_every 4 --micro_batch_size 4 $judging --resume_path "$from" || { failed "$1-one" "$1-one.err"; continue; }
    close_to "$1: resumed on one rank" "$1-one" rest 1e-6
done
ok "one rank's checkpoint goes on in parts" train_again 4 in-parts $common --max_steps 8 --save_every 4 $split --expert_parallel 2 $judging \
    --resume_path runs/one-rank/checkpoints/step-00000004
close_to "in-parts" in-parts rest 1e-6
ok "export" "$moec" export --ckpt_dir runs/whole --output exported
ok "export of one rank" "$moec" export --ckpt_dir runs/one-rank --output exported-one
for model in exported exported-one; do "$moec" eval --model_id $model --dataset_path other >$model.eval 2>&1 || failed "eval of $model" $model.eval; done
paste <(grep -o "loss [0-9.]*" exported.eval) <(grep -o "loss [0-9.]*" exported-one.eval) | awk '{ d = $2 / $4 - 1; if (d > 1e-6 || d < -1e-6) exit 1 } END { exit NR == 0 }' && passed "exported models have one loss" || failed "losses of exported models" exported.eval
ok "generation from it" "$moec" generate --model_id exported --prompt "static int" --max_new_tokens 8

# The expert-parallel degree, ZeRO and rounds change no bit, nor do recomputation and pipelines.
exact="--reproducible --micro_batch_size 8"
run same-1 8 $split $exact --expert_parallel 1 --zero 0
for kind in "same-2 --expert_parallel 2 --zero 3" "same-4 --expert_parallel 4 --zero 1 --row_capacity 40" "same-repeat --expert_parallel 1 --zero 2 --recompute 1000"; do
    set -- $kind
    run "$1" 8 $split $exact "${@:2}" && same "$1" "$1" same-1
done

# Who asks for it, and how; where it cannot be.
plan="$moec compile --model_id model --dataset_path data --runtime_ngpus 4 --global_batch_size 16 --plan p.json"
ok "by a rule" $plan --tensor_parallel 2 --constraint "mlp.experts: width=on"
shows "the plan tells" '^width of experts: over the ranks of tensors'
ok "whole where bits matter" $plan --tensor_parallel 2 --reproducible
shows "the plan tells that" '^width of experts: whole'
ok "by a rule, whole" $plan --tensor_parallel 2 --constraint "mlp.experts: width=off"
shows "the plan tells that too" '^width of experts: whole'
refused "a rule for others" 2 'attention: width.*no operator of that name is split by experts' $plan --tensor_parallel 2 --constraint "attention: width=on"
refused "a rule against an option" 2 'width.*contrary' $plan --tensor_parallel 2 --split_experts on --constraint "experts: width=off"
refused "no group" 2 'split_experts on: expected .*tensor_parallel of 2' $plan --split_experts on
refused "more ranks than there are" 2 'expert_parallel 4 x --tensor_parallel 2 does not divide' $plan $split --expert_parallel 4
refused "a width of 40 in 3 parts" 2 'width of 40 of experts.*multiple of 3' $plan --runtime_ngpus 6 --global_batch_size 12 --tensor_parallel 3 --split_experts on
cp model/config.json moe.json
make_llama_config model 512
refused "a model without experts" 2 'split_experts on: expected a model with experts' $plan $split
cp moe.json model/config.json
finish
