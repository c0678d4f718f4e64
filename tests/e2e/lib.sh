# lib.sh - sourced by every script of this folder: a work directory, checks that count, and small models and data.
#   ok NAME COMMAND...                    passes when the command succeeds
#   not NAME COMMAND...                   passes when it does not
#   shows NAME PATTERN                    passes when what the last command printed matches
#   refused NAME CODE PATTERN COMMAND...  passes when it ends with CODE and one line "moec: ..." that matches
#   skip NAME WHY                         counts as skipped
#   finish                                the line "N passed, N failed, N skipped" and the exit status
set -u
export LC_ALL=C
devices=${CUDA_VISIBLE_DEVICES-} # for those that are about others
export MOEC_TEST_POISON=1     # gradients begin as what is no number: nobody may read one that was not written
export CUDA_VISIBLE_DEVICES= # these tests are about the CPU device; --device auto must not find another
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
moec=$root/${OUT:-build/cpu}/moec
case ${OUT:-} in /*) moec=$OUT/moec ;; esac
. "$root/tools/mpi.sh"
work=$(mktemp -d /tmp/moec-e2e-XXXXXX)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' INT TERM
cd "$work" || exit 1
n_passed=0 n_failed=0 n_skipped=0

passed() {
    n_passed=$((n_passed + 1))
    echo "ok   $1"
}
failed() { # NAME [FILE to show]
    n_failed=$((n_failed + 1))
    echo "FAIL $1"
    [ -z "${2-}" ] || tail -n 15 "$2" | sed 's/^/     | /'
}
skip() {
    n_skipped=$((n_skipped + 1))
    echo "skip $1: $2"
}
ok() {
    local name=$1
    shift
    if "$@" >"$work/log" 2>&1; then passed "$name"; else failed "$name (status $?)" "$work/log"; fi
}
shows() { # NAME PATTERN: what the last command printed matches
    if grep -Eq -- "$2" "$work/log"; then passed "$1"; else failed "$1: expected $2" "$work/log"; fi
}
not() {
    local name=$1
    shift
    if "$@" >"$work/log" 2>&1; then failed "$name: succeeded" "$work/log"; else passed "$name"; fi
}
refused() {
    local name=$1 code=$2 pattern=$3 got
    shift 3
    timeout 60 "$@" >"$work/log.out" 2>"$work/log" </dev/null
    got=$?
    if ! [[ $got =~ ^$code$ ]]; then
        failed "$name: exit status $got, expected $code" "$work/log"
    elif [ "$(grep -c . "$work/log")" != 1 ] || ! grep -q '^moec: ' "$work/log"; then
        failed "$name: expected one line on standard error" "$work/log"
    elif ! grep -Eq -- "$pattern" "$work/log"; then
        failed "$name: expected a message like: $pattern" "$work/log"
    else
        passed "$name"
    fi
}
finish() {
    echo "$n_passed passed, $n_failed failed, $n_skipped skipped"
    [ $n_failed = 0 ]
    exit
}

# Ids of the processes that run moec in our work directory, in ascending order.
my_ranks() {
    local p
    for p in /proc/[0-9]*; do
        [ "$(readlink "$p/exe" 2>/dev/null)" = "$(readlink -f "$moec")" ] && [ "$(readlink "$p/cwd")" = "$work" ] && echo "${p#/proc/}"
    done | sort -n
}
no_ranks() {
    [ -z "$(my_ranks)" ]
}
# wait_for SECONDS COMMAND... : until the command succeeds
wait_for() {
    local until=$((SECONDS + $1))
    shift
    while [ $SECONDS -lt $until ]; do
        "$@" && return
        sleep 0.05
    done
    return 1
}
steps_done() { # RUN STEPS
    [ "$(losses "$1" 2>/dev/null | wc -l)" -ge "$2" ]
}

# Words of the repository's own sources: real text, there everywhere.
make_text() { # FILE BYTES [FROM]
    find "$root/src" "$root/tests" -name '*.[ch]' | sort | xargs cat 2>/dev/null | tail -c "+${3:-1}" | head -c "$2" >"$1"
}
make_tokenizer() { # DIR VOCAB
    make_text "$work/text.txt" 150000
    "$moec" tokenizer train --data_path_or_name "$work/text.txt" --vocab_size "$2" --save_path "$1" >"$work/log" 2>&1 ||
        { failed "tokenizer train" "$work/log"; finish; }
}
make_dataset() { # DIR TOKENIZER SEQUENCE BYTES [FROM]
    make_text "$work/part.txt" "$4" "${5:-1}"
    "$moec" prepare --data_path_or_name "$work/part.txt" --tokenizer_path_or_name "$2" --save_path "$1" \
        --sequence_length "$3" --overwrite >"$work/log" 2>&1 || { failed "prepare" "$work/log"; finish; }
}
# About 0.3 M parameters: 3 layers, the first dense, 8 experts of which 2 are used, YaRN.
make_config() { # DIR VOCAB [DTYPE]
    mkdir -p "$1"
    cat >"$1/config.json" <<END
{
  "architectures": ["DeepseekV2ForCausalLM"], "model_type": "deepseek_v2", "torch_dtype": "${3:-float32}",
  "vocab_size": $2, "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 4,
  "intermediate_size": 160, "moe_intermediate_size": 40, "q_lora_rank": null, "kv_lora_rank": 24,
  "qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "v_head_dim": 16, "n_routed_experts": 8, "n_shared_experts": 1,
  "num_experts_per_tok": 2, "first_k_dense_replace": 1, "moe_layer_freq": 1, "n_group": 1, "topk_group": 1,
  "topk_method": "greedy", "scoring_func": "softmax", "norm_topk_prob": false, "routed_scaling_factor": 1.0,
  "aux_loss_alpha": 0.001, "seq_aux": true, "hidden_act": "silu", "rms_norm_eps": 1e-06, "rope_theta": 10000.0,
  "rope_scaling": {"type": "yarn", "factor": 4, "beta_fast": 32, "beta_slow": 1, "mscale": 0.707,
                   "mscale_all_dim": 0.707, "original_max_position_embeddings": 64},
  "attention_bias": false, "attention_dropout": 0.0, "tie_word_embeddings": false, "initializer_range": 0.02,
  "max_position_embeddings": 256, "bos_token_id": 0, "eos_token_id": 1
}
END
}
# About 0.2 M parameters: 3 layers, 6 heads in 2 groups, frequencies stretched.
make_llama_config() { # DIR VOCAB
    mkdir -p "$1"
    cat >"$1/config.json" <<END
{
  "architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": "float32",
  "vocab_size": $2, "hidden_size": 72, "num_hidden_layers": 3, "num_attention_heads": 6, "num_key_value_heads": 2,
  "head_dim": 16, "intermediate_size": 104, "hidden_act": "silu", "rms_norm_eps": 1e-05, "rope_theta": 10000.0,
  "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                   "original_max_position_embeddings": 64},
  "attention_bias": false, "attention_dropout": 0.0, "mlp_bias": false, "tie_word_embeddings": false,
  "initializer_range": 0.02, "max_position_embeddings": 256, "bos_token_id": 0, "eos_token_id": 1
}
END
}
# Everything a run needs: ./model (with tokenizer), ./data and ./other (64 tokens a sequence).
make_inputs() {
    make_tokenizer "$work/tokenizer" 512
    make_config "$work/model" 512
    cp "$work"/tokenizer/* "$work/model/"
    make_dataset "$work/data" "$work/tokenizer" 64 120000
    make_dataset "$work/other" "$work/tokenizer" 64 40000 120001
}
# train RANKS NAME OPTIONS... : a run of the small model in ./runs/NAME, standard output in NAME.out
train() {
    local ranks=$1 name=$2
    shift 2
    rm -rf "runs/$name"
    train_again "$ranks" "$name" "$@"
}
train_again() { # the same without removing what is there
    local ranks=$1 name=$2 launch=
    shift 2
    [ "$ranks" = 1 ] || launch="$mpirun -np $ranks"
    timeout 120 $launch "$moec" train --model_id model --dataset_path data --name "$name" "$@" >"$name.out" 2>"$name.err" </dev/null
    local status=$?
    [ $status != 124 ] || echo "stopped after 120 s" >>"$name.err"
    return $status
}
losses() { # "STEP LOSS" lines of a run
    sed -n 's/^{"step": \([0-9]*\), "loss": \([^,]*\),.*/\1 \2/p' "runs/$1/metrics.jsonl"
}
figures() { # of a run's metrics: losses, norms, loads of the experts by layer
    tr ',{}' '\n' <"runs/$1/metrics.jsonl" | grep -E '"(loss|aux_loss|grad_norm|eval_loss|[0-9]+)":'
}
norms() { # "STEP NORM" lines
    sed -n 's/^{"step": \([0-9]*\),.*"grad_norm": \([^,]*\),.*/\1 \2/p' "runs/$1/metrics.jsonl"
}
# Largest relative difference of the losses of two runs; "missing" unless both have the same steps.
distance() { # RUN REFERENCE [norms]
    paste -d' ' <("${3:-losses}" "$1") <("${3:-losses}" "$2") |
        awk 'NF != 4 || $1 != $3 { bad = 1 } { d = ($2 - $4) / $4; if (d < 0) d = -d; if (!(d <= top)) top = d }
             END { if (bad || NR == 0) print "missing"; else printf "%.3g\n", top }'
}
close_to() { # NAME RUN REFERENCE TOLERANCE
    local d
    d=$(distance "$2" "$3")
    if [ "$d" != missing ] && awk "BEGIN { exit !($d <= $4) }"; then
        passed "$1 (differs by $d)"
    else
        failed "$1: losses differ by $d, expected at most $4" "$2.err"
    fi
}
same_losses() { # NAME RUN REFERENCE: the same text
    if [ -s "runs/$2/metrics.jsonl" ] && [ "$(losses "$2")" = "$(losses "$3")" ]; then
        passed "$1"
    else
        failed "$1: losses differ by $(distance "$2" "$3"), expected the same bits" "$2.err"
    fi
}
# Which rank writes which tensor depends on the layout; exported into one file, the bytes must not.
model_sums() {
    rm -rf hf && "$moec" export --ckpt_dir "runs/$1" --output hf >/dev/null 2>"$1.err" && (cd hf && md5sum *.safetensors config.json)
}
# --comm peer on the CPU wants a system that lets ranks read each other's memory; says so and is false where it does not. After make_inputs.
reads_peers() {
    train 2 reads-peers --global_batch_size 8 --max_steps 1 --save_every -1 --comm peer && return
    grep -q "cannot read each other's memory" reads-peers.err || return 0
    skip "copies between peers" "$(sed 's/^moec: //' reads-peers.err | head -n 1)"
    return 1
}
same() { # NAME RUN REFERENCE: the same bits of losses and weights
    same_losses "$1: losses" "$2" "$3"
    local sums
    sums=$(model_sums "$2")
    if [ -n "$sums" ] && [ "$sums" = "$(model_sums "$3")" ]; then passed "$1: model files"; else failed "$1: model files differ" "$2.err"; fi
}
