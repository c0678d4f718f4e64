#!/bin/bash
# Plans drawn at random: `compile` refuses with one line, or the plan trains to the losses of one rank, to the bits of
# its class (doc/adr/0003), in exactly the memory that `compile` printed.
#   PLANS=N        plans that are trained; drawn layouts that are refused come on top (200 before a release)
#   PLANS_SEED=N   another row of layouts
#   PLANS_FIRST=N  the first draw: with PLANS=1, one plan alone
. "$(dirname "$0")/lib.sh"
plans=${PLANS:-24} seed=${PLANS_SEED:-11} first=${PLANS_FIRST:-1}
loss_tolerance=1e-6 norm_tolerance=1e-5 # relative; measured: 3e-8 and 2e-6
common="--max_steps 5 --epochs 2 --lr 1e-3 --warmup_steps 2 --save_every 0"

# A linear congruential generator; each draw begins it anew, so that it can be repeated alone.
start_draw() { # NUMBER
    state=$(((seed * 1000003 + $1 * 7919) & 0x7fffffff))
    below 2 && below 2
}
below() { # N: sets `drawn` to one of 0 .. N-1
    state=$(((state * 1103515245 + 12345) & 0x7fffffff))
    drawn=$(((state >> 12) % $1))
}
one_of() { # WORD...: sets `drawn` to one of them
    below $#
    shift "$drawn"
    drawn=$1
}
one_in() { # N: once in N times
    below "$1"
    [ "$drawn" = 0 ]
}
divisor_of() { # N: mostly, 1 less often than others; sometimes what need not divide it
    local i all=
    if one_in 16; then one_of 2 3 4 5 8; return; fi
    for ((i = 1; i <= $1; i++)); do [ $(($1 % i)) != 0 ] || all="$all $i"; done
    one_of $all
    [ "$drawn" != 1 ] || one_of $all
}

make_models() { # as DeepSeek-V2-Lite, as DeepSeek-V2, dense, dense with one matrix at both ends
    make_config models/lite 512
    make_config models/v2 512
    sed -i 's/"q_lora_rank": null/"q_lora_rank": 20/; s/"num_attention_heads": 4, "num_key_value_heads": 4/"num_attention_heads": 6, "num_key_value_heads": 6/
        s/"n_routed_experts": 8/"n_routed_experts": 12/; s/"num_experts_per_tok": 2/"num_experts_per_tok": 3/
        s/"n_group": 1, "topk_group": 1/"n_group": 4, "topk_group": 2/; s/"greedy"/"group_limited_greedy"/
        s/"routed_scaling_factor": 1.0/"routed_scaling_factor": 2.5/' models/v2/config.json
    make_llama_config models/dense 512
    make_llama_config models/tied 512
    sed -i 's/"tie_word_embeddings": false/"tie_word_embeddings": true/' models/tied/config.json
    for model in lite v2 dense tied; do cp tokenizer/* "models/$model/"; done
}

# Sets model, ranks, batch, threads, and `layout`: the options that `compile` and `train` share.
draw_layout() {
    local unit stages=1 workers tensor=1 groups exact
    one_of lite lite lite v2 v2 v2 dense dense tied tied && model=$drawn
    one_of 16 24 24 && batch=$drawn
    one_of 1 2 2 3 4 4 4 6 8 8 && ranks=$drawn
    layout="--global_batch_size $batch" unit=$ranks
    one_in 3 && { divisor_of "$ranks" && unit=$drawn && layout="$layout --plan_ngpus $unit"; }
    one_in 2 || { divisor_of "$unit" && stages=$drawn && layout="$layout --pipeline_stages $stages"; }
    if one_in $((stages > 1 ? 2 : 64)); then one_of 2 2 3 && layout="$layout --pipeline_chunks $drawn"; fi
    workers=$((unit / stages > 0 ? unit / stages : 1))
    case $model in lite | v2) one_in 3 ;; *) ! one_in 16 ;; esac || { divisor_of "$workers" && layout="$layout --expert_parallel $drawn"; }
    one_in 2 || { divisor_of "$workers" && tensor=$drawn && layout="$layout --tensor_parallel $tensor"; }
    if [ "$tensor" -gt 1 ]; then one_of auto auto on off && layout="$layout --split_vocabulary $drawn"; fi
    if [ "$tensor" -gt 1 ] && ! one_in 4; then one_of auto on on off && layout="$layout --split_experts $drawn"; fi
    one_in 4 || { divisor_of "$((batch * unit / ranks / workers))" && layout="$layout --micro_batch_size $((drawn * workers))"; }
    one_in 4 || { one_of 0 1 2 3 && layout="$layout --zero $drawn"; }
    one_in 2 || { one_of 0 1 5 17 1000 && layout="$layout --recompute $drawn"; }
    one_in 2 || { one_of 1 2 100 && layout="$layout --offload $drawn"; }
    one_in 2 || { one_of 8 40 100 1000 && layout="$layout --row_capacity $drawn"; }
    groups=$((ranks / stages / tensor))
    one_of "" --reproducible --reproducible_shards && exact=$drawn
    case $exact in *shards) one_of 1 2 2 4 4 && exact="$exact $((drawn * (groups > 0 ? groups : 3)))" ;; esac
    layout="$layout $exact"
    one_of 1 2 3 && threads=$drawn
    one_of auto on rounds && layout="$layout --overlap $drawn"
    one_of auto on off && layout="$layout --keep_rows $drawn"
}
decision() { # NAME RUN: what the plan of a run says
    sed -n "s/^  \"$1\": \"\{0,1\}\([^\",]*\).*/\1/p" "runs/$2/plan.json"
}
at_most() { # A B: numbers
    [ "$1" != missing ] && awk "BEGIN { exit !($1 <= $2) }"
}

