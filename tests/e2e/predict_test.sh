#!/bin/bash
# A profile of this machine predicts the time of a step, and which of two layouts is quicker.
#   TIMES_WITHIN=3   how far prediction and measurement may be apart. The default forgives a machine on which others work.
. "$(dirname "$0")/lib.sh"
make_inputs
factor=${TIMES_WITHIN:-10}
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
measured() { # RUN: quickest step of its metrics after the first, ms: others may use the machine
    sed -n 's/.*"seconds": {"step": \([0-9.e-]*\),.*/\1/p' "runs/$1/metrics.jsonl" | tail -n +2 | sort -g | awk 'NR == 1 { print 1000 * $1 }'
}
within() { # NAME GOT WANTED FACTOR
    if awk "BEGIN { exit !($2 > 0 && $2 < $3 * $4 && $2 > $3 / $4) }"; then passed "$1 (predicted $2 ms, measured $3 ms)"; else failed "$1: predicted $2 ms, measured $3 ms"; fi
}
profile="profile --model_id model --sequence_length 64 --micro_batch_size 8 --threads 1"
ok "profile" "$moec" $profile --output here.json
shows "it counts the calls" '^[0-9]+ calls measured, on 1 rank at once; written to here.json and here.rates.json'
ok "profile of two ranks" $mpirun -np 2 "$moec" $profile --output two.json
shows "it counts their calls" '^[0-9]+ calls measured, on 2 ranks at once; written to two.json and two.rates.json'
shows "it tells the rates of links" '^links between 2 ranks of a machine: [0-9]+\.[0-9]+ GB/s'
ok "and more calls, of layouts" test "$(grep -c operator two.rates.json)" -gt "$(grep -c operator here.rates.json)"
ok "it names the table" grep -q '"table": "two.rates.json"' two.json
# Everybody waits for a rank whose core somebody else uses too: what it measures counts.
if taskset -c 0 true 2>/dev/null && taskset -c 1 true 2>/dev/null; then
    bound='exec taskset -c "$OMPI_COMM_WORLD_LOCAL_RANK" "$0" "$@"'
    for busy in alone beside; do
        [ $busy = alone ] || { timeout 60 taskset -c 1 bash -c 'while :; do :; done' & hog=$!; }
        $mpirun -np 2 bash -c "$bound" "$moec" $profile --output $busy.json >"$work/log" 2>&1 || failed "profile, bound to cores" log
        [ $busy = alone ] || { kill $hog; wait $hog 2>/dev/null; }
        "$moec" compile --model_id model --dataset_path data --global_batch_size 32 --micro_batch_size 8 --cluster $busy.json --runtime_ngpus 2 --plan_ngpus 1 --zero 0 --pipeline_stages 1 >$busy.plan 2>&1
    done
    alone=$(ms 'predicted step' alone.plan) beside=$(ms 'predicted step' beside.plan)
    if awk "BEGIN { exit !($alone > 0 && $beside > 1.3 * $alone) }"; then passed "the slowest rank's times count ($alone, $beside ms)"; else failed "the slowest rank's times: $alone, $beside ms" beside.plan; fi
else
    skip "the slowest rank's times" "cores 0 and 1 are not there"
fi
cluster bare.json ""
options="--model_id model --dataset_path data --global_batch_size 32 --micro_batch_size 8"
for file in bare here; do
    ok "compile with $file.json" "$moec" compile $options --cluster $file.json --runtime_ngpus 1
    cp log $file.plan
done
ok "train" train 1 one --global_batch_size 32 --micro_batch_size 8 --threads 1 --max_steps 12 --cluster here.json --save_every -1
echo "     without a table: $(ms 'predicted step' bare.plan) ms; per class, at the end of training:"
grep -A5 '^predicted and measured' one.out || failed "no comparison" one.out
within "one rank" "$(ms 'predicted step' here.plan)" "$(measured one)" "$factor"
ok "metrics have the prediction" grep -q '"predicted_seconds": {"step": [0-9]' runs/one/metrics.jsonl
not "a table that is not there" "$moec" compile $options --cluster <(sed 's/here.rates.json/none.json/' here.json)
refused "a table of another format" 3 'version' env bash -c 'echo "{}" >table2.json; sed s/here.rates.json/table2.json/ here.json >c2.json; exec "$0" compile --model_id model --dataset_path data --cluster c2.json' "$moec"

