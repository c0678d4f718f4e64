/* offload.c - see offload.h. */
#include "run/offload.h"

/* Places of the device: the last instruction of compute, copies out by number, the last copy in. */
int offload_places(const struct exec *x)
{
    return x->program->offload.bytes > 0 ? x->program->offload.n_copies + 2 : 0;
}

void offload_new(struct exec *x, int first_place)
{
    const struct offload *o = &x->program->offload;
    x->moments_place = first_place;
    if (o->bytes > 0)
        x->moments = x->device->host_allocate((size_t)o->bytes);
}

void offload_free(struct exec *x)
{
    if (x->moments)
        x->device->host_release(x->moments);
    x->moments = NULL;
}

static void lane(const struct exec *x, enum device_lane which)
{
    if (x->device->lane)
        x->device->lane(which);
}

static void place(const struct exec *x, int which)
{
    if (x->device->lane)
        x->device->place(x->moments_place + which);
}

static void behind(const struct exec *x, int which)
{
    if (x->device->lane)
        x->device->behind(x->moments_place + which);
}

/* Bytes from ref[0] on, behind what compute has done so far; `end`: the place behind the copy. */
static void copy(struct exec *x, struct ref at, int64_t bytes, bool out, int end)
{
    place(x, 0);
    lane(x, LANE_HOST);
    behind(x, 0);
    if (out)
        x->device->get_later(x->moments + at.at_bytes, exec_at(x, at), (size_t)bytes);
    else
        x->device->put_later(exec_at(x, at), x->moments + at.at_bytes, (size_t)bytes);
    place(x, end);
    lane(x, LANE_COMPUTE);
}

/* Before the first step nothing has left. */
static void copy_all(struct exec *x)
{
    const struct offload *o = &x->program->offload;
    for (int i = 0; i < o->n_copies && !x->moments_left; i++)
        copy(x, (struct ref){ o->buffer, 0 }, i == 0 ? o->bytes : 0, true, 1 + i);
    x->moments_left = true;
}

void offload_run(struct exec *x, const struct instr *in)
{
    const int came_back = 1 + x->program->offload.n_copies;
    if (in->kind == RUN_TO_HOST) {
        copy(x, in->ref[0], in->n, true, 1 + in->box);
    } else if (in->kind == RUN_FROM_HOST) {
        copy(x, in->ref[0], in->n, false, came_back);
    } else {
        copy_all(x);
        behind(x, in->backward ? came_back : 1 + in->box);
    }
}
