#!/bin/bash
# Bad input: one line that names file and place, the exit code of the table, earlier outputs untouched.
. "$(dirname "$0")/lib.sh"
make_inputs
train 1 good --global_batch_size 4 --max_steps 2 --save_every 1 --lr 1e-3 || failed "a good run" good.err
"$moec" export --ckpt_dir runs/good --output hf >/dev/null 2>&1 || failed "export"
last=runs/good/checkpoints/last
find runs/good -type f | sort | xargs md5sum >good.sums
fresh() { # DIR COPY: a copy to spoil
    rm -rf "$2"
    cp -rL "$1" "$2"
}
cut_file() { # FILE BYTES-FROM-THE-END
    truncate -s "-$2" "$1"
}
overwrite() { # FILE OFFSET BYTES (printf format)
    printf "$3" | dd of="$1" bs=1 seek="$2" conv=notrunc status=none
}
edit() { # FILE SED
    sed -i "$2" "$1"
}
rm -rf runs/bad # what a missing check would leave
t="$moec train --global_batch_size 4 --max_steps 1 --name bad"
on_data="$t --model_id model --dataset_path"
on_model="$t --dataset_path data --model_id"

# --- model directory, config.json
refused "no such model directory" 3 'nowhere' $on_model ./nowhere
mkdir empty
refused "no config.json" 3 'empty/config.json' $on_model empty
config() { # NAME CODE PATTERN SED
    fresh model bad-model
    edit bad-model/config.json "$4"
    refused "config.json: $1" "$2" "$3" $on_model bad-model
}
fresh model bad-model
cut_file bad-model/config.json 30
refused "config.json: truncated" 3 'bad-model/config.json:[0-9]+' $on_model bad-model
: >bad-model/config.json
refused "config.json: empty" 3 'bad-model/config.json' $on_model bad-model
head -c 100000 /dev/zero >bad-model/config.json
refused "config.json: zeros" 3 'bad-model/config.json' $on_model bad-model
config "wrong type" 3 'config.json:[0-9]+: hidden_size: expected an integer' 's/"hidden_size": 64/"hidden_size": "64"/'
config "real for integer" 3 'hidden_size' 's/"hidden_size": 64/"hidden_size": 64.5/'
config "missing field" 3 'kv_lora_rank' 's/"kv_lora_rank": 24,//'
config "negative" 3 'config.json:[0-9]+: hidden_size' 's/"hidden_size": 64/"hidden_size": -64/'
config "absurd" 3 'hidden_size' 's/"hidden_size": 64/"hidden_size": 99999999999/'
config "more than 64 bits" 3 'config.json:[0-9]+' 's/"hidden_size": 64/"hidden_size": 99999999999999999999999/'
config "absurd as a whole" '[34]' 'GB|large|memory|bytes' 's/"hidden_size": 64/"hidden_size": 16000000/; s/"intermediate_size": 160/"intermediate_size": 16000000/'
config "NaN" 3 'config.json:[0-9]+' 's/"rms_norm_eps": 1e-06/"rms_norm_eps": NaN/'
config "unknown field" 3 'sliding_window' 's/"hidden_size": 64/"sliding_window": 4, "hidden_size": 64/'
config "key twice" 3 'config.json:[0-9]+.*hidden_size' 's/"hidden_size": 64/"hidden_size": 32, "hidden_size": 64/'
config "another architecture" 3 'model_type.*llama.*gpt2' 's/deepseek_v2/gpt2/'
config "another activation" 3 'hidden_act.*gelu' 's/silu/gelu/'
config "another rope" 3 'rope_scaling.*linear' 's/"yarn"/"linear"/'
config "odd rope width" 3 'qk_rope_head_dim' 's/"qk_rope_head_dim": 8/"qk_rope_head_dim": 7/'
config "more experts a token than experts" 3 'num_experts_per_tok' 's/"num_experts_per_tok": 2/"num_experts_per_tok": 9/'
config "grouped heads" 3 'num_key_value_heads' 's/"num_key_value_heads": 4/"num_key_value_heads": 2/'
config "vocabulary smaller than the data's" 7 'vocab' 's/"vocab_size": 512/"vocab_size": 100/; s/"eos_token_id": 1/"eos_token_id": 1/'
config "sequences longer than positions" 7 'max_position_embeddings' 's/"max_position_embeddings": 256/"max_position_embeddings": 32/'

