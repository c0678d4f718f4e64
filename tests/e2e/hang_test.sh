#!/bin/bash
# A rank that hangs or dies where the others wait for it: all end soon, and one line says which rank it was, at what and
# before which call. MOEC_TEST_FAIL="RANK SIGNAL TIMES TEXT" stops or kills the rank just before it enters the TIMES-th
# call whose description has TEXT (src/device/watch.c).
. "$(dirname "$0")/lib.sh"
make_inputs
stop=19 kill=9 # SIGSTOP, SIGKILL
layout="--global_batch_size 16 --plan_ngpus 2 --expert_parallel 2 --micro_batch_size 2 --threads 1 --max_steps 4 --collective_timeout 3"
cases=() # "NAME RANK SIGNAL TIMES TEXT"

# Runs a case; several at a time, for they mostly wait.
run_case() { # NAME RANK SIGNAL TIMES TEXT
    local start=$SECONDS name=$1 more="--zero 1 --save_every 2"
    case $name in
    *-mirror) more="--zero 0 --save_every 2" ;; # with the state split over all ranks there is nothing to mirror
    *-peer-*) more="--comm peer --zero 1 --save_every -1" ;;
    *-tensor*) more="--zero 3 --tensor_parallel 2 --save_every -1" ;;
    esac
    MOEC_TEST_FAIL="$2 $3 $4 $5" train 4 "$name" $layout $more
    echo "$? $((SECONDS - start))" >"$name.status"
}
judge() { # NAME RANK SIGNAL TIMES TEXT
    local name=$1 rank=$2 signal=$3 text=$5 status took expected line
    read -r status took <"$name.status"
    line=$(grep '^moec: ' "$name.err")
    if [ "$signal" = $stop ]; then expected="waits in .* for 3 s; rank $rank has not come, it is at "; else expected="rank $rank has gone \(process [0-9]+\): it was at "; fi
    if [ "$status" = 0 ] || [ "$status" = 124 ] || [ "$took" -ge 30 ]; then
        failed "$name: status $status after $took s" "$name.err"
    elif [ "$signal" = $stop ] && [ "$status" != 1 ]; then
        failed "$name: status $status, expected 1" "$name.err"
    elif [ "$(echo "$line" | wc -l)" != 1 ] || ! echo "$line" | grep -Eq "^moec: rank [0-3]: .*$expected" ||
        ! echo "${line##*it is at }" | sed 's/.*it was at //; s/; this rank is at .*//' | grep -Fq -- "$text"; then
        failed "$name: expected one line like: $expected...$text" "$name.err"
    else
        passed "$name: $took s"
    fi
}
both() { # NAME RANK TIMES TEXT: once hung, once killed
    cases+=("hung-$1 $2 $stop $3 $4" "killed-$1 $2 $kill $3 $4")
}
both agree 1 1 'start: do the ranks agree, about to enter MPI_Allreduce of group "all ranks"'
both route 3 2 'about to enter MPI_Allgather of group "experts"'
both send 2 1 'about to enter MPI_Alltoallv of group "experts"'
both return 0 2 'about to enter MPI_Alltoallv of group "experts"'
both reduce 1 1 'dense gradients (update, instruction 0), about to enter MPI_Alltoallv of group "replicas, dense"'
both mirror 2 1 'about to enter MPI_Allgatherv of group "mirror, dense"'
both norm 3 1 'gradient norm (update, '
both gather 0 1 'about to enter MPI_Allgatherv of group "shards, experts"'
both tensors-gather 3 1 'about to enter MPI_Allgather of group "tensors"'
both tensors-scatter 0 1 'about to enter MPI_Alltoallv of group "tensors"'
if reads_peers; then
    both peer-route 1 2 'about to enter peer gather of group "experts"'
    both peer-send 3 3 'about to enter peer exchange of group "experts"'
    both peer-reduce 0 1 'dense gradients (update, instruction 0), about to enter peer exchange of group "replicas, dense"'
fi
both losses 1 2 'sum of the losses, about to enter MPI_Allreduce'
both save 2 1 'begin of a checkpoint, about to enter MPI_Barrier'
both written 3 1 'have all written the checkpoint, about to enter MPI_Allreduce'
both end 0 1 'the end, about to enter MPI_Barrier'

n=0
for each in "${cases[@]}"; do
    read -r name rank signal times text <<<"$each"
    [ $((n++)) -lt 5 ] || wait -n
    run_case "$name" "$rank" "$signal" "$times" "$text" &
done
wait
for each in "${cases[@]}"; do
    read -r name rank signal times text <<<"$each"
    judge "$name" "$rank" "$signal" "$times" "$text"
done
for kind in route send return tensors-gather tensors-scatter; do # which operator of which layer
    if grep -Eq "it is at model\.(embed_tokens|layers\.[0-9]+\.(mlp\.experts|self_attn\.[a-z_]+)) \(micro-batch, instruction [0-9]+\)" "hung-$kind.err"; then passed "hung-$kind names operator and layer"; else failed "hung-$kind names operator and layer" "hung-$kind.err"; fi
done
ok "no process is left" wait_for 5 no_ranks
ok "a rank that nobody stops" train 4 undisturbed $layout
finish
