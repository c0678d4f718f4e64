#!/bin/bash
# ranks.sh - predicted against measured steps, for several numbers of ranks and layouts of each. Profiles are taken with as many
# ranks as train; how uneven experts are is what the first layout had, which has them whole. Prints a table, and which pairs of
# layouts were predicted in the wrong order.
#   ranks.sh [RANKS...]   default 1 2 4 8; more than there are cores is allowed, and said
#   DEVICE=cuda           all ranks on one GPU, messages through the host (--comm mpi), a wider model; default cpu
#   ROUNDS=2              profiles, each followed by a run of each layout; their means count, and how far runs are apart
#   STEPS=8               of each run; the first is not counted, the median of the others is
. "$(dirname "$0")/../tests/e2e/lib.sh" # small inputs
unset MOEC_TEST_POISON
gpu=${devices%%,*}
[ $# -gt 0 ] || set -- 1 2 4 8
steps=${STEPS:-8} rounds=${ROUNDS:-2} device=${DEVICE:-cpu} sequence=64
make_inputs
widen() { # KEY NUMBER... of the model
    for (( ; $# > 1; )); do sed -i "s/\"$1\": [0-9]*/\"$1\": $2/" model/config.json; shift 2; done
}
# Wide enough that calls take longer than starting them.
if [ "$device" = cuda ]; then
    export CUDA_VISIBLE_DEVICES=${gpu:-0}
    sequence=1024
    widen hidden_size 1024 intermediate_size 4096 moe_intermediate_size 704 n_routed_experts 16 num_experts_per_tok 4 kv_lora_rank 512 \
        num_hidden_layers 8 num_attention_heads 8 num_key_value_heads 8 qk_nope_head_dim 128 qk_rope_head_dim 64 v_head_dim 128 max_position_embeddings 1024
    sed -i 's/float32/bfloat16/' model/config.json
    make_dataset "$work/data" "$work/tokenizer" $sequence 1200000
else
    widen hidden_size 512 intermediate_size 1024 moe_intermediate_size 256 n_routed_experts 16 kv_lora_rank 64 \
        num_hidden_layers 8 num_attention_heads 8 num_key_value_heads 8 qk_nope_head_dim 32 qk_rope_head_dim 16 v_head_dim 32
fi
layouts() { # RANKS: "NAME UNIT EXPERTS TENSORS STAGES MORE-OPTIONS..." a line; UNIT: ranks of a scale unit
    local r=$1
    echo "data 1 1 1 1 --zero 0"
    [ "$r" = 1 ] && return
    echo "zero-1 1 1 1 1 --zero 1"
    echo "zero-3 1 1 1 1 --zero 3"
    echo "experts:$r $r $r 1 1 --zero 1"
    echo "tensors:$r $r 1 $r 1 --zero 1"
    echo "stages:$r $r 1 1 $r --zero 1"
    [ "$r" = 2 ] && return
    echo "experts:2 2 2 1 1 --zero 1"
    echo "tensors:2 2 1 2 1 --zero 1"
    echo "stages:2 2 1 1 2 --zero 1"
    echo "stages:2,experts:2 4 2 1 2 --zero 1"
}
figures() { # RUN: predicted and median measured milliseconds
    awk -v skip=1 'match($0, /"seconds": \{"step": [0-9.e-]+/) { split(substr($0, RSTART, RLENGTH), x, ": "); if (n++ >= skip) t[n - skip] = x[3] }
        match($0, /"predicted_seconds": \{"step": [0-9.e-]+/) { split(substr($0, RSTART, RLENGTH), y, ": "); p = y[3] }
        END { m = n - skip; for (i = 1; i < m; i++) for (k = i + 1; k <= m; k++) if (t[k] < t[i]) { s = t[i]; t[i] = t[k]; t[k] = s }
              printf "%.1f %.1f\n", 1000 * p, 1000 * t[int((m + 1) / 2)] }' "runs/$1/metrics.jsonl"
}
load() { # RUN: rows of the fullest expert over the mean, mean of layers and steps
    grep -o '"expert_load_max_over_mean": {[^}]*}' "runs/$1/metrics.jsonl" | grep -o ': [0-9][0-9.]*' |
        awk '{ sum += $2 } END { printf "%.3f", (NR && sum > NR ? sum / NR : 1) }'
}
shared="--device $device --threads 1"
[ "$device" = cpu ] || shared="$shared --comm mpi"
common="$shared --global_batch_size 32 --max_steps $steps --save_every -1 --epochs 99"
echo "$device; cores: $(nproc); a step is 32 sequences of $sequence tokens, threads: 1 a rank"
printf '%5s  %-20s %12s %12s %7s %9s\n' ranks layout "predicted ms" "measured ms" off "of runs"
for ranks in "$@"; do
    uneven=1
    for round in $(seq "$rounds"); do
        $mpirun -np "$ranks" "$moec" profile --model_id model --sequence_length $sequence --micro_batch_size 4 --layers 2 $shared --output here.json >profile.log 2>&1 ||
            { grep -a moec: profile.log; exit 1; }
        while read -r name unit experts tensors stages options; do
            train "$ranks" run $common --micro_batch_size $((4 * unit / stages)) --cluster here.json --plan_ngpus "$unit" --expert_parallel "$experts" \
                --tensor_parallel "$tensors" --pipeline_stages "$stages" --expert_load $uneven $options || { tail -n 3 run.err; continue; }
            [ "$name" != data ] || uneven=$(load run)
            echo "$ranks $name $(figures run)" >>runs.txt
        done < <(layouts "$ranks")
    done
    echo "$ranks ranks: the fullest expert of a layer has $uneven times the mean"
    awk -v ranks="$ranks" '$1 == ranks { if (!n[$2]++) name[++names] = $2; p[$2] += $3; sum[$2] += $4
            if (n[$2] == 1 || $4 < least[$2]) least[$2] = $4
            if (n[$2] == 1 || $4 > most[$2]) most[$2] = $4 }
        END { for (i = 1; i <= names; i++) { k = name[i]; print ranks, k, p[k] / n[k], sum[k] / n[k], most[k] / least[k] - 1 } }' runs.txt | tee -a table |
        awk '{ printf "%5d  %-20s %12.1f %12.1f %+6.1f%% %8.1f%%\n", $1, $2, $3, $4, 100 * ($3 / $4 - 1), 100 * $5 }'
done
awk '{ r[NR] = $1; name[NR] = $2; p[NR] = $3; t[NR] = $4; spread[NR] = $5 }
     END { for (i = 1; i < NR; i++) for (k = i + 1; k <= NR; k++) if (r[i] == r[k]) { n++
               d = t[i] / t[k] - 1; if (d < 0) d = -d; s = spread[i] > spread[k] ? spread[i] : spread[k]
               if ((p[i] < p[k]) == (t[i] < t[k])) right++
               else if (d <= s) ties++
               else printf "wrong order: %d ranks, %s and %s, measured %.1f %% apart, their runs up to %.1f %%\n", r[i], name[i], name[k], 100 * d, 100 * s }
           printf "%d of %d pairs in the right order, %d in the wrong one but no further apart than runs of one layout\n", right, n, ties }' table
