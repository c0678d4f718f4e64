#!/bin/bash
# The loss of a step does not depend on how the work is split; with --reproducible not even in its bits.
. "$(dirname "$0")/lib.sh"
make_inputs
common="--global_batch_size 16 --max_steps 20 --lr 1e-3 --warmup_steps 5 --save_every 0"
layout() { # NAME RANKS OPTIONS...
    local name=$1
    shift
    train "$1" "$name" $common "${@:2}" || { failed "$name" "$name.err"; return; }
    close_to "$name" "$name" one-rank 1e-6
}
ok "one rank" train 1 one-rank $common --micro_batch_size 4
layout ranks-2 2
layout ranks-4 4
layout ranks-8 8
layout accumulate-1 1 --micro_batch_size 16
layout accumulate-16 1 --micro_batch_size 1
layout ep-1-zero 4 --expert_parallel 1 --zero 1
layout ep-2 4 --expert_parallel 2 --zero 0
layout ep-4-zero 4 --expert_parallel 4 --zero 1
layout ep-8 8 --expert_parallel 8 --micro_batch_size 8
layout two-units 4 --plan_ngpus 2 --expert_parallel 2 --micro_batch_size 2 --zero 1
layout units-of-one 4 --plan_ngpus 1 --micro_batch_size 2 --zero 1
layout zero-2 4 --zero 2
layout zero-2-units 8 --zero 2 --plan_ngpus 4 --expert_parallel 4 --micro_batch_size 4
layout zero-3 4 --zero 3
layout zero-3-units 4 --zero 3 --plan_ngpus 2 --micro_batch_size 2
layout zero-3-ep 4 --zero 3 --expert_parallel 2 --recompute 1000 --row_capacity 40
layout tensor-2 2 --tensor_parallel 2
layout tensor-2-ep 4 --tensor_parallel 2 --expert_parallel 4 --zero 1 --recompute 17
layout tensor-4-zero-2 4 --tensor_parallel 4 --zero 2
layout tensor-2-zero-3 4 --tensor_parallel 2 --expert_parallel 2 --zero 3 --recompute 1000
layout width-2 2 --tensor_parallel 2 --split_experts on --zero 0
layout width-2-ep-2 8 --tensor_parallel 2 --expert_parallel 2 --split_experts on --zero 1 --row_capacity 40
layout width-4-zero-2 4 --tensor_parallel 4 --split_experts on --zero 2 --recompute 1000
layout width-2-zero-3 8 --tensor_parallel 2 --expert_parallel 4 --split_experts on --zero 3 --recompute 17
for name in zero-3 zero-3-units zero-3-ep tensor-2 tensor-2-ep tensor-4-zero-2 tensor-2-zero-3 width-2 width-2-ep-2 width-4-zero-2 width-2-zero-3; do
    ok "the checkpoint of $name is whole" "$moec" verify "runs/$name"
done
layout rounds 4 --expert_parallel 4 --row_capacity 40
unset MOEC_TEST_POISON # lib.sh
layout rounds-from-zeros 4 --expert_parallel 4 --row_capacity 40
export MOEC_TEST_POISON=1
same "gradients that begin as zeros" rounds-from-zeros rounds
layout recompute-ep 4 --expert_parallel 4 --recompute 1000 --row_capacity 40
if [ "$(grep -o '"rounds": [0-9]*' runs/rounds/metrics.jsonl | awk '$2 < 3' | wc -l)" = 0 ] && [ -s runs/rounds/metrics.jsonl ]; then
    passed "a small row capacity takes at least 3 rounds in every step"
else
    failed "rounds: a step took fewer than 3 rounds" rounds.out
fi

