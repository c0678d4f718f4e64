#!/bin/bash
# A Hugging Face directory through training with lr 0 and back: every tensor is the same, byte for byte. And the
# committed references hold.
. "$(dirname "$0")/lib.sh"
# tensors DIR: "name dtype shape checksum" of every tensor in its safetensors files, in the order of names.
tensors() {
    local file bytes
    for file in "$1"/*.safetensors; do
        case $file in */optimizer-*) continue ;; esac
        bytes=$(od -An -tu8 -N8 "$file" | tr -d ' ')
        { tail -c +9 "$file" | head -c "$bytes"; echo; } | sed 's/"__metadata__": *{[^}]*},*//; s/},/}\n/g' |
            sed -n 's/[{ ]*"\([^"]*\)": *{"dtype": *"\([A-Z0-9]*\)", *"shape": *\[\([0-9, ]*\)\], *"data_offsets": *\[\([0-9]*\), *\([0-9]*\)\].*/\1 \2 \4 \5 [\3]/p' |
            while read -r name dtype from to shape; do
                echo "$name $dtype $(echo "$shape" | tr -d ' ') $(tail -c +$((9 + bytes + from)) "$file" | head -c $((to - from)) | md5sum | cut -d' ' -f1)"
            done
    done | sort
}
same_tensors() { # NAME DIR DIR
    tensors "$2" >a.tensors
    tensors "$3" >b.tensors
    if [ -s a.tensors ] && cmp -s a.tensors b.tensors; then
        passed "$1: $(wc -l <a.tensors) tensors are the same"
    else
        diff a.tensors b.tensors | head >diff.log
        failed "$1: tensors differ" diff.log
    fi
}
make_tokenizer tokenizer 300
make_text golden.txt 30000
for golden in "$root"/tests/golden/*/model.safetensors; do
    dir=$(dirname "$golden")
    name=$(basename "$dir")
    if [ -f "$dir/reference.safetensors" ]; then
        ok "moec check $name" timeout 300 "$moec" check "$dir" --reference "$dir/reference.safetensors"
        ok "moec check $name --reproducible, 2 threads" timeout 300 "$moec" check "$dir" --reference "$dir/reference.safetensors" --reproducible --threads 2
        refused "moec check $name with a tolerance that nothing meets" 7 'past tolerance' "$moec" check "$dir" --reference "$dir/reference.safetensors" --tolerance 1e-12
    fi
done
sed 's/"bf16_error.loss":{"dtype":"F64"/"bf16_error.loss":{"dtype":"I64"/' "$root/tests/golden/v2/reference.safetensors" >wrong.safetensors
refused "moec check: bf16_error of another type" 3 'bf16_error.loss: expected F64' "$moec" check "$root/tests/golden/v2" --reference wrong.safetensors

# A model of our own with the vocabulary of the tokenizer, in each stored type.
make_dataset data tokenizer 64 40000
for dtype in float32 bfloat16 float16; do
    make_config made-$dtype 300 $dtype
    cp tokenizer/* made-$dtype/
    ok "$dtype: a random model" timeout 60 "$moec" train --model_id made-$dtype --dataset_path data --max_steps 2 --global_batch_size 4 --lr 1e-3 --name made-$dtype
    ok "$dtype: export" "$moec" export --ckpt_dir runs/made-$dtype --output hf-$dtype
    tensors hf-$dtype >stored
    case $dtype in float32) code=F32 ;; bfloat16) code=BF16 ;; *) code=F16 ;; esac
    if [ -s stored ] && ! cut -d' ' -f2 stored | grep -qvx $code; then passed "$dtype: stored as $code"; else failed "$dtype: stored types" stored; fi
    train_hf() { # RANKS NAME OPTIONS
        local launch=
        [ "$1" = 1 ] || launch="$mpirun -np $1"
        timeout 60 $launch "$moec" train --model_id hf-$dtype --dataset_path data --max_steps 1 --lr 0 --global_batch_size 4 --name "${@:2}"
    }
    ok "$dtype: a step with lr 0" train_hf 1 zero-$dtype
    ok "$dtype: export of it" "$moec" export --ckpt_dir runs/zero-$dtype/checkpoints/last --output back-$dtype
    same_tensors "$dtype" hf-$dtype back-$dtype
    ok "$dtype: on 4 ranks" train_hf 4 zero4-$dtype --expert_parallel 2 --zero 1
    ok "$dtype: export of that" "$moec" export --ckpt_dir runs/zero4-$dtype --output back4-$dtype --max_shard_size 100KB
    same_tensors "$dtype, 4 ranks, small shards" hf-$dtype back4-$dtype
    if [ "$(ls back4-$dtype/model-*.safetensors | wc -l)" -gt 2 ] && [ -f back4-$dtype/model.safetensors.index.json ]; then passed "$dtype: shards and an index"; else failed "$dtype: no shards"; fi
    ok "$dtype: merge" "$moec" merge --ckpt_dir runs/zero4-$dtype --output_fname merged-$dtype
    same_tensors "$dtype, merged" hf-$dtype merged-$dtype
    ok "$dtype: the merged checkpoint is complete" "$moec" verify merged-$dtype
    ok "$dtype: training resumes from it" timeout 60 "$moec" train --model_id hf-$dtype --dataset_path data --max_steps 2 --global_batch_size 4 \
        --name from-merged-$dtype --resume_path merged-$dtype
    ok "$dtype: export of what --model_id reads" "$moec" eval --model_id back4-$dtype --dataset_path data
done
ok "export as bfloat16" "$moec" export --ckpt_dir runs/made-float32 --output as-bf16 --dtype bfloat16
tensors as-bf16 >stored
if [ -s stored ] && ! cut -d' ' -f2 stored | grep -qvx BF16; then passed "all are BF16"; else failed "stored types" stored; fi
refused "a directory that is there stays" 2 'exists|already|not empty' "$moec" export --ckpt_dir runs/made-float32 --output as-bf16

# org/name in a Hugging Face cache
mkdir -p cache/models--some--model/refs cache/models--some--model/snapshots/abc
echo -n abc >cache/models--some--model/refs/main
cp hf-float32/* cache/models--some--model/snapshots/abc/
HF_HUB_CACHE=$work/cache ok "org/name in HF_HUB_CACHE" "$moec" eval --model_id some/model --dataset_path data
mkdir -p home && ln -s ../cache home/hub
HF_HOME=$work/home ok "org/name in HF_HOME" "$moec" eval --model_id some/model --dataset_path data
export HF_HUB_CACHE=$work/empty
refused "org/name that is not there: how to get it" 3 'download' "$moec" eval --model_id other/model --dataset_path data
finish
