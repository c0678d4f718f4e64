#!/bin/bash
# Ranks started the wrong way: one line on the machine, exit status 2, and nothing is written.
. "$(dirname "$0")/lib.sh"
make_inputs
start="$moec train --model_id model --dataset_path data --max_steps 1 --save_every 0 --name wrong"
unset RANK WORLD_SIZE LOCAL_RANK LOCAL_WORLD_SIZE SLURM_NTASKS SLURM_STEP_ID SLURM_STEP_NUM_TASKS SLURM_LOCALID
# loop NAME PATTERN VARIABLES... : 4 processes as a launcher that is none of MPI would start them; %d is the index
loop() {
    local name=$1 pattern=$2 rank variables bad=0
    shift 2
    for rank in 0 1 2 3; do
        variables=$(printf '%s ' "${@//%d/$rank}")
        env $variables timeout 60 $start >"$rank.out" 2>"$rank.err" </dev/null
        [ $? = 2 ] || bad=1
    done
    cat ?.err >all.err
    if [ $bad = 0 ] && [ "$(grep -c . all.err)" = 1 ] && grep -Eq -- "^moec: .*$pattern" all.err; then passed "$name"; else failed "$name" all.err; fi
    not "$name: nothing is written" ls -d runs/wrong
}
torch="WORLD_SIZE=4 RANK=%d LOCAL_RANK=%d MASTER_ADDR=127.0.0.1 MASTER_PORT=29500"
loop "torchrun" "mpirun -np 4 $moec train --model_id model" $torch
loop "torchrun on two machines" "mpirun -np 8 --map-by ppr:4:node $moec train" WORLD_SIZE=8 RANK=%d LOCAL_RANK=%d LOCAL_WORLD_SIZE=4
loop "LOCAL_RANK is missing" "LOCAL_RANK is missing" WORLD_SIZE=4 RANK=%d
loop "WORLD_SIZE is no number" "WORLD_SIZE is 'four'" WORLD_SIZE=four RANK=%d LOCAL_RANK=%d
loop "srun without a PMI" "srun started 4 tasks .*--mpi=pmix" SLURM_STEP_NUM_TASKS=4 SLURM_LOCALID=%d SLURM_PROCID=%d
loop "the launcher of another MPI" "is 4, but .* says 1 rank" PMI_SIZE=4 PMI_RANK=%d

under_mpirun() { # NAME PATTERN VARIABLES...
    local name=$1 pattern=$2 got
    shift 2
    env "$@" timeout 60 $mpirun -np 2 $start >mpi.out 2>mpi.err </dev/null
    got=$?
    if [ $got = 2 ] && [ "$(grep -c '^moec: ' mpi.err)" = 1 ] && grep -Eq -- "^moec: .*$pattern" mpi.err; then passed "$name"; else failed "$name: status $got" mpi.err; fi
    not "$name: nothing is written" ls -d runs/wrong
}
under_mpirun "WORLD_SIZE of others under mpirun" "WORLD_SIZE is 4, but MPI says 2 ranks" WORLD_SIZE=4
under_mpirun "RANK of others under mpirun" "RANK is 0, but MPI says rank 1" WORLD_SIZE=2 RANK=0
ok "mpirun inside a step of srun" env SLURM_STEP_NUM_TASKS=8 SLURM_STEP_ID=0 timeout 60 $mpirun -np 2 $moec eval --model_id model --dataset_path data --eval_sequences 4
ok "one rank of torchrun" env WORLD_SIZE=1 RANK=0 LOCAL_RANK=0 timeout 60 $moec eval --model_id model --dataset_path data --eval_sequences 4
finish
