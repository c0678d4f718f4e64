#!/bin/bash
# ranks.sh - predicted against measured steps on the CPU, for several numbers of ranks and layouts of each. A profile is taken with
# as many ranks as train. Prints a table, and which pairs of layouts were predicted in the wrong order.
#   ranks.sh [RANKS...]   default 1 2 4 8; more than there are cores is allowed, and said
#   ROUNDS=2              runs of each layout, in turn; their mean counts, and how far they are apart
#   STEPS=8               of each run; the first is not counted, the median of the others is
. "$(dirname "$0")/../tests/e2e/lib.sh" # small inputs
unset MOEC_TEST_POISON
[ $# -gt 0 ] || set -- 1 2 4 8
steps=${STEPS:-8} rounds=${ROUNDS:-2}
make_inputs
# Wide enough that calls take longer than starting them.
sed -i 's/"hidden_size": 64/"hidden_size": 512/; s/"moe_intermediate_size": 40/"moe_intermediate_size": 256/; s/"n_routed_experts": 8/"n_routed_experts": 16/;
        s/"intermediate_size": 160/"intermediate_size": 1024/; s/"kv_lora_rank": 24/"kv_lora_rank": 64/; s/"num_hidden_layers": 3/"num_hidden_layers": 8/;
        s/"num_attention_heads": 4/"num_attention_heads": 8/; s/"num_key_value_heads": 4/"num_key_value_heads": 8/;
        s/"qk_nope_head_dim": 16/"qk_nope_head_dim": 32/; s/"qk_rope_head_dim": 8/"qk_rope_head_dim": 16/; s/"v_head_dim": 16/"v_head_dim": 32/' model/config.json
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
common="--threads 1 --global_batch_size 32 --max_steps $steps --save_every -1 --epochs 99"
echo "cores: $(nproc); a step is 32 sequences of 64 tokens, threads: 1 a rank"
printf '%5s  %-20s %12s %12s %7s %9s\n' ranks layout "predicted ms" "measured ms" off "of runs"
for ranks in "$@"; do
    $mpirun -np "$ranks" "$moec" profile --model_id model --sequence_length 64 --micro_batch_size 4 --layers 2 --threads 1 --output here.json >profile.log 2>&1 ||
        { tail -n 3 profile.log; exit 1; }
    for round in $(seq "$rounds"); do
        while read -r name unit experts tensors stages options; do
            train "$ranks" run $common --micro_batch_size $((4 * unit / stages)) --cluster here.json --plan_ngpus "$unit" --expert_parallel "$experts" \
                --tensor_parallel "$tensors" --pipeline_stages "$stages" $options || { tail -n 3 run.err; continue; }
            echo "$ranks $name $(figures run)" >>runs.txt
        done < <(layouts "$ranks")
    done
    awk -v ranks="$ranks" '$1 == ranks { if (!n[$2]++) name[++names] = $2; p[$2] = $3; sum[$2] += $4
            if (n[$2] == 1 || $4 < least[$2]) least[$2] = $4
            if (n[$2] == 1 || $4 > most[$2]) most[$2] = $4 }
        END { for (i = 1; i <= names; i++) { k = name[i]; print ranks, k, p[k], sum[k] / n[k], most[k] / least[k] - 1 } }' runs.txt | tee -a table |
        awk '{ printf "%5d  %-20s %12.1f %12.1f %+6.1f%% %8.1f%%\n", $1, $2, $3, $4, 100 * ($3 / $4 - 1), 100 * $5 }'
done
awk '{ r[NR] = $1; name[NR] = $2; p[NR] = $3; t[NR] = $4; spread[NR] = $5 }
     END { for (i = 1; i < NR; i++) for (k = i + 1; k <= NR; k++) if (r[i] == r[k]) { n++
               d = t[i] / t[k] - 1; if (d < 0) d = -d; s = spread[i] > spread[k] ? spread[i] : spread[k]
               if ((p[i] < p[k]) == (t[i] < t[k])) right++
               else if (d <= s) ties++
               else printf "wrong order: %d ranks, %s and %s, measured %.1f %% apart, their runs up to %.1f %%\n", r[i], name[i], name[k], 100 * d, 100 * s }
           printf "%d of %d pairs in the right order, %d in the wrong one but no further apart than runs of one layout\n", right, n, ties }' table
