#!/bin/bash
# One rank on a CUDA device, heads as wide as DeepSeek-V2's: every way to store the optimizer's states takes the bytes that were
# planned and trains alike; neither a second run, nor graphs, nor what is computed again or lodges elsewhere changes a bit. Then
# the golden models, with the kernels of this device and with those of compute capability 8.0. Skips without a device.
#   OPTIONS=--portable   of every run: all of it with those kernels
. "$(dirname "$0")/lib.sh"
gpu=${devices%%,*}
export CUDA_VISIBLE_DEVICES=${gpu:-0}
make_tokenizer "$work/tokenizer" 512
make_config "$work/model" 512 bfloat16
sed -i 's/"hidden_size": 64/"hidden_size": 256/; s/"num_attention_heads": 4/"num_attention_heads": 2/; s/"num_key_value_heads": 4/"num_key_value_heads": 2/
        s/"qk_nope_head_dim": 16/"qk_nope_head_dim": 128/; s/"qk_rope_head_dim": 8/"qk_rope_head_dim": 64/; s/"v_head_dim": 16/"v_head_dim": 128/
        s/"kv_lora_rank": 24/"kv_lora_rank": 64/; s/"moe_intermediate_size": 40/"moe_intermediate_size": 136/' model/config.json
make_dataset "$work/data" "$work/tokenizer" 256 300000
common="--device cuda --global_batch_size 16 --micro_batch_size 4 --max_steps 4 --epochs 9 --lr 1e-3 --warmup_steps 2 --save_every 0 --threads 1 ${OPTIONS:-}"
exact="--master fp32 --moments fp32 --gradient_dtype fp32"
if ! train 1 exact $common $exact; then
    if grep -Eq 'no CUDA device|built without|needs lib' exact.err; then
        skip "states on CUDA" "$(sed 's/^moec: //' exact.err | head -n 1)"
    else
        failed "one rank" exact.err
    fi
    finish
fi
passed "one rank"
planned_is_allocated() { # RUN
    local bytes
    bytes=$(sed -n 's/^memory of the largest rank: \([0-9]*\) bytes allocated, \([0-9]*\) bytes planned.*/\1 \2/p' "$1.out")
    if [ -n "$bytes" ] && [ "${bytes% *}" = "${bytes#* }" ]; then passed "$1: planned = allocated, ${bytes% *} bytes"; else failed "$1: allocated, planned: $bytes" "$1.out"; fi
}
same_figures() { # NAME RUN REFERENCE: norms and loads of experts too
    same "$1" "$2" "$3"
    if [ -n "$(figures "$2")" ] && [ "$(figures "$2")" = "$(figures "$3")" ]; then passed "$1: metrics"; else failed "$1: metrics differ" "$2.err"; fi
}
for master in fp32 split none; do
    for moments in fp32 bf16 int8; do
        for gradients in fp32 bf16; do
            name=$master-$moments-$gradients
            train 1 $name $common --master $master --moments $moments --gradient_dtype $gradients || { failed $name $name.err; continue; }
            close_to $name $name exact 1e-3
            planned_is_allocated $name
        done
    done
done
for kind in split-fp32-fp32 none-int8-bf16; do
    IFS=- read -r master moments gradients <<<"$kind"
    form="--master $master --moments $moments --gradient_dtype $gradients"
    if train 1 $kind-again $common $form && diff -r runs/$kind/checkpoints/step-00000004 runs/$kind-again/checkpoints/step-00000004 >diff.log; then
        passed "$kind: a second run, every byte of the checkpoint"
    else
        failed "$kind: a second run" diff.log
    fi
    for way in "--graphs off" "--recompute 0 --offload 0" "--recompute 7" "--recompute 1000" "--recompute 1000 --graphs off" "--offload 2 --recompute 3"; do
        name=$kind${way//[ -]/}
        train 1 "$name" $common $form $way || { failed "$name" "$name.err"; continue; }
        same_figures "$kind $way" "$name" $kind
        planned_is_allocated "$name"
    done
    saves="--keep_last 0 --save_every 2"
    if train 1 $kind-half $common $form $saves &&
        train 1 $kind-rest $common $form $saves --resume_path runs/$kind-half/checkpoints/step-00000002 &&
        diff -r runs/$kind-half/checkpoints/step-00000004 runs/$kind-rest/checkpoints/step-00000004 >diff.log; then
        passed "$kind: stopped and resumed, every byte of the checkpoint"
    else
        failed "$kind: stopped and resumed" diff.log
    fi
done
for golden in "$root"/tests/golden/*/model.safetensors; do
    dir=$(dirname "$golden")
    for kernels in "" --portable; do
        if timeout 120 "$moec" check "$dir" --reference "$dir/reference.safetensors" --device cuda $kernels >check.log 2>&1; then
            passed "check ${dir##*/} $kernels: $(tail -n 1 check.log)"
        else
            grep -E 'past tolerance|moec:' check.log >past.log
            failed "check ${dir##*/} $kernels" past.log
        fi
    done
done
if train 1 portable $common $exact --portable; then close_to "kernels of compute capability 8.0" portable exact 1e-3; else failed portable portable.err; fi
finish