# Ranks and options of a run that must have the bits of run $1: its class, without what may change no bit. Those are
# always the stages, threads, recomputation and ZeRO; in reproducible mode also experts, rounds and units; with shards
# also the workers, as few as can have the same. Otherwise ZeRO-2 adds micro-batch by micro-batch what it splits, and a tied
# matrix has two sums with stages, however many, and one without.
class_of() {
    local stages micro ep zero owners unit workers tensor widths shards kept=1
    stages=$(decision pipeline_stages "$1") micro=$(decision micro_batch "$1")
    ep=$(decision expert_parallel "$1") tensor=$(decision tensor_parallel "$1") widths=$(decision width_parallel "$1")
    zero=$(decision zero "$1") owners=$(decision zero_ranks "$1")
    shards=$(decision reproducible_shards "$1")
    unit=$(($(decision plan_ngpus "$1") / stages)) workers=$(($(decision runtime_ngpus "$1") / stages))
    while [ "$shards" != 0 ] && [ $((workers % (2 * tensor))) = 0 ]; do # each has a power of two of shards
        workers=$((workers / 2))
    done
    [ "$model" != tied ] || [ "$stages" = 1 ] || [ "$(decision reproducible "$1")" = true ] || kept=2
    echo -n "$((workers * kept)) --global_batch_size $batch --tensor_parallel $tensor --pipeline_stages $kept"
    [ "$tensor" = 1 ] || echo -n " --split_vocabulary $([ "$(decision vocabulary_parallel "$1")" = 1 ] && echo off || echo on)"
    [ "$tensor" = 1 ] || case $model in lite | v2) echo -n " --split_experts $([ "$widths" = 1 ] && echo off || echo on)" ;; esac
    if [ "$(decision reproducible "$1")" = true ]; then
        echo " --reproducible --reproducible_shards $shards --expert_parallel 1 --zero 0 --micro_batch_size $((micro * workers))"
        return
    fi
    echo -n " --expert_parallel $ep"
    [ "$ep" = 1 ] || echo -n " --row_capacity $(decision row_capacity "$1")"
    if [ "$zero" -lt 2 ] || [ "$(decision accumulation "$1")" = 1 ]; then
        echo " --zero 0 --micro_batch_size $((micro * workers))"
    elif [ "$owners" -gt $((ep * widths)) ] && [ "$owners" -gt "$tensor" ]; then
        echo " --zero 2 --micro_batch_size $((micro * workers))"
    else # inside a unit that shares the experts or tensors: those gradients stay whole
        echo " --zero $zero --plan_ngpus $((unit * kept)) --micro_batch_size $((micro * unit))"
    fi
}
declare -A run_of # a class with its model, to the run of it
n_runs=0
reference() { # MODEL RANKS OPTIONS... : sets `reference` to the name of that run; makes it the first time
    local key="$*"
    reference=${run_of[$key]:-}
    [ -z "$reference" ] || return 0
    reference=reference-$((n_runs++))
    shift
    train "$1" "$reference" $common --recompute 0 --threads 1 "${@:2}" || return
    run_of[$key]=$reference
}