# Communication in a lane of its own takes the same way to the same bits; so do one and many rounds.
# What backward finds of the rows that experts of other ranks got changes no bit: in one round, in several, in two at once.
for options in "--expert_parallel 4 --micro_batch_size 4" "--expert_parallel 4 --row_capacity 40 --micro_batch_size 4" "--expert_parallel 4 --overlap rounds --micro_batch_size 4" \
    "--expert_parallel 4 --overlap on --micro_batch_size 4" "--expert_parallel 2 --zero 3 --recompute 1000" "--pipeline_stages 2 --expert_parallel 2" "--tensor_parallel 2 --expert_parallel 2 --split_experts on"; do
    name=kept-$(echo "$options" | tr -dc 'a-z0-9')
    layout $name-off 4 $options --keep_rows off
    layout $name-on 4 $options --keep_rows on
    same "$name" $name-on $name-off
done
for options in "--expert_parallel 4 --zero 1" "--expert_parallel 1 --tensor_parallel 1 --zero 0" "--plan_ngpus 2 --expert_parallel 2 --tensor_parallel 1 --zero 1" "--expert_parallel 4 --row_capacity 40 --recompute 1000" \
    "--expert_parallel 2 --tensor_parallel 1 --zero 2" "--expert_parallel 2 --tensor_parallel 1 --zero 3 --recompute 20" "--tensor_parallel 2 --expert_parallel 4 --zero 1" "--pipeline_stages 2 --expert_parallel 2"; do
    name=lanes-$(echo "$options" | tr -dc 'a-z0-9')
    layout $name-off 4 $options --micro_batch_size 4 --overlap off
    MOEC_TEST_LATE=1 layout $name-on 4 $options --micro_batch_size 4 --overlap on # as late as compute allows
    same "$name" $name-on $name-off
    [[ $options != *"expert_parallel 4"* ]] && continue
    MOEC_TEST_LATE=1 layout $name-rounds 4 $options --micro_batch_size 4 --overlap rounds
    same "$name, two rounds at once" $name-rounds $name-off
done

reproducible() { # NAME REFERENCE OPTIONS...
    local name=$1 reference=$2
    shift 2
    train 4 "$name" $common --reproducible --micro_batch_size 4 "$@" || { failed "$name" "$name.err"; return; }
    [ "$name" = "$reference" ] || same "$name" "$name" "$reference"
}
# Without these, OpenBLAS takes the kernels of the machine; Haswell's do not give a row the same bits everywhere.
for core in "" Haswell; do
    tag=${core:+-haswell}
    [ -z "$core" ] || export OPENBLAS_CORETYPE=$core
    reproducible same-ep-1$tag same-ep-1$tag --expert_parallel 1 --zero 0 --threads 1
    close_to "same-ep-1$tag" same-ep-1$tag one-rank 1e-6
    reproducible same-ep-1-zero$tag same-ep-1$tag --expert_parallel 1 --zero 1 --threads 2
    reproducible same-zero-2$tag same-ep-1$tag --expert_parallel 2 --zero 2 --threads 1
    reproducible same-zero-3$tag same-ep-1$tag --expert_parallel 2 --zero 3 --threads 1
    reproducible same-ep-2$tag same-ep-1$tag --expert_parallel 2 --zero 1 --threads 1
    reproducible same-ep-4$tag same-ep-1$tag --expert_parallel 4 --zero 0 --threads 3
    reproducible same-recompute$tag same-ep-1$tag --expert_parallel 1 --zero 1 --recompute 1000
    reproducible same-recompute-some$tag same-ep-1$tag --expert_parallel 1 --zero 0 --recompute 13
    reproducible same-recompute-ep$tag same-ep-1$tag --expert_parallel 2 --zero 0 --recompute 3
    reproducible same-lanes$tag same-ep-1$tag --expert_parallel 4 --zero 1 --overlap on
    reproducible same-lanes-rounds$tag same-ep-1$tag --expert_parallel 4 --zero 1 --overlap rounds
    reproducible same-lanes-zero$tag same-ep-1$tag --expert_parallel 1 --zero 1 --overlap on
    reproducible same-rounds$tag same-ep-1$tag --expert_parallel 4 --zero 1 --row_capacity 40 --threads 1
done
finish