# The trace is JSON, of one rank, ordered, and as long as the step, or up to so many ms shorter.
traced() { # FILE MS SHORTER
    python3 - "$1" "$2" "$3" <<'END'
import json, sys
events = json.load(open(sys.argv[1]))["traceEvents"]
bars = [e for e in events if e["ph"] == "X"]
assert {e["pid"] for e in events} == {0}, "ranks"
assert any(e["ph"] == "C" and e["args"]["bytes"] > 0 for e in events), "memory"
end = max(e["ts"] + e["dur"] for e in bars)
assert -float(sys.argv[3]) < end / 1e3 - float(sys.argv[2]) < 1, (end, sys.argv[2])
for a, b in zip(bars, bars[1:]):
    assert a["ts"] <= b["ts"] + 1e-3, (a, b)
assert any("experts" in e["name"] for e in bars)
END
}
for layout in 1 2; do
    ok "simulate, experts over $layout" "$moec" simulate $options --cluster two.json --runtime_ngpus 2 --expert_parallel $layout --zero 0 --trace ep$layout.json --trace_ranks 1
    cp log ep$layout.sim
    shows "no deadlock, experts over $layout" 'no deadlock'
    command -v python3 >/dev/null && ok "the trace, experts over $layout" traced ep$layout.json "$(ms 'simulated step' ep$layout.sim)" 1
    ok "train, experts over $layout" train 2 ep$layout --global_batch_size 32 --micro_batch_size 8 --threads 1 --max_steps 8 --expert_parallel $layout --zero 0 --save_every -1
    echo "     experts over $layout: simulated $(ms 'simulated step' ep$layout.sim) ms, measured $(measured ep$layout) ms"
done
# Uneven experts: whoever has the fullest is waited for.
ok "how uneven experts were is told" grep -Eq '^  experts: the fullest of a layer had [1-9]\.[0-9]+ times the mean of rows \(--expert_load [1-9]\.[0-9]+ predicts with it\)' ep2.out
with_load() { # EXPERT_PARALLEL LOAD [CLUSTER]
    "$moec" compile $options --cluster ${3:-bare}.json --runtime_ngpus 2 --expert_parallel $1 --zero 0 --expert_load $2 >"$work/log" 2>&1 && ms 'predicted step' "$work/log"
}
even=$(with_load 2 1) uneven=$(with_load 2 3)
if awk "BEGIN { exit !($even > 0 && $uneven > 1.05 * $even) }"; then passed "uneven experts take longer ($even, $uneven ms)"; else failed "uneven experts: $even, $uneven ms"; fi
ok "but not those that are not split" test "$(with_load 1 1)" = "$(with_load 1 3)"
cluster shared.json ', "ranks_per_core": 2'
even=$(with_load 2 1 shared) uneven=$(with_load 2 3 shared)
ok "nor where ranks share a core ($even, $uneven ms)" test -n "$even" -a "$even" = "$uneven"
# Gradients of which one rank owns more: it takes longer to send it the sums, but not where the others have its core meanwhile.
slices() { "$moec" compile $options --cluster $1.json --runtime_ngpus 2 --expert_parallel 1 --tensor_parallel 1 --pipeline_stages 1 --zero 3 >"$work/log" 2>&1 && sed -n 's/.*weight collectives \([0-9.]*\) ms.*/\1/p' "$work/log"; }
apart=$(slices bare) together=$(slices shared)
if awk "BEGIN { exit !($together > 0 && $together < 0.95 * $apart) }"; then passed "sums for one owner of two ranks ($apart, $together ms)"; else failed "sums for one owner: $apart ms, ranks that share a core $together"; fi
ok "simulate a pipeline" "$moec" simulate $options --cluster two.json --runtime_ngpus 2 --pipeline_stages 2 --micro_batch_size 4 --trace stages.json --trace_ranks 1
cp log stages.sim
shows "no deadlock in a pipeline" 'no deadlock'
command -v python3 >/dev/null && ok "the trace of a pipeline" traced stages.json "$(ms 'simulated step' stages.sim)" 20
ok "train a pipeline" train 2 stages --global_batch_size 32 --threads 1 --max_steps 8 --pipeline_stages 2 --micro_batch_size 4 --save_every -1
within "a pipeline" "$(ms 'simulated step' stages.sim)" "$(measured stages)" "$factor"
# The order of layouts is asked only where their steps differ clearly: others may use the cores.
order() { # SIMULATED-A SIMULATED-B MEASURED-A MEASURED-B
    awk "BEGIN { a = $1 < $2; b = $3 < $4; r = $3 / $4; if (r < 1) r = 1 / r; exit !(a == b || r < 2 || $factor > 3) }"
}
ok "the order of the two" order "$(ms 'simulated step' ep1.sim)" "$(ms 'simulated step' ep2.sim)" "$(measured ep1)" "$(measured ep2)"
ok "simulate 4096 ranks" timeout 60 "$moec" simulate --model_id model --sequence_length 64 --cluster two.json --runtime_ngpus 4096 --plan_ngpus 8 --expert_parallel 8 --zero 1 --global_batch_size 16384 --micro_batch_size 8
shows "they share lists" 'all ranks of a stage run the lists'
ok "simulate writes JSON" "$moec" simulate $options --cluster two.json --runtime_ngpus 2 --json
refused "simulate without a length" 2 'sequence_length' "$moec" simulate --model_id model --runtime_ngpus 2
refused "a plan that is not there" 3 'none.plan' "$moec" simulate $options --runtime_ngpus 2 --plan none.plan
ok "a plan that compile wrote" "$moec" compile $options --runtime_ngpus 2 --cluster two.json --plan two.plan
ok "is simulated" "$moec" simulate $options --runtime_ngpus 2 --cluster two.json --plan two.plan
refused "a trace that cannot be written" '1|3' 'nowhere' "$moec" simulate $options --runtime_ngpus 2 --trace nowhere/t.json
finish