# --- safetensors
weights() { # NAME CODE PATTERN : bad-model is spoiled already
    refused "weights: $1" "$2" "$3" "$moec" eval --dataset_path data --model_id bad-model
}
file=$(cd hf && ls *.safetensors | head -n 1)
header=$(od -An -tu8 -N8 "hf/$file" | tr -d ' ')
fresh hf bad-model; cut_file "bad-model/$file" 100; weights "truncated" 3 "$file"
fresh hf bad-model; truncate -s 4 "bad-model/$file"; weights "truncated in the first number" 3 "$file"
fresh hf bad-model; truncate -s 100 "bad-model/$file"; weights "truncated in the header" 3 "$file"
fresh hf bad-model; : >"bad-model/$file"; weights "empty" 3 "$file"
fresh hf bad-model; overwrite "bad-model/$file" 0 '\377\377\377\377\377\377\377\177'; weights "header of 2^63 bytes" 3 "$file"
fresh hf bad-model; overwrite "bad-model/$file" 8 'xxxx'; weights "header is no JSON" 3 "$file"
fresh hf bad-model; overwrite "bad-model/$file" $((8 + header + 400)) '\000\000\300\177'; weights "NaN" 3 '(nan|not finite).*|.*model\.|embed'
fresh hf bad-model; LC_ALL=C sed -i '1s/embed_tokens/embed_tokenz/' "bad-model/$file"; weights "another name" 3 'embed_token'
fresh hf bad-model; LC_ALL=C sed -i '1s/\[512, *64\]/[64,512]/' "bad-model/$file"; weights "another shape" 3 'shape|64'
fresh hf bad-model; LC_ALL=C sed -i '1s/"F32"/"X32"/' "bad-model/$file"; weights "unknown dtype" 3 'X32|dtype'
fresh hf bad-model; LC_ALL=C sed -i '1s/"data_offsets": *\[\([0-9]*\), *\([0-9]*\)\]/"data_offsets":[\2,\1]/' "bad-model/$file"; weights "offsets turned round" 3 "$file"
fresh hf bad-model; LC_ALL=C sed -i '1s/"data_offsets": *\[0, *\([0-9]\)\([0-9]*\)\]/"data_offsets":[0,9\2]/' "bad-model/$file"; weights "overlap or past the end" 3 "$file"
fresh hf bad-model; edit bad-model/config.json 's/"num_hidden_layers": 3/"num_hidden_layers": 4/'; weights "a layer is missing" 3 'layers.3'
fresh hf bad-model; edit bad-model/config.json 's/"num_hidden_layers": 3/"num_hidden_layers": 2/'; weights "a layer too many" 3 'layers.2'
fresh hf bad-model; rm bad-model/*.safetensors; echo '{"weight_map": {"lm_head.weight": "model-00001-of-00001.safetensors"}}' >bad-model/model.safetensors.index.json
weights "the index names a file that is not there" 3 'model-00001-of-00001.safetensors'
echo '{"weight_map": {"lm_head.weight": "../../etc/passwd"}}' >bad-model/model.safetensors.index.json
weights "the index leaves the directory" 3 'index.json'
fresh hf bad-model; rm bad-model/*.safetensors
refused "--init pretrained without weights" 3 'safetensors' "$moec" eval --dataset_path data --model_id bad-model --init pretrained

# --- dataset
refused "no such dataset" 3 'nowhere' $on_data nowhere
refused "a directory that is no dataset" 3 'empty.*dataset.json' $on_data empty
fresh data bad-data; cut_file bad-data/tokens.bin 4; refused "dataset: tokens truncated" '[35]' 'bad-data.*tokens.bin' $on_data bad-data
fresh data bad-data; : >bad-data/tokens.bin; refused "dataset: tokens empty" '[35]' 'tokens.bin' $on_data bad-data
fresh data bad-data; rm bad-data/tokens.bin; refused "dataset: no tokens" '[35]' 'tokens.bin' $on_data bad-data
fresh data bad-data; overwrite bad-data/tokens.bin 1000 '\001\000\000\000'; refused "dataset: a token changed" 5 'bad-data.*(checksum|hash)' $on_data bad-data
fresh data bad-data; cut_file bad-data/dataset.json 20; refused "dataset: description truncated" 3 'bad-data/dataset.json:[0-9]+' $on_data bad-data
fresh data bad-data; edit bad-data/dataset.json 's/"sequence_length": 64/"sequence_length": "64"/'; refused "dataset: wrong type" '[35]' 'dataset.json:[0-9]+.*sequence_length' $on_data bad-data
fresh data bad-data; edit bad-data/dataset.json 's/"sequence_length": 64/"sequence_length": 4611686018427387904/'; refused "dataset: overflowing sizes" '[35]' 'dataset.json|tokens.bin' $on_data bad-data
fresh data bad-data; edit bad-data/dataset.json 's/"version": 1/"version": 99/'; refused "dataset: another version" 3 'version' $on_data bad-data
refused "eval on a bad dataset" 5 'bad-data2' sh -c "cp -r data bad-data2; printf '\\001' | dd of=bad-data2/tokens.bin bs=1 seek=999 conv=notrunc status=none; exec '$moec' eval --model_id hf --dataset_path bad-data2"

# --- plan
"$moec" compile --model_id model --dataset_path data --global_batch_size 4 --runtime_ngpus 1 --plan plan.json >/dev/null 2>&1
plan() { # NAME CODE PATTERN SED
    sed "$4" plan.json >bad-plan.json
    refused "plan: $1" "$2" "$3" $on_data data --plan bad-plan.json
}
plan "another version" 3 'bad-plan.json:[0-9]+.*version' 's/"version": [0-9]*/"version": 77/'
plan "wrong type" 3 'bad-plan.json:[0-9]+' 's/"micro_batch": \([0-9]*\)/"micro_batch": "\1"/'
plan "absurd" '[37]' 'bad-plan.json' 's/"micro_batch": \([0-9]*\)/"micro_batch": 99999999999/'
plan "of another number of ranks" '[37]' 'bad-plan.json' 's/"runtime_ngpus": 1/"runtime_ngpus": 2/; s/"plan_ngpus": 1/"plan_ngpus": 2/'
head -c 200 plan.json >bad-plan.json
refused "plan: truncated" 3 'bad-plan.json:[0-9]+' $on_data data --plan bad-plan.json
fresh model other-model; edit other-model/config.json 's/"kv_lora_rank": 24/"kv_lora_rank": 16/'
refused "plan: of another model" 7 'plan.json: made for model [0-9a-f]{16}, this model is [0-9a-f]{16}' $t --model_id other-model --dataset_path data --plan plan.json
refused "plan: cannot be written" '[13]' 'nowhere/plan.json' "$moec" compile --model_id model --dataset_path data --global_batch_size 4 --plan nowhere/plan.json

