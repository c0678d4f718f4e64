# layouts_cuda.sh - sourced by tests of ranks on a CUDA device: a small model and data, a run of one rank, and
#   layout NAME RANKS OPTIONS...   a run of ranks that share one GPU (--comm mpi); counts as failed where it fails
# Ends the test, skipped, where there is no device. OPTIONS=--portable: of every run, with the kernels of compute capability 8.0.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
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
