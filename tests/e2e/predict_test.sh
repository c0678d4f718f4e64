#!/bin/bash
# A profile of this machine predicts the time of a step, and which of two layouts is quicker.
. "$(dirname "$0")/lib.sh"
make_inputs
# Wide enough that calls take longer than starting them.
sed -i 's/"hidden_size": 64/"hidden_size": 256/; s/"moe_intermediate_size": 40/"moe_intermediate_size": 192/;
        s/"intermediate_size": 160/"intermediate_size": 640/; s/"kv_lora_rank": 24/"kv_lora_rank": 64/' model/config.json
cluster() { # FILE OTHER-KEYS
    cat >"$1" <<END
{"name": "here", "ranks_per_node": 8, "memory_bytes": 4000000000, "flops_per_s": 8e10, "peak_flops_per_s": 1e11,
 "memory_bytes_per_s": 8e9, "link_bytes_per_s": 2e9, "link_latency_us": 20, "call_us": 1$2}
END
}
ms() { # of "predicted step: X s" or "simulated step ...: X s"
    sed -n "s/^$1[^:]*: \([0-9.]*\) s.*/\1/p" "$2" | awk '{ print 1000 * $1 }'
}
measured() { # RUN: median step of its metrics, ms
    sed -n 's/.*"seconds": {"step": \([0-9.e-]*\),.*/\1/p' "runs/$1/metrics.jsonl" | tail -n +3 | sort -g | awk '{ x[NR] = $1 } END { print 1000 * x[int((NR + 1) / 2)] }'
}
within() { # NAME GOT WANTED FACTOR
    if awk "BEGIN { exit !($2 > 0 && $2 < $3 * $4 && $2 > $3 / $4) }"; then passed "$1 (predicted $2 ms, measured $3 ms)"; else failed "$1: predicted $2 ms, measured $3 ms"; fi
}
ok "profile" "$moec" profile --model_id model --sequence_length 64 --micro_batch_size 8 --threads 1 --output table.json
shows "it counts the calls" '^[0-9]+ calls measured'
cluster bare.json ""
cluster here.json ', "table": "table.json"'
options="--model_id model --dataset_path data --global_batch_size 32 --micro_batch_size 8"
for file in bare here; do
    ok "compile with $file.json" "$moec" compile $options --cluster $file.json --runtime_ngpus 1
    cp log $file.plan
done
ok "train" train 1 one --global_batch_size 32 --micro_batch_size 8 --threads 1 --max_steps 8 --save_every -1
echo "     without a table: $(ms 'predicted step' bare.plan) ms; per class, at the end of training:"
grep -A5 '^predicted and measured' one.out | sed 's/^/     /'
within "one rank" "$(ms 'predicted step' here.plan)" "$(measured one)" 2
not "a table that is not there" "$moec" compile $options --cluster <(sed 's/table.json/none.json/' here.json)
refused "a table of another format" 3 'version' env bash -c 'echo "{}" >table2.json; sed s/table.json/table2.json/ here.json >c2.json; exec "$0" compile --model_id model --dataset_path data --cluster c2.json' "$moec"

# Two ranks that each hold all experts, or exchange rows over one expert group in many rounds' worth of messages.
for ep in 1 2; do
    ok "simulate, experts over $ep" "$moec" simulate $options --cluster here.json --runtime_ngpus 2 --expert_parallel $ep --zero 0 --trace ep$ep.json --trace_ranks 1
    cp log ep$ep.sim
    ok "train, experts over $ep" train 2 ep$ep --global_batch_size 32 --micro_batch_size 8 --threads 1 --max_steps 8 --expert_parallel $ep --zero 0 --save_every -1
    echo "     simulated $(ms 'simulated step' ep$ep.sim) ms, measured $(measured ep$ep) ms"
done
finish