# Each of these sets `why` to what is wrong, if anything is.
compare_memory() { # RUN: with what compile printed
    local planned allocated logged class_sum
    planned=$(sed -n 's/^memory of the largest rank: \([0-9]*\) bytes.*/\1/p' plan.txt)
    allocated=$(sed -n 's/^memory of the largest rank: \([0-9]*\) bytes allocated.*/\1/p' "$1.out")
    logged=$(sed -n 's/.*"peak_memory_bytes": \([0-9]*\),.*/\1/p' "runs/$1/metrics.jsonl" | sort -u)
    class_sum=$(awk '/^  [a-z ]+ +[0-9]+ bytes/ { for (i = 1; i < NF; i++) if ($(i + 1) == "bytes") s += $i } END { print s }' plan.txt)
    [ -n "$planned" ] && [ "$planned $planned $planned" = "$allocated $logged $class_sum" ] ||
        why="planned '$planned' bytes, allocated '$allocated', logged '$logged', sum of classes '$class_sum'"
    [ "$(sed -n 's/.*"arena_allocations": \([0-9]*\),.*/\1/p' "runs/$1/metrics.jsonl" | sort -u | wc -l)" = 1 ] ||
        why="arena allocations during the run"
}
compare_one_rank() { # RUN
    local loss norm
    reference "$model" 1 --global_batch_size "$batch" --micro_batch_size 4 || { why="the run of one rank fails" && return; }
    loss=$(distance "$1" "$reference") norm=$(distance "$1" "$reference" norms)
    at_most "$loss" $loss_tolerance || why="losses differ from those of one rank by $loss"
    at_most "$norm" $norm_tolerance || why="norms differ from those of one rank by $norm"
    echo "$loss $norm" >>distances
}
compare_class() { # RUN
    local class sums
    class=$(class_of "$1")
    reference "$model" $class || { why="the run of its class fails: $class" && return; }
    [ "$(figures "$1")" = "$(figures "$reference")" ] ||
        why="other bits than its class, losses differ by $(distance "$1" "$reference"): $class"
    sums=$(model_sums "$1")
    [ -n "$sums" ] && [ "$sums" = "$(model_sums "$reference")" ] || why="${why:-other weights than its class: $class}"
}
# What the plans had, for the table at the end.
note_kinds() { # RUN
    local name value
    echo "model $model" >>kinds
    for name in runtime_ngpus plan_ngpus pipeline_stages pipeline_chunks expert_parallel tensor_parallel vocabulary_parallel width_parallel zero accumulation reproducible reproducible_shards; do
        echo "$name $(decision $name "$1")" >>kinds
    done
    value=$(decision offload "$1")
    echo "offload $([ "$value" = 0 ] && echo none || echo some)" >>kinds
    value=$(decision recompute "$1")
    echo "recompute $([ "$value" = 0 ] && echo none || echo some)" >>kinds
    echo "mem_constraint $([[ $layout = *--mem_constraint* ]] && echo given || echo none)" >>kinds
    value=$(grep -o '"rounds": [0-9]*' "runs/$1/metrics.jsonl" | awk '$2 > top { top = $2 } END { print top < 2 ? top + 0 : "more" }')
    echo "rounds $value" >>kinds
}
try_plan() { # DRAW: an accepted layout, printed in ./plan.txt
    local run=plan-$1 plan_file=
    why=
    one_in 2 && plan_file="--plan plan.json"
    unset MOEC_TEST_LATE
    one_in 2 && export MOEC_TEST_LATE=1 # of references too, which have one lane: nothing is put off
    if train "$ranks" "$run" $common $layout $plan_file --threads "$threads"; then
        compare_memory "$run"
        [ -n "$why" ] || compare_one_rank "$run"
        [ -n "$why" ] || compare_class "$run"
        note_kinds "$run"
    else
        why="train ends with status $?"
    fi
    if [ -z "$why" ]; then passed "draw $1"; else
        failed "draw $1, seed $seed: $model, $ranks ranks, $layout --threads $threads $plan_file: $why" "$run.err"
    fi
    rm -rf "runs/$run" "$run".*
}
compile() { # OPTIONS...
    rm -f plan.json
    timeout 60 "$moec" compile --model_id model --dataset_path data --runtime_ngpus "$ranks" $layout --plan plan.json "$@" >plan.txt 2>refusal
}
refuse() { # DRAW STATUS EXPECTED: compile's message is in ./refusal
    sed "s/[0-9][0-9.]*/N/g; s/\$/ (first: draw $1)/" refusal >>refusals
    [ "$2" = "$3" ] && [ "$(wc -l <refusal)" = 1 ] && grep -q '^moec: ' refusal && [ ! -s plan.txt ] && [ ! -e plan.json ] ||
        failed "draw $1, seed $seed: $model, $ranks ranks, $layout: expected a plan, or exit status $3 and one line; found $2" refusal
}
# Now and then less memory than the plan takes: another plan keeps the limit, or none does and the message names one
# that is enough.
squeeze() { # DRAW
    local need limit status
    need=$(sed -n 's/^memory of the largest rank: \([0-9]*\) bytes.*/\1/p' plan.txt)
    below 60
    limit=0.$(printf %09d $((need * (40 + drawn) / 100)))
    compile --mem_constraint "$limit"
    status=$?
    if [ $status != 0 ]; then
        refuse "$1" $status 4
        limit=$(sed -n 's/.*allow --mem_constraint \([0-9.]*\).*/\1/p' refusal)
        compile --mem_constraint "$limit" || failed "draw $1, seed $seed: $model, $ranks ranks, $layout: $limit is not enough" refusal
    fi
    layout="$layout --mem_constraint $limit"
    need=$(sed -n 's/^memory of the largest rank: \([0-9]*\) bytes.*/\1/p' plan.txt)
    at_most "$need" "$limit * 1e9" || failed "draw $1: $model, $ranks ranks, $layout: a plan of $need bytes" plan.txt
}

