#!/bin/bash
# A token's row travels once to each rank that has experts of it: fewer bytes, the same bits.
. "$(dirname "$0")/lib.sh"
make_inputs
sed -i 's/"num_experts_per_tok": 2/"num_experts_per_tok": 4/' model/config.json # 4 of 8: most tokens have two on a rank
common="--global_batch_size 8 --micro_batch_size 4 --max_steps 6 --lr 1e-3 --warmup_steps 2 --save_every 0 --expert_parallel 4"
summed() { # RUN NAME: of all steps
    grep -o "\"$2\": [0-9]*" "runs/$1/metrics.jsonl" | awk '{ sum += $2 } END { print sum + 0 }'
}

if gcc -D_GNU_SOURCE -Wall -Wextra -shared -fPIC -O1 "$root/tests/e2e/mpi_count.c" -o count.so -ldl 2>count.err; then
    program=$moec
    printf '#!/bin/bash\nLD_PRELOAD=%s/count.so exec %s "$@"\n' "$work" "$program" >counted
    chmod +x counted
    moec=$work/counted
    MPI_COUNT_LOG=$work/once.sent ok "rows travel once" train 4 once $common --row_capacity 4096 --comm mpi
    MPI_COUNT_LOG=$work/each.sent ok "with two rounds at once each copy does" train 4 each $common --row_capacity 4096 --comm mpi --overlap rounds
    moec=$program
    same "the same bits" once each
    # Drawn without repetition, 4 of 8 are on a rank of two with 11 of 14 chances, and twice with 3: 0.79 rows for each copy.
    # 64 floats are a row of the model. Forward and backward send each copy, or what is different of them; the rest is the same.
    once=$(awk '$1 == 256 { print $2 }' once.sent.0) each=$(awk '$1 == 256 { print $2 }' each.sent.0)
    copies=$(summed once sent_copies) rows=$(summed once sent_rows)
    if [ -n "$once" ] && [ $((each - once)) = $((copies - rows)) ] && [ $((10 * rows)) -lt $((9 * copies)) ]; then
        passed "MPI moved $((each - once)) rows less of $each: $rows instead of $copies were sent"
    else
        failed "MPI moved '$once' rows, '$each' without; metrics say $rows instead of $copies"
    fi
else
    failed "mpi_count.c does not compile" count.err
fi

# What is kept is not sent again.
ok "rows that are sent again" train 4 again $common --row_capacity 4096 --comm mpi --keep_rows off
same "rows kept and sent again" once again
if [ $((2 * $(summed again sent_rows))) = $((3 * rows)) ]; then passed "half as many rows more"; else failed "$(summed again sent_rows) rows sent again, $rows where they are kept"; fi

# Several rounds move copies; with --reproducible they have the same bits.
ok "one round" train 4 one $common --reproducible --row_capacity 4096
ok "several rounds" train 4 several $common --reproducible --row_capacity 64
same "one round and several" one several
if [ "$(summed several sent_copies)" = "$(summed several sent_rows)" ] && [ "$(summed one sent_rows)" -lt "$(summed one sent_copies)" ]; then
    passed "rows of several rounds are copies"
else
    failed "rows sent: $(summed one sent_rows) in one round, $(summed several sent_rows) in several, of $(summed several sent_copies)"
fi
if reads_peers; then
    ok "rows travel once between peers" train 4 peer $common --row_capacity 4096 --comm peer
    same "peer and MPI" peer once
    if [ "$(summed peer sent_rows)" = "$rows" ]; then passed "as many rows"; else failed "$(summed peer sent_rows) rows between peers, $rows by MPI"; fi
fi
for overlap in on rounds off; do
    ok "evaluation, --overlap $overlap" train 4 eval-$overlap $common --row_capacity 4096 --eval_every 3 --eval_sequences 16 --overlap $overlap
done
if [ "$(figures eval-on)" = "$(figures eval-off)" ] && [ "$(figures eval-rounds)" = "$(figures eval-off)" ] && figures eval-off | grep -q eval_loss; then passed "evaluation has the same bits"; else failed "evaluation differs" eval-off.err; fi
finish
