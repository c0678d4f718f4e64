#!/bin/bash
# save.sh - how fast checkpoints are written, beside what the disk takes: a V2-Lite of a few layers with random weights, two steps, a
# checkpoint after each (the first beside step 2, the last while training waits). Prints what dd writes, and the lines of moec.
#   DIR=/tmp       where: a new folder in it, removed at the end. Needs room for two checkpoints of about 8.2 GB a layer, less 1.3 GB
#   LAYERS=8       of the model, the first dense; EXPERTS=64 of each of the others; VOCAB=102400
#   DEVICE=auto    or cpu, cuda. On two cores with 24 GB: DEVICE=cpu LAYERS=2 EXPERTS=32 VOCAB=512 (5.5 GB each)
#   DD_MB=4096     what dd writes each time
#   MORE=          further options of train, e.g. MORE="--save_memory 0": training waits for the disk both times
#   RANKS=         started by mpirun; without it one, without
#   WRAP=          what moec is started with, e.g. WRAP="perf record"
. "$(dirname "$0")/../tests/e2e/lib.sh" # small inputs
unset MOEC_TEST_POISON
export CUDA_VISIBLE_DEVICES=$devices
[ -n "$devices" ] || unset CUDA_VISIBLE_DEVICES
out=$(mktemp -d "${DIR:-/tmp}/moec-save-XXXXXX")
trap 'rm -rf "$work" "$out"' EXIT
make_inputs
# DeepSeek-V2-Lite, but for what may be asked for.
cat >model/config.json <<END_OF_CONFIG
{
  "architectures": ["DeepseekV2ForCausalLM"], "model_type": "deepseek_v2", "torch_dtype": "bfloat16",
  "vocab_size": ${VOCAB:-102400}, "hidden_size": 2048, "num_hidden_layers": ${LAYERS:-8}, "num_attention_heads": 16, "num_key_value_heads": 16,
  "intermediate_size": 10944, "moe_intermediate_size": 1408, "q_lora_rank": null, "kv_lora_rank": 512,
  "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128, "n_routed_experts": ${EXPERTS:-64}, "n_shared_experts": 2,
  "num_experts_per_tok": 6, "first_k_dense_replace": 1, "moe_layer_freq": 1, "n_group": 1, "topk_group": 1,
  "topk_method": "greedy", "scoring_func": "softmax", "norm_topk_prob": false, "routed_scaling_factor": 1.0,
  "aux_loss_alpha": 0.001, "seq_aux": true, "hidden_act": "silu", "rms_norm_eps": 1e-06, "rope_theta": 10000,
  "attention_bias": false, "attention_dropout": 0.0, "tie_word_embeddings": false, "initializer_range": 0.02,
  "max_position_embeddings": 2048, "bos_token_id": 0, "eos_token_id": 1
}
END_OF_CONFIG
disk() { # FILES dd-OPTIONS...: as many at once, DD_MB together
    local n=$1 i
    shift
    for i in $(seq "$n"); do
        dd if=/dev/zero of="$out/dd$i" bs=16M count=$((${DD_MB:-4096} / 16 / n)) "$@" 2>&1 | tail -n 1 | sed "s/^.*copied/dd $*, $n at once/" &
    done
    wait
    rm -f "$out"/dd*
}
disk 1 oflag=direct
disk 1 oflag=direct conv=fsync
disk 2 oflag=direct conv=fsync
disk 1 conv=fsync
${RANKS:+$mpirun -np $RANKS} ${WRAP-} "$moec" train --model_id model --dataset_path data --output_dir "$out" --name x --device "${DEVICE:-auto}" --master auto --moments fp32 \
    --global_batch_size $((2 * ${RANKS:-1})) --micro_batch_size 2 --max_steps 2 --save_every 1 --keep_last 2 ${MORE-} >train.out 2>train.err || { tail -n 3 train.err train.out; exit 1; }
grep "^checkpoint" train.out
disk 1 oflag=direct conv=fsync
"$moec" verify "$out"/x/checkpoints/step-00000001 | tail -n 1
