#!/bin/bash
# A run that stopped and goes on equals one that never stopped: same bits on the same layout, 1e-6 on another.
. "$(dirname "$0")/lib.sh"
make_inputs
common="--global_batch_size 8 --lr 1e-3 --warmup_steps 5 --keep_last 0 --eval_sequences 8"
layout="--expert_parallel 2 --zero 1 --micro_batch_size 2"
sums() {
    (cd "runs/$1/checkpoints/step-00000020" && md5sum *.safetensors *.json)
}
equals_whole() { # NAME RUN
    same_losses "$1: losses of all 20 steps" "$2" whole
    if [ -n "$(sums "$2")" ] && [ "$(sums "$2")" = "$(sums whole)" ]; then
        passed "$1: checkpoint of step 20 is the same, byte for byte"
    else
        diff <(sums "$2") <(sums whole) >diff.log
        failed "$1: the checkpoints of step 20 differ" diff.log
    fi
}
ok "20 steps at once" train 2 whole $common $layout --max_steps 20 --save_every 10

ok "10 steps" train 2 stopped $common $layout --max_steps 10 --save_every 10
ok "10 more" train_again 2 stopped $common $layout --max_steps 20 --save_every 10 --resume_path last
equals_whole "stopped at step 10" stopped

# The step after which it is killed is not known: it has saved step 10 and not finished.
(train 2 killed $common $layout --max_steps 2000 --save_every 10) &
wait_for 60 test -e runs/killed/checkpoints/step-00000010/checkpoint.json && wait_for 60 steps_done killed 12
kill -KILL $(my_ranks)
wait
if [ "$(losses killed | wc -l)" -ge 12 ]; then passed "killed by SIGKILL after step $(losses killed | tail -n 1 | cut -d' ' -f1)"; else failed "killed: did not get far enough" killed.err; fi
ok "the checkpoint of a killed run is complete" "$moec" verify runs/killed
rm -rf $(ls -d runs/killed/checkpoints/step-* | grep -v step-00000010)
ok "10 more after SIGKILL" train_again 2 killed $common $layout --max_steps 20 --save_every 10 --resume_path runs/killed/checkpoints/step-00000010
equals_whole "killed" killed

# Saves follow each other at once: each is written beside the steps, or training waits for it; same bytes either way.
ok "a save at every step" train 2 dense $common $layout --max_steps 20 --save_every 1
equals_whole "saved at every step" dense
if [ "$(ls -d runs/dense/checkpoints/step-* | wc -l)" = 20 ] && grep -q '^checkpoints: .*goes on while it is written' dense.out &&
    grep -q '^checkpoint runs/dense/checkpoints/step-00000019 ([0-9.]* s, training waited [0-9.]* s; [0-9.e-]* GB, [0-9.e-]* GB/s)$' dense.out; then
    passed "20 checkpoints, written beside the steps"
else
    failed "checkpoints beside the steps" dense.out
fi
ok "without memory for a copy" train 2 waiting $common $layout --max_steps 20 --save_every 10 --save_memory 0
equals_whole "without a copy" waiting
if grep -q '^checkpoints: training waits until they are written; --save_memory' waiting.out; then passed "the head says so"; else failed "the head does not say so" waiting.out; fi

