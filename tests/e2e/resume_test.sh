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
refused "last of a run that has none, with another dataset" 7 'fingerprint' "$moec" train --model_id model --dataset_path other --name x \
    --resume_path runs/whole/checkpoints/step-00000010 --eval_sequences 8
finish
