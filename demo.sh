#!/bin/bash
# demo.sh - the whole way on text that every machine has, the C headers under /usr/include: tokenizer, data, plan,
# training on 4 ranks, evaluation, export, generation. Every command is printed before it runs. All it writes is
# in ./demo (removed at the start); the time is 3 to 5 minutes on 2 cores. Fails when the loss falls by less than 40 %.
cd "$(dirname "$0")" || exit 1
set -euo pipefail
export LC_ALL=C
export CUDA_VISIBLE_DEVICES= # the demo is the same on every machine: it trains on the CPU
start=$SECONDS
ranks=4 steps=${DEMO_STEPS:-160}

say() {
    printf '\n# %s\n' "$*"
}
run() { # prints the command as one would type it, then runs it
    local word line=
    for word in "$@"; do
        case $word in *[!a-zA-Z0-9_./=,:@+-]* | '') word="'$word'" ;; esac
        line="$line $word"
    done
    printf '$%s\n' "$line"
    "$@"
}

say "Install what is missing, build ./moec"
run tools/install.sh
run make -s -j"$(nproc)"
. tools/mpi.sh

say "Text: headers of the C library and of Linux, in the order of their names, 2.5 MB; every 16th is held back"
rm -rf demo
mkdir -p demo/text demo/held-back demo/model
n=0 bytes=0
for file in $(find /usr/include/*.h /usr/include/linux /usr/include/asm-generic -maxdepth 1 -name '*.h' -type f -size -64k | sort); do
    [ $bytes -lt 2500000 ] || break
    n=$((n + 1))
    bytes=$((bytes + $(stat -c %s "$file")))
    name=$(echo "${file#/usr/include/}" | tr / _).txt
    if [ $((n % 16)) = 0 ]; then cp "$file" "demo/held-back/$name"; else cp "$file" "demo/text/$name"; fi
done
echo "$n headers, $bytes bytes: $(ls demo/text | wc -l) in demo/text, $(ls demo/held-back | wc -l) in demo/held-back"

say "A byte-level BPE tokenizer, learned from that text"
run ./moec tokenizer train --data_path_or_name demo/text --vocab_size 4096 --save_path demo/model

say "Text to token files"
run ./moec prepare --data_path_or_name demo/text --tokenizer_path_or_name demo/model --save_path demo/data --sequence_length 256
run ./moec prepare --data_path_or_name demo/held-back --tokenizer_path_or_name demo/model --save_path demo/data-held-back --sequence_length 256

say "A small DeepSeek-V2: 4 layers, 16 experts of which 4 are used, 2 shared ones. Its config.json is all there is: random weights"
cat >demo/model/config.json <<'END'
{
  "architectures": ["DeepseekV2ForCausalLM"],
  "model_type": "deepseek_v2",
  "vocab_size": 4096,
  "hidden_size": 256,
  "num_hidden_layers": 4,
  "num_attention_heads": 8,
  "num_key_value_heads": 8,
  "intermediate_size": 688,
  "moe_intermediate_size": 128,
  "q_lora_rank": null,
  "kv_lora_rank": 64,
  "qk_nope_head_dim": 32,
  "qk_rope_head_dim": 16,
  "v_head_dim": 32,
  "n_routed_experts": 16,
  "n_shared_experts": 2,
  "num_experts_per_tok": 4,
  "first_k_dense_replace": 1,
  "moe_layer_freq": 1,
  "n_group": 1,
  "topk_group": 1,
  "topk_method": "greedy",
  "scoring_func": "softmax",
  "norm_topk_prob": false,
  "routed_scaling_factor": 1.0,
  "aux_loss_alpha": 0.001,
  "seq_aux": true,
  "hidden_act": "silu",
  "rms_norm_eps": 1e-06,
  "rope_theta": 10000.0,
  "rope_scaling": {
    "type": "yarn",
    "factor": 4,
    "beta_fast": 32,
    "beta_slow": 1,
    "mscale": 0.707,
    "mscale_all_dim": 0.707,
    "original_max_position_embeddings": 256
  },
  "attention_bias": false,
  "attention_dropout": 0.0,
  "initializer_range": 0.02,
  "max_position_embeddings": 1024,
  "bos_token_id": 0,
  "eos_token_id": 1,
  "tie_word_embeddings": false,
  "torch_dtype": "float32"
}
END
run cat demo/model/config.json

say "A plan for $ranks ranks in scale units of 2"
plan="--plan_ngpus 2 --runtime_ngpus $ranks --micro_batch_size 4 --global_batch_size 8"
run ./moec compile --model_id demo/model --dataset_path demo/data $plan --plan demo/plan.json

say "The loss before training"
run ./moec eval --model_id demo/model --dataset_path demo/data-held-back --eval_sequences 128 | tee demo/before.txt

say "Training"
run $mpirun -np $ranks ./moec train --model_id demo/model --dataset_path demo/data $plan --plan demo/plan.json \
    --max_steps "$steps" --lr 2e-3 --lr_schedule cosine --min_lr 2e-4 --warmup_steps 20 --log_every 10 \
    --output_dir demo/runs --name headers

say "The loss after training, on text that the model has not seen"
run ./moec eval --model_id demo/runs/headers/checkpoints/last --dataset_path demo/data-held-back --eval_sequences 128 | tee demo/after.txt

say "One file set with optimizer state; a clean Hugging Face directory"
run ./moec verify demo/runs/headers/checkpoints/last
run ./moec merge --ckpt_dir demo/runs/headers/checkpoints/last --output_fname demo/merged
run ./moec export --ckpt_dir demo/runs/headers/checkpoints/last --output demo/exported
run ls -l demo/exported

say "Two samples"
run ./moec generate --model_id demo/exported --prompt '#ifndef _' --max_new_tokens 64 --temperature 0.7 --seed 1
run ./moec generate --model_id demo/exported --prompt 'struct ' --max_new_tokens 64 --temperature 0.7 --seed 2

value() { # FILE UNIT: the number before the unit
    sed -n "s|.*[ |]\([0-9.]*\) $2.*|\1|p" "demo/$1" | tail -n 1
}
say "Summary"
awk -v n0="$(value before.txt nats/token)" -v n1="$(value after.txt nats/token)" -v b0="$(value before.txt bits/byte)" \
    -v b1="$(value after.txt bits/byte)" -v seconds=$((SECONDS - start)) '
    match($0, /"tokens_per_s": [0-9.e+]*/) { speed[++n] = substr($0, RSTART + 16, RLENGTH - 16) }
    END {
        for (i = 2; i <= n; i++) sum += 1 / speed[i]
        fall = 100 * (1 - n1 / n0)
        printf "loss on held-back text   %.4f -> %.4f nats per token (%.1f %% less), %.4f -> %.4f bits per byte\n", n0, n1, fall, b0, b1
        printf "training                 %d steps, %.0f tokens/s on 4 ranks\n", n, (sum > 0 ? (n - 1) / sum : 0)
        printf "exported model           demo/exported (run: demo/runs/headers)\n"
        printf "time                     %d s\n", seconds
        if (!(fall >= 40)) { print "the loss fell by less than 40 %"; exit 1 }
    }' demo/runs/headers/metrics.jsonl
