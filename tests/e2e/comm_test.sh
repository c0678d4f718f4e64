#!/bin/bash
# Ranks exchange what they should: the program of tests/comm_test.c on several ranks, and the option --comm.
. "$(dirname "$0")/lib.sh"
program=$(dirname "$moec")/tests/comm_test
for ranks in 1 2 5 8; do
    launch="$mpirun -np $ranks"
    [ $ranks != 1 ] || launch=
    ok "exchanges on $ranks ranks" timeout 60 $launch "$program"
done
# Without copies between processes a long message travels only while its sender calls MPI.
ok "exchanges on 3 ranks, MPI through shared memory alone" env OMPI_MCA_btl_vader_single_copy_mechanism=none timeout 60 $mpirun -np 3 "$program"
make_inputs
common="--global_batch_size 8 --max_steps 1 --save_every 0"
ok "--comm auto on the CPU" train 2 auto $common
shows_means() { # NAME PATTERN
    if grep -Eq "^ranks 2 \(.*$2" "$1.out"; then passed "$1: the ranks line says $2"; else failed "$1: the ranks line" "$1.out"; fi
}
shows_means auto MPI
ok "--comm mpi on the CPU" train 2 mpi $common --comm mpi
if reads_peers; then
    ok "--comm peer on the CPU" train 2 peer $common --comm peer
    shows_means peer 'copies between peers'
    same peer peer mpi
    layout="--micro_batch_size 4 --expert_parallel 2 --zero 3 --overlap on --row_capacity 256 --max_steps 2"
    for way in mpi peer; do ok "--comm $way, rounds and slices" train 4 split-$way $common $layout --comm $way; done
    same "peer: rounds and slices" split-peer split-mpi
fi
refused "--comm nccl on the CPU" 2 '--comm nccl .*CPU' "$moec" train --model_id model --dataset_path data $common --comm nccl
refused "--comm nccl in eval on the CPU" 2 '--comm nccl .*CPU' "$moec" eval --model_id model --dataset_path data --comm nccl
refused "--comm of another word" 2 'auto\|peer\|nccl\|mpi|auto, peer' "$moec" train --model_id model --dataset_path data $common --comm gloo
train 2 nccl $common --comm nccl
if [ "$(grep -c '^moec: ' nccl.err)" = 1 ] && grep -q -- '--comm nccl' nccl.err; then passed "one message on two ranks"; else failed "one message on two ranks" nccl.err; fi
finish
