/* exchange_cpu.c - sums and moves of device.h on the host. */
#include "base/pool.h"
#include "device/device_impl.h"
#include <string.h>

enum { BLOCK = 8192 };

/* In place into part 0. */
static void sum_task(void *context, int64_t task)
{
    const struct device_sum *s = context;
    const int64_t begin = task * BLOCK, end = begin + BLOCK < s->n ? begin + BLOCK : s->n;
    float *parts = s->parts;
    for (int step = 1; step < s->n_parts; step *= 2)
        for (int i = 0; i + step < s->n_parts; i += 2 * step) {
            float *to = parts + i * s->stride;
            const float *from = to + step * s->stride;
            for (int64_t j = begin; j < end; j++)
                to[j] += from[j];
        }
    float *out = s->out;
    for (int64_t j = begin; j < end && s->add; j++)
        out[j] += parts[j];
    if (!s->add && out != parts && begin < end)
        memcpy(out + begin, parts + begin, (size_t)(end - begin) * sizeof *parts);
}

void device_sum_cpu(const struct device_sum *s)
{
    struct device_sum copy = *s;
    CHECK(s->type == F32, "sums of %s", num_dtype_name(s->type));
    pool_run((s->n + BLOCK - 1) / BLOCK, sum_task, &copy);
}

static int64_t round_up(int64_t n, int64_t multiple)
{
    return (n + multiple - 1) / multiple * multiple;
}

void device_move_cpu(const struct device_move *m)
{
    int64_t begin = 0;
    for (int64_t i = 0; i < m->n_segments; begin = round_up(m->end[i++], m->tile)) {
        const int64_t n = m->end[i] - begin, edge = round_up(m->end[i], m->tile);
        char *row = m->rows + begin * m->row_bytes, *packed = m->packed + m->from[i] * m->row_bytes;
        if (n > 0)
            memcpy(m->pack ? packed : row, m->pack ? row : packed, (size_t)(n * m->row_bytes));
        if (n > 0 && !m->pack)
            memset(row + n * m->row_bytes, 0, (size_t)((edge - m->end[i]) * m->row_bytes));
    }
}