# --- what does not go together
refused "ranks that were not started" 2 'runtime_ngpus 2' $on_data data --runtime_ngpus 2
refused "units that do not divide the ranks" 2 'plan_ngpus' "$moec" compile --model_id model --dataset_path data --runtime_ngpus 8 --plan_ngpus 3
refused "experts that do not divide" 2 'expert_parallel 3' "$moec" compile --model_id model --dataset_path data --runtime_ngpus 6 --expert_parallel 3 --global_batch_size 12
refused "experts over more ranks than there are" 2 "expert_parallel 4 does not divide the number of ranks, 2" "$moec" compile --model_id model --dataset_path data --runtime_ngpus 2 --expert_parallel 4 --global_batch_size 12
refused "a tensor group with nothing to split" 2 "tensor_parallel = 3" "$moec" compile --model_id model --dataset_path data --runtime_ngpus 6 --tensor_parallel 3 --global_batch_size 12
refused "a batch that the ranks cannot share" 2 'global_batch_size' "$moec" compile --model_id model --dataset_path data --runtime_ngpus 4 --global_batch_size 6
refused "a micro-batch that does not divide" 2 'micro_batch_size' "$moec" compile --model_id model --dataset_path data --global_batch_size 8 --micro_batch_size 3
refused "another sequence length" 7 'sequence_length' $on_data data --sequence_length 128
refused "all sequences held back" 2 'eval_sequences' $on_data data --eval_sequences 1000000

