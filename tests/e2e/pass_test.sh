#!/bin/bash
# Messages of pipelines by the lanes of a device: the program of tests/pass_test.c on several ranks, with stand-ins for the
# device and for NCCL. What it proves of order and waiting holds for those of the vendor as far as they are alike.
. "$(dirname "$0")/lib.sh"
program=$(dirname "$moec")/tests/pass_test
if ! gcc -D_GNU_SOURCE -shared -fPIC -O1 -I"$root" "$root/tests/e2e/nccl_stand_in.c" -o libnccl.so.2 2>nccl.err; then
    failed "nccl_stand_in.c does not compile" nccl.err
    finish
fi
export LD_LIBRARY_PATH=$work${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
make_inputs
reads_peers && peers=yes || peers=
for ranks in 2 3 4; do
    ok "stages on $ranks ranks" timeout 100 $mpirun -np $ranks "$program"
    [ -z "$peers" ] || ok "stages on $ranks ranks, by peers" env PEERS=1 timeout 100 $mpirun -np $ranks "$program"
done
# With one lane for all messages ranks would wait for ever: the test can fail, and somebody says where they wait.
not "one lane for all messages" env FEW_LANES=1 timeout 60 $mpirun -np 2 "$program"
shows "and where it waits" 'waits in a wait behind nccl(Send|Recv)'
# A rank that hangs where the others wait for its messages.
hangs() { # NAME RANK TIMES CALL PATTERN
    not "$1" env MOEC_TEST_FAIL="$2 19 $3 about to enter $4" timeout 60 $mpirun -np 3 "$program"
    shows "$1: named" "waits in .* for 3 s; rank $2 has not come, it is at $5, about to enter $4 of group \"(activations|gradients) "
}
hangs "a rank that does not send" 1 20 ncclSend 'an? (activation|gradient) \(micro-batch, instruction [0-9]+\)'
hangs "a rank that does not receive" 2 10 ncclRecv 'an activation \(micro-batch, instruction 0\)'
if [ -n "$peers" ]; then
    export PEERS=1
    hangs "a peer that does not send" 1 20 "peer send" 'an? (activation|gradient) \(micro-batch, instruction [0-9]+\)'
    hangs "a peer that does not receive" 2 10 "peer receive" 'an activation \(micro-batch, instruction 0\)'
    unset PEERS
fi
hangs "a rank that does not come to the start" 1 2 ncclSend 'start: the first use of a way of messages'
finish
