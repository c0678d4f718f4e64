#!/bin/bash
# What ends a run: a loss that is not finite, a rank that dies, a full disk. Earlier checkpoints stay.
. "$(dirname "$0")/lib.sh"
make_inputs
common="--global_batch_size 8 --save_every 4"
wild="--lr 1000 --weight_decay 1000 --warmup_steps 0 --clip_grad_norm 0"

nonfinite() { # RANKS
    local name=wild-$1 got
    train "$1" "$name" $common --max_steps 4 || failed "$name" "$name.err"
    (cd "runs/$name/checkpoints/step-00000004" && md5sum *) >before
    train_again "$1" "$name" $common $wild --max_steps 40 --resume_path last
    got=$?
    if [ $got = 6 ]; then passed "not finite on $1 ranks: exit status 6"; else failed "not finite on $1 ranks: exit status $got, expected 6" "$name.err"; fi
    if grep -Eq '^moec: .*step [0-9]+: .*model\.|^moec: .*step [0-9]+: the gradient of lm_head' "$name.err"; then
        passed "the message on $1 ranks names step and tensor"
    else
        failed "the message on $1 ranks" "$name.err"
    fi
    if (cd "runs/$name/checkpoints/step-00000004" && md5sum *) | cmp -s - before && "$moec" verify "runs/$name/checkpoints/step-00000004" >/dev/null; then
        passed "the checkpoint before is intact ($1 ranks)"
    else
        failed "the checkpoint before changed ($1 ranks)"
    fi
}
nonfinite 1
nonfinite 2

# One rank dies: the others end within seconds.
(train 4 dying --global_batch_size 8 --max_steps 100000 --epochs 100000 --save_every 0; echo $? >dying.status) &
wait_for 60 steps_done dying 3
n=$(my_ranks | wc -l)
if [ "$n" = 4 ]; then passed "4 ranks run"; else failed "dying: $n ranks" dying.err; fi
start=$(date +%s%N)
kill -KILL $(my_ranks | tail -n 1)
wait_for 20 no_ranks
took=$((($(date +%s%N) - start) / 1000000))
wait
if [ $took -lt 10000 ]; then passed "one rank killed: all ended within $took ms"; else failed "ranks live on $took ms after one was killed"; fi
if [ "$(cat dying.status)" != 0 ]; then passed "the run reports failure"; else failed "the run reports success"; fi

# An error that every rank meets is told once.
train 4 wrong --global_batch_size 8 --max_steps 1 --eval_sequences 1000000
if [ $? = 2 ] && [ "$(grep -c '^moec: ' wrong.err)" = 1 ]; then passed "4 ranks, one message"; else failed "4 ranks: messages" wrong.err; fi

# A full disk: what was there stays and nothing half written opens.
if [ "$(id -u)" = 0 ] && mkdir full && mount -t tmpfs -o size=3m tmpfs full 2>/dev/null; then
    "$moec" train --model_id model --dataset_path data --global_batch_size 8 --max_steps 1 --save_every 0 --output_dir full --name x >full.out 2>full.err
    got=$?
    if [ $got = 1 ] && grep -q '^moec: .*[Nn]o space' full.err; then passed "full disk: exit status 1"; else failed "full disk: exit status $got" full.err; fi
    not "full disk: no checkpoint" test -e full/x/checkpoints/last/checkpoint.json
    # The disk fills while training goes on: the next step ends the run, and the checkpoints before stay.
    rm -rf full/*
    one=$(du -k -s runs/wild-1/checkpoints/step-00000004 | cut -f1)
    mount -o remount,size=$((2 * one + one / 2))k full
    "$moec" train --model_id model --dataset_path data --global_batch_size 8 --max_steps 1000 --save_every 3 --keep_last 0 --output_dir full --name x >full.out 2>full.err
    got=$?
    if [ $got = 1 ] && [ "$(grep -c '^moec: ' full.err)" = 1 ] && grep -q '^moec: .*step-00000009.*[Nn]o space' full.err; then passed "full disk beside the steps: exit status 1"; else failed "full disk beside the steps: exit status $got" full.err; fi
    if "$moec" verify full/x/checkpoints/step-00000006 >verify.log 2>&1 && [ "$(readlink full/x/checkpoints/last)" = step-00000006 ]; then passed "full disk beside the steps: the checkpoint before is whole"; else failed "full disk beside the steps: the checkpoint before" verify.log; fi
    not "full disk beside the steps: nothing half written" ls -d full/x/checkpoints/step-00000009
    rm -rf full/*
    mount -o remount,size=3m full
    for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16; do cp text.txt "copy-$i.txt"; done
    refused "full disk: prepare" 1 '[Nn]o space' "$moec" prepare --data_path_or_name "$(ls -d copy-*.txt | paste -sd,)" \
        --tokenizer_path_or_name tokenizer --sequence_length 64 --save_path full/d
    not "full disk: no dataset" test -e full/d/dataset.json
    umount full
else
    skip "full disk" "needs root and mount"
fi
finish