# --- runs and checkpoints
refused "a run that is there" 2 'runs/good already holds a run' "$moec" train --model_id model --dataset_path data --name good --max_steps 1
resume() { # NAME CODE PATTERN OPTIONS: on the spoiled copy ./bad-ckpt
    refused "checkpoint: $1" "$2" "$3" $t --dataset_path data --model_id model --resume_path bad-ckpt "${@:4}"
}
fresh $last bad-ckpt
refused "resume on another dataset" 7 '[0-9a-f]{16}.*[0-9a-f]{16}' $t --model_id model --dataset_path other --resume_path bad-ckpt
refused "resume with another model" 7 '[0-9a-f]{16}.*[0-9a-f]{16}' $t --model_id other-model --dataset_path data --resume_path bad-ckpt
resume "another seed" 7 'seed' --seed 5
resume "another split" 7 'eval_sequences' --eval_sequences 3
for f in model optimizer; do
    name=$(cd $last/ && ls | grep "^$f.*safetensors$" | head -n 1)
    fresh $last bad-ckpt; cut_file "bad-ckpt/$name" 10; resume "$f truncated" '[35]' "bad-ckpt/.*$f"
    fresh $last bad-ckpt; rm "bad-ckpt/$name"; resume "$f missing" '[35]' "$f"
    fresh $last bad-ckpt; overwrite "bad-ckpt/$name" 20000 '\377\377\377\377'; resume "$f changed" '[35]' "$f|checksum|finite"
    refused "verify: $f changed" 5 "." sh -c "'$moec' verify bad-ckpt 2>&1 >verify.out | grep . >&2; exit \${PIPESTATUS:-5}"
done
fresh $last bad-ckpt; cut_file bad-ckpt/train_state.json 20; resume "position truncated" '[35]' 'train_state.json'
fresh $last bad-ckpt; rm bad-ckpt/train_state.json; resume "no position" '[357]' 'train_state.json'
fresh $last bad-ckpt; rm bad-ckpt/checkpoint.json; resume "no manifest" '[35]' 'checkpoint.json'
fresh $last bad-ckpt; cut_file bad-ckpt/checkpoint.json 20; resume "manifest truncated" '[35]' 'checkpoint.json'
resume "not there" 3 'nowhere' --resume_path nowhere
resume "a directory without one" '[357]' 'hf' --resume_path hf
refused "merge without a checkpoint" 3 'nowhere' "$moec" merge --ckpt_dir nowhere --output_fname m
refused "export into a file" '[123]' 'good.out' "$moec" export --ckpt_dir runs/good --output good.out
"$moec" verify runs/good >/dev/null 2>&1 && passed "verify: a good one" || failed "verify: a good one"

