#!/bin/bash
# A second family, dense and with grouped queries: the loss does not depend on how the work is split, and every command
# takes such a model.
. "$(dirname "$0")/lib.sh"
make_tokenizer "$work/tokenizer" 512
make_llama_config "$work/model" 512
cp "$work"/tokenizer/* "$work/model/"
make_dataset "$work/data" "$work/tokenizer" 64 60000
common="--global_batch_size 8 --max_steps 6 --lr 1e-3 --warmup_steps 3 --save_every 0"
layout() { # NAME REFERENCE RANKS OPTIONS...
    train "$3" "$1" $common "${@:4}" || { failed "$1" "$1.err"; return; }
    close_to "$1" "$1" "$2" 1e-6
}
ok "one rank" train 1 one-rank $common --micro_batch_size 4
layout ranks-2 one-rank 2 --micro_batch_size 2 --zero 0
layout ranks-4-zero one-rank 4 --micro_batch_size 4 --zero 1
layout zero-3 one-rank 4 --micro_batch_size 4 --zero 3
layout tensor-2 one-rank 2 --micro_batch_size 4 --tensor_parallel 2
layout tensor-2-zero one-rank 4 --micro_batch_size 4 --tensor_parallel 2 --zero 2 --recompute 1000
ok "ZeRO" train 2 zero $common --micro_batch_size 2 --zero 1
same "ZeRO changes no bit" zero ranks-2
ok "recomputation" train 1 recompute $common --micro_batch_size 4 --recompute 1000
same "recomputation changes no bit" recompute one-rank
ok "resuming on other ranks" train 4 resumed $common --micro_batch_size 4 --zero 1 --resume_path runs/zero --max_steps 8
ok "compile for a tensor group" "$moec" compile --model_id model --dataset_path data --plan_ngpus 2 --runtime_ngpus 2 --tensor_parallel 2 --plan tensor.json
splits() { # FILE OPERATOR: how many nodes
    grep -c "\"op\": \"$2\", \"split\": {\"[a-z]*\": [0-9]*, " "$1"
}
[ "$(splits tensor.json attention_gqa) $(splits tensor.json rope_half) $(splits tensor.json gate_up)" = "3 6 3" ] &&
    passed "2 ranks split the groups" || failed "2 ranks split the groups" tensor.json
ok "compile for 4" "$moec" compile --model_id model --dataset_path data --plan_ngpus 4 --runtime_ngpus 4 --tensor_parallel 4 --plan four.json
[ "$(splits four.json attention_gqa) $(splits four.json rope_half) $(splits four.json gate_up)" = "0 0 3" ] &&
    passed "4 ranks leave 2 groups whole" || failed "4 ranks leave 2 groups whole" four.json
refused "experts of a dense model" 2 'no experts' "$moec" train --model_id model --dataset_path data --expert_parallel 2 --name none

ok "export" "$moec" export --ckpt_dir runs/zero --output exported
ok "eval" "$moec" eval --model_id exported --dataset_path data
shows "eval tells a loss" 'loss [0-9.]+'
ok "generate" "$moec" generate --model_id exported --prompt "int main" --max_new_tokens 4
ok "compile" "$moec" compile --model_id model --dataset_path data --plan_ngpus 2 --runtime_ngpus 4
ok "init" "$moec" init --model_id model --output random
ok "inspect" "$moec" inspect random
shows "inspect tells the heads" '6 heads of 16, 2 of keys and values'
ok "bench step" "$moec" bench step --model_id model --dataset_path data --tokens 512 --micro_batch_size 4
ok "bench ops" "$moec" bench ops --model_id model --sequence_length 32 --micro_batch_size 2
shows "bench ops has attention" 'attention_gqa'
finish
