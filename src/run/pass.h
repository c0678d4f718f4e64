/* pass.h - messages between the stages of a pipeline. By MPI from copies in host memory; or, with NCCL, on the device, from
 * copies in the slab: each way of a rank (activations out and in, gradients out and in) has a communicator and a lane of
 * the device of its own, so that a message waits for nothing but its own two ends (doc/adr/0016). Events order a lane
 * against that of compute: a message leaves when its copy is made, and the copy is written over when it has left; it comes
 * in as soon as the one before it has been taken, and is taken when it is there. */
#pragma once
#include "run/exec.h"
enum {
    /* Runs of a list after which all its code is loaded and its launches are recorded. Either may wait for the whole device, and
     * so for a message that needs what the host has not launched yet: until then messages go by MPI. */
    PASS_SETTLED = 2
};
int pass_places(const struct exec *x); /* that it uses; device.h: place */
int pass_blocks(const struct exec *x); /* multiprocessors that messages under way may take; 0: by MPI alone */
/* Makes ways, and what MPI needs; before the slab is taken. first_place: those from there on are its own. */
void pass_new(struct arena *a, struct exec *x, int first_place);
void pass_free(struct exec *x); /* waits for what is under way */
/* Messages stay on the device from now on (where they can), or go by MPI; the same on all ranks. */
void pass_settled(struct exec *x, bool settled);
void pass_out(struct exec *x, const struct instr *in);
void pass_in(struct exec *x, const struct instr *in);