# --- text, JSONL, tokenizer
p="$moec prepare --sequence_length 64 --save_path bad-out"
refused "no such text" 3 'nowhere' $p --tokenizer_path_or_name tokenizer --data_path_or_name nowhere.txt
refused "a directory without text" 3 'empty' $p --tokenizer_path_or_name tokenizer --data_path_or_name empty
jsonl() { # NAME PATTERN: bad.jsonl
    refused "JSONL: $1" 3 "$2" $p --tokenizer_path_or_name tokenizer --data_path_or_name bad.jsonl
}
good='{"text": "int main(void)"}'
printf '%s\n{"text": "cut\n%s\n' "$good" "$good" >bad.jsonl; jsonl "a line that is cut" 'bad.jsonl:2'
printf '%s\n%s\n{"text": 5}\n' "$good" "$good" >bad.jsonl; jsonl "a number as text" 'bad.jsonl:3'
printf '%s\n{"body": "x"}\n' "$good" >bad.jsonl; jsonl "no such key" 'bad.jsonl:2.*text'
printf '%s\n["text"]\n' "$good" >bad.jsonl; jsonl "an array" 'bad.jsonl:2'
printf '%s\n{"text": "\\ud800"}\n' "$good" >bad.jsonl; jsonl "half a surrogate" 'bad.jsonl:2'
printf '%s\n{"text": "\377"}\n' "$good" >bad.jsonl; jsonl "invalid UTF-8" 'bad.jsonl:2'
cp text.txt bad.txt; gzip -c text.txt | head -c 20000 >bad.txt.gz
refused "a .gz that is cut" 3 'bad.txt.gz' $p --tokenizer_path_or_name tokenizer --data_path_or_name bad.txt.gz
printf "\037\213garbage that is no gzip at all" >fake.txt.gz
refused "a .gz that is damaged" 3 'fake.txt.gz' $p --tokenizer_path_or_name tokenizer --data_path_or_name fake.txt.gz
echo hi >short.txt
refused "text for less than a sequence" 3 'sequence' $p --tokenizer_path_or_name tokenizer --data_path_or_name short.txt
chmod 000 bad.txt
[ "$(id -u)" = 0 ] || refused "a file that may not be read" 3 'bad.txt' $p --tokenizer_path_or_name tokenizer --data_path_or_name bad.txt
not "nothing was written" test -e bad-out/dataset.json
tokenizer() { # NAME PATTERN SED
    fresh tokenizer bad-tokenizer
    edit bad-tokenizer/tokenizer.json "$3"
    refused "tokenizer.json: $1" 3 "$2" $p --tokenizer_path_or_name bad-tokenizer --data_path_or_name part.txt
}
refused "no such tokenizer" 3 'nowhere' $p --tokenizer_path_or_name ./nowhere --data_path_or_name part.txt
fresh tokenizer bad-tokenizer; cut_file bad-tokenizer/tokenizer.json 50
refused "tokenizer.json: truncated" 3 'tokenizer.json:[0-9]+' $p --tokenizer_path_or_name bad-tokenizer --data_path_or_name part.txt
tokenizer "another model" 'tokenizer.json:[0-9]+: type: model type "Unigram": only byte-level "BPE" is supported' 's/"BPE"/"Unigram"/'
tokenizer "another model and pre-tokenizer" 'model type "Unigram"' 's/"BPE"/"Unigram"/; s/"ByteLevel"/"Metaspace"/'
tokenizer "a model type that is no string" 'tokenizer.json:[0-9]+: type: expected a string, found array' 's/"BPE"/["BPE"]/'
tokenizer "another pre-tokenizer" 'tokenizer.json.*Whitespace' 's/"ByteLevel"/"WhitespaceSplit"/'

# Nothing of all this touched the good run.
if find runs/good -type f | sort | xargs md5sum | cmp -s - good.sums; then passed "the good run is as it was"; else failed "the good run changed"; fi
not "no bad run has a checkpoint" ls runs/bad/checkpoints/last/checkpoint.json
finish
