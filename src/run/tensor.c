/* tensor.c - see tensor.h. */
#include "run/tensor.h"

void tensor_gather(struct exec *x, const struct instr *in)
{
    char *all = exec_at(x, in->ref[1]);
    x->device->copy(all + x->program->layout.tensor_index * in->n, exec_at(x, in->ref[0]), (size_t)in->n);
    comm_gather_in_place(x->tensor, all, (size_t)in->n);
}

/* Every member's rows for member m stand at m * n; afterwards those for this member stand so, by sender. */
static struct comm_rows even_rows(const struct exec *x, int64_t n)
{
    const int members = x->program->plan.tensor_parallel;
    const struct comm_rows r = { x->scratch, x->scratch + members, x->scratch + 2 * members,
                                 x->scratch + 3 * members };
    for (int m = 0; m < members; m++) {
        r.send_rows[m] = r.recv_rows[m] = n;
        r.send_at[m] = r.recv_at[m] = m * n;
    }
    return r;
}

void tensor_scatter(struct exec *x, const struct instr *in)
{
    const enum dtype t = in->wide ? F32 : plan_float(&x->program->plan);
    const struct comm_rows r = even_rows(x, in->n);
    comm_exchange(x->tensor, exec_at(x, in->ref[0]), exec_at(x, in->ref[2]), &r, (int64_t)num_dtype_bytes(t));
    x->device->sum(&(struct device_sum){ .parts = exec_at(x, in->ref[2]),
                                         .out = exec_at(x, in->ref[1]),
                                         .type = t,
                                         .n_parts = x->program->plan.tensor_parallel,
                                         .stride = in->n,
                                         .n = in->n,
                                         .add = in->add });
}
