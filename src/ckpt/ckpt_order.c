/* ckpt_order.c - where an element lies in the order in which ranks hold it (struct ckpt_order), and back. */
#include "ckpt/ckpt_impl.h"

int64_t order_stored(const struct ckpt_order *o, int64_t n, int64_t held, int64_t *stored)
{
    *stored = held;
    if (o->slices < 2)
        return n - held;
    const int64_t unit = n / o->slices, outer = held % unit / o->run, at = held % o->run;
    *stored = (outer * o->slices + held / unit) * o->run + at;
    return o->run - at;
}

int64_t order_held(const struct ckpt_order *o, int64_t n, int64_t stored, int64_t *held)
{
    *held = stored;
    if (o->slices < 2)
        return n - stored;
    const int64_t row = stored / o->run, at = stored % o->run;
    *held = row % o->slices * (n / o->slices) + row / o->slices * o->run + at;
    return o->run - at;
}

bool order_fits(const struct ckpt_order *o, int64_t n)
{
    return o->slices < 2 || n == 0 || (o->run <= n / o->slices && n % (o->slices * o->run) == 0);
}

struct ckpt_order order_of(const struct ckpt_job *job, int param)
{
    const struct ckpt_order as_it_is = { 1, 0 };
    return job->order && job->order[param].slices > 1 ? job->order[param] : as_it_is;
}