make_tokenizer "$work/tokenizer" 512
make_models
make_dataset "$work/data" "$work/tokenizer" 32 3900 # one step in five has not enough sequences
ln -sfn models/lite model
batch=24 && ok "one rank" reference lite 1 --global_batch_size 24 --micro_batch_size 4
tokens=$(sed -n 's/.*"tokens": \([0-9]*\),.*/\1/p' "runs/$reference/metrics.jsonl" | tail -n 1)
if [ "$(losses "$reference" | wc -l)" = 5 ] && [ "$tokens" -lt $((5 * 24 * 32)) ]; then passed "five steps, one of them smaller"; else failed "steps" "runs/$reference/metrics.jsonl"; fi
echo "seed $seed, $plans plans from draw $first on"
n_tried=0
for ((draw = first; n_tried < plans; draw++)); do
    start_draw "$draw"
    draw_layout
    ln -sfn "models/$model" model
    compile
    status=$?
    if [ $status != 0 ]; then refuse "$draw" $status 2; else
        n_tried=$((n_tried + 1))
        one_in 4 && squeeze "$draw"
        try_plan "$draw"
    fi
done
echo "$n_tried plans of $((draw - first)) draws; refused:"
[ ! -s refusals ] || awk -F" [(]first: " '{ if (!n[$1]++) at[$1] = $2 } END { for (t in n) printf "%7d %s (first: %s\n", n[t], t, at[t] }' refusals | sort -rn
echo "plans by what they are:"
[ ! -s kinds ] || sort -V kinds | uniq -c | awk '{ if ($2 != was) printf "%s  %s:", was == "" ? "" : "\n", $2; printf " %s (%s)", $3, $1; was = $2 } END { print "" }'
[ ! -s distances ] || awk '$1 > l { l = $1 } $2 > n { n = $2 } END { print "largest difference from one rank: losses " l ", norms " n }' distances
echo "${#run_of[@]} runs of one rank or of a class beside them"
finish