# Killed while files are being written beside the steps: only temporary names are left, and it goes on from the last whole one.
writing() { # RUN STEP: this step's checkpoint is being written
    ls "runs/$1/checkpoints/$(printf step-%08d "$2").tmp"/*.tmp.* >/dev/null 2>&1
}
n_hit=0
for round in 1 2 3 4 5 6; do
    [ $round -le 3 ] && cut_layout=$layout || cut_layout="--tensor_parallel 2 --zero 3 --micro_batch_size 2" # files that both write
    rm -rf runs/cut # not in the background: else the files of the last round are taken for those of this one
    (train 2 cut $common $cut_layout --max_steps 2000 --save_every 4) &
    wait_for 60 test -e runs/cut/checkpoints/step-00000004/checkpoint.json
    until=$((SECONDS + 10)) hit=
    while [ $SECONDS -lt $until ] && [ -z "$hit" ]; do
        for step in 8 12 16 20 24 28; do if writing cut $step; then hit=$step; break; fi; done
    done
    kill -KILL $(my_ranks)
    wait
    [ -n "$hit" ] && n_hit=$((n_hit + 1))
    left=$(ls runs/cut/checkpoints | grep -v '^last$\|^last\.tmp\.[0-9]*$\|^step-[0-9]*$\|^step-.*\.tmp')
    "$moec" verify runs/cut >verify.log 2>&1 || failed "killed while writing step $hit" verify.log
    [ -z "$left" ] || failed "killed while writing step $hit: there is $left"
    for whole_one in runs/cut/checkpoints/step-????????; do
        "$moec" verify "$whole_one" >verify.log 2>&1 || failed "killed while writing: $whole_one" verify.log
    done
done
if [ $n_hit -ge 3 ]; then passed "killed $n_hit times while a checkpoint was being written"; else failed "killed only $n_hit times while writing"; fi
step=$(readlink runs/cut/checkpoints/last | sed 's/step-0*//')
ok "it goes on from step $step" train_again 2 cut $common $layout --max_steps $((step + 2)) --save_every 1 --resume_path last
not "nothing temporary is left" sh -c 'ls -d runs/cut/checkpoints/*.tmp*'

# The signal of a batch system: the step is finished and saved.
(train 2 signalled $common $layout --max_steps 2000 --save_every 0) &
wait_for 60 steps_done signalled 5
kill -TERM $(my_ranks)
wait
step=$(losses signalled | tail -n 1 | cut -d' ' -f1)
ok "SIGTERM: step $step is saved" "$moec" verify "runs/signalled/checkpoints/$(printf step-%08d "$step")"

other() { # NAME RANKS OPTIONS: from step 10 of `whole` on another layout
    local name=$1 ranks=$2
    shift 2
    rm -rf "runs/$name"
    if train_again "$ranks" "$name" $common --max_steps 20 --save_every 0 --resume_path runs/whole/checkpoints/step-00000010 "$@"; then
        losses whole | tail -n 10 >want
        losses "$name" >got
        local d
        d=$(paste -d' ' got want | awk 'NF != 4 || $1 != $3 { bad = 1 } { d = ($2 - $4) / $4; if (d < 0) d = -d; if (!(d <= t)) t = d }
                                        END { if (bad || NR != 10) print 1; else print t }')
        if awk "BEGIN { exit !($d <= 1e-6) }"; then passed "resumed on $name (differs by $d)"; else failed "resumed on $name: losses differ by $d"; fi
    else
        failed "resumed on $name" "$name.err"
    fi
}
other ranks-1 1 --micro_batch_size 8
other ranks-4-ep-4 4 --expert_parallel 4 --zero 0
other ranks-8 8 --zero 1
# Four steps on one layout, four on the next: as if it had never stopped; on the same layout in every bit.
declare -A ranks options
define() { # LAYOUT RANKS OPTIONS
    ranks[$1]=$2 options[$1]=$3
}
define one 1 "--micro_batch_size 4"
define experts 2 "--expert_parallel 2 --zero 1"
define replicas 4 "--expert_parallel 1 --zero 0"
define tensor 2 "--tensor_parallel 2"
define tensor-experts 4 "--tensor_parallel 2 --expert_parallel 4 --zero 1"
define tensor-weights 4 "--tensor_parallel 4 --expert_parallel 2 --zero 3"
define weights 4 "--expert_parallel 2 --zero 3"
define units 4 "--plan_ngpus 2 --tensor_parallel 2 --zero 3 --micro_batch_size 2"
for name in "${!ranks[@]}"; do
    ok "8 steps on $name" train ${ranks[$name]} from-$name $common ${options[$name]} --max_steps 8 --save_every 4
done
pair() { # FROM TO
    local name=$1-to-$2 d
    rm -rf "runs/$name"
    train_again ${ranks[$2]} $name $common ${options[$2]} --max_steps 8 --save_every 4 \
        --resume_path runs/from-$1/checkpoints/step-00000004 || { failed "$1, then $2" $name.err; return; }
    d=$(paste -d' ' <(losses $name) <(losses from-one | tail -n 4) |
        awk 'NF != 4 || $1 != $3 { bad = 1 } { d = ($2 - $4) / $4; if (d < 0) d = -d; if (!(d <= t)) t = d }
             END { print bad || NR != 4 ? 1 : t }')
    if awk "BEGIN { exit !($d <= 1e-6) }"; then passed "$1, then $2 (differs by $d)"; else failed "$1, then $2: losses differ by $d"; fi
    [ "$1" = "$2" ] || return
    local step=checkpoints/step-00000008
    if [ "$(losses $name)" = "$(losses from-$1 | tail -n 4)" ] && diff -r runs/$name/$step runs/from-$1/$step >diff.log; then
        passed "$1, stopped and resumed: the same bits"
    else
        failed "$1, stopped and resumed: other bits" diff.log
    fi
}
pair tensor tensor
pair weights weights
pair units units
pair tensor one
pair one tensor-experts
pair tensor-experts experts
pair experts tensor-weights
pair tensor-weights weights
pair weights replicas
pair replicas units
pair units tensor-weights
pair tensor-weights tensor
# One set of files, whatever the layout was.
for name in tensor units; do
    ok "merge $name" "$moec" merge --ckpt_dir runs/from-$name --output_fname merged-$name
    ok "verify what was merged" "$moec" verify merged-$name
    ok "resume what was merged" train_again 2 merged-$name $common ${options[experts]} --max_steps 10 --save_every 0 --resume_path merged-$name
done
refused "last of a run that has none, with another dataset" 7 'fingerprint' "$moec" train --model_id model --dataset_path other --name x \
    --resume_path runs/whole/checkpoints/step-00000010 --eval_sequences 8
finish
