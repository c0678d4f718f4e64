/* collect.c - see collect.h. */
#include "run/collect.h"
#include <math.h>

static size_t buffer_bytes(const struct exec *x, struct ref r)
{
    return r.buffer < 0 ? 0 : (size_t)x->program->buffers[r.buffer].bytes;
}

/* Of host memory that one instruction needs where messages cannot come from the device. */
static size_t staging_of(const struct exec *x, const struct instr *in)
{
    size_t outer, inner;
    switch (in->kind) {
    case RUN_REDUCE:
    case RUN_SUM_ENDS:
    case RUN_ROUTE:
        return buffer_bytes(x, in->ref[1]);
    case RUN_SEND:
    case RUN_RETURN:
        outer = buffer_bytes(x, in->ref[0]);
        inner = buffer_bytes(x, in->ref[1]);
        return outer > inner ? outer : inner;
    case RUN_TENSOR_GATHER:
        return buffer_bytes(x, in->ref[1]);
    case RUN_TENSOR_SCATTER:
        return buffer_bytes(x, in->ref[0]);
    case RUN_MIRROR:
    case RUN_GATHER:
        return COLLECT_BLOCK;
    default:
        return 0;
    }
}

void collect_staging(struct exec *x)
{
    const struct program *p = x->program;
    size_t most = 0;
    for (int k = 0; k < LISTS; k++)
        for (int i = 0; i < p->list[k].n; i++) {
            const size_t bytes = staging_of(x, &p->list[k].item[i]);
            most = bytes > most ? bytes : most;
        }
    comm_reserve(most);
}

static enum dtype gradient_type(const struct exec *x)
{
    return x->program->plan.numbers.gradient;
}

void collect_parts(struct exec *x, const struct instr *in)
{
    x->device->sum(&(struct device_sum){ .parts = exec_at(x, in->ref[0]),
                                         .out = exec_at(x, in->ref[1]),
                                         .type = gradient_type(x),
                                         .n_parts = in->n_parts,
                                         .stride = in->n,
                                         .n = in->n,
                                         .add = in->add });
}

static int64_t clamp(int64_t v, int64_t low, int64_t high)
{
    return v < low ? low : v > high ? high : v;
}

static struct ref element(struct ref r, int64_t i, enum dtype t)
{
    r.at_bytes += i * (int64_t)num_dtype_bytes(t);
    return r;
}

/* Elements [*begin, *end) of an instruction's range that a member owns. */
static void owned_of(const struct flat *f, const struct instr *in, int member, int64_t *begin, int64_t *end)
{
    const int fine = layout_fine_of(f, member);
    *begin = clamp(f->cut[fine], in->first, in->first + in->n_elements);
    *end = clamp(f->cut[fine + 1], in->first, in->first + in->n_elements);
}

/* Those that it sums: what it owns, or as many as the others. */
static void range_of(const struct flat *f, const struct instr *in, int member, int64_t *begin, int64_t *end)
{
    enum { EVEN = 64 };
    const int64_t each = (in->n_elements / f->n_ranks + EVEN) / EVEN * EVEN, to = in->first + in->n_elements;
    if (!in->spread) {
        owned_of(f, in, member, begin, end);
        return;
    }
    *begin = clamp(in->first + member * each, in->first, to);
    *end = clamp(*begin + each, in->first, to);
}

/* What each member gets from this rank in the block at `at` of its range, from element `first` of the instruction's on;
 * returns the elements of this rank's. */
static int64_t plan_block(const struct flat *f, const struct instr *in, int64_t at, struct comm_rows *r)
{
    int64_t begin, end;
    range_of(f, in, f->index, &begin, &end);
    const int64_t mine = clamp(end - begin - at, 0, in->n);
    for (int m = 0; m < f->n_ranks; m++) {
        range_of(f, in, m, &begin, &end);
        const int64_t from = clamp(begin + at, begin, end);
        r->send_at[m] = from - in->first;
        r->send_rows[m] = clamp(end - from, 0, in->n);
        r->recv_at[m] = layout_tree_place(f, m) * in->n;
        r->recv_rows[m] = mine;
    }
    return mine;
}

/* Elements that the block of `from`'s range at `at` has of what `owner` owns; *first: of them. */
static int64_t passed_on(const struct flat *f, const struct instr *in, int64_t at, int from, int owner,
                         int64_t *first)
{
    int64_t begin, end, owned, owned_end;
    range_of(f, in, from, &begin, &end);
    owned_of(f, in, owner, &owned, &owned_end);
    begin = clamp(begin + at, begin, end);
    end = clamp(end, begin, begin + in->n);
    *first = clamp(owned, begin, end);
    return clamp(owned_end, *first, end) - *first;
}

/* Where in the staging a member's part of what this rank owns stands: its own sums in front, then the others' blocks. */
static struct ref passed_at(const struct exec *x, const struct instr *in, int64_t at, int from, int64_t first)
{
    const struct flat *f = &x->program->layout.flat[in->flat];
    int64_t begin, end;
    range_of(f, in, from, &begin, &end);
    const int64_t place = from == f->index  ? first - begin - at
                          : from < f->index ? (from + 1) * in->n
                                            : from * in->n;
    return element(in->ref[1], place, gradient_type(x));
}

static void add_passed(struct exec *x, const struct instr *in, int64_t at)
{
    const struct flat *f = &x->program->layout.flat[in->flat];
    for (int m = 0; m < f->n_ranks; m++) {
        int64_t first;
        const int64_t n = passed_on(f, in, at, m, f->index, &first);
        if (n > 0)
            x->device->sum(
                &(struct device_sum){ .parts = exec_at(x, passed_at(x, in, at, m, first)),
                                      .out = exec_at(x, element(in->ref[2], first, gradient_type(x))),
                                      .type = gradient_type(x),
                                      .n_parts = 1,
                                      .stride = in->n,
                                      .n = n,
                                      .add = true });
    }
}

/* The sums of a block, which stand in front of the staging, to those who own them: to where they belong, or behind the sums,
 * from where they are added. */
static void pass_on(struct exec *x, const struct instr *in, int64_t at, struct comm_rows *r)
{
    const struct flat *f = &x->program->layout.flat[in->flat];
    const enum dtype t = gradient_type(x);
    int64_t begin, end;
    range_of(f, in, f->index, &begin, &end);
    for (int m = 0; m < f->n_ranks; m++) {
        r->send_rows[m] = passed_on(f, in, at, f->index, m, &r->send_at[m]);
        r->send_at[m] -= clamp(begin + at, begin, end);
        r->recv_rows[m] = passed_on(f, in, at, m, f->index, &r->recv_at[m]);
        r->recv_at[m] = in->add ? (m < f->index ? m : m - 1) * in->n : r->recv_at[m] - in->first;
        if (in->add && m == f->index)
            r->send_rows[m] = r->recv_rows[m] = r->recv_at[m] = 0;
    }
    const struct ref to = in->add ? element(in->ref[1], in->n, t) : element(in->ref[2], in->first, t);
    comm_exchange(x->replica[in->flat], exec_at(x, in->ref[1]), exec_at(x, to), r,
                  (int64_t)num_dtype_bytes(t));
    if (in->add)
        add_passed(x, in, at);
}

/* In one pass, by a kernel that reads the other members' gradients where they have them. */
static void reduce_from_peers(struct exec *x, const struct instr *in)
{
    const struct flat *f = &x->program->layout.flat[in->flat];
    const enum dtype t = gradient_type(x);
    const struct comm_group *g = x->replica[in->flat];
    const void *parts[DEVICE_MEMBERS];
    int64_t begin, end;
    owned_of(f, in, f->index, &begin, &end);
    struct device_sum_of s = { .out = exec_at(x, element(in->ref[2], begin, t)),
                               .type = t,
                               .n_parts = f->n_ranks,
                               .n = end - begin,
                               .add = in->add };
    comm_look(g, exec_at(x, element(in->ref[0], in->first, t)), parts);
    for (int m = 0; m < f->n_ranks; m++)
        s.of[layout_tree_place(f, m)] =
            (const char *)parts[m] + (begin - in->first) * (int64_t)num_dtype_bytes(t);
    x->device->sum_of(&s);
    comm_looked(g);
}

/* Reduce-scatter in blocks: every member sends the owner its part of the owner's range; the owner adds them
 * in the tree. The result does not depend on which ranges belong to whom. */
void collect_reduce(struct exec *x, const struct instr *reduce, bool first)
{
    struct instr now = *reduce;
    const struct instr *in = &now;
    now.add = instr_add(reduce, first);
    const struct flat *f = &x->program->layout.flat[in->flat];
    const int n = f->n_ranks;
    const enum dtype t = gradient_type(x);
    struct comm_rows r = { x->scratch, x->scratch + n, x->scratch + 2 * n, x->scratch + 3 * n };
    int64_t most = 0, begin, end;
    if (!in->spread && comm_can_look(x->replica[in->flat])) {
        reduce_from_peers(x, in);
        return;
    }
    for (int m = 0; m < n; m++) {
        range_of(f, in, m, &begin, &end);
        most = end - begin > most ? end - begin : most;
    }
    range_of(f, in, f->index, &begin, &end);
    for (int64_t at = 0; at < most; at += in->n) {
        const int64_t mine = plan_block(f, in, at, &r);
        comm_exchange(x->replica[in->flat], exec_at(x, element(in->ref[0], in->first, t)),
                      exec_at(x, in->ref[1]), &r, (int64_t)num_dtype_bytes(t));
        x->device->sum(&(struct device_sum){
            .parts = exec_at(x, in->ref[1]),
            .out = exec_at(x, in->spread ? in->ref[1] : element(in->ref[2], begin + at, t)),
            .type = t,
            .n_parts = n,
            .stride = in->n,
            .n = mine,
            .add = in->add && !in->spread });
        if (in->spread)
            pass_on(x, in, at, &r);
    }
}

/* Both ends own the same range, and each adds first what the first stage has. */
void collect_ends(struct exec *x, const struct instr *in)
{
    const enum dtype t = gradient_type(x);
    int64_t begin, end, rows[2], from[2], to[2] = { 0, in->n };
    owned_of(&x->program->layout.flat[in->flat], in, x->program->layout.flat[in->flat].index, &begin, &end);
    for (int64_t at = begin; at < end; at += in->n) {
        char *const here = exec_at(x, element(in->ref[0], at, t));
        rows[0] = rows[1] = clamp(end - at, 0, in->n);
        from[0] = from[1] = 0;
        comm_exchange(x->both_ends, here, exec_at(x, in->ref[1]), &(struct comm_rows){ rows, from, rows, to },
                      (int64_t)num_dtype_bytes(t));
        x->device->sum(&(struct device_sum){ .parts = exec_at(x, in->ref[1]),
                                             .out = here,
                                             .type = t,
                                             .n_parts = 2,
                                             .stride = in->n,
                                             .n = rows[0] });
    }
}

/* The n + 1 boundaries in bytes of consecutive ranges, as far as they lie in elements [first, first + n_elements). */
static const int64_t *boundaries(struct exec *x, const int64_t *cut, int step, int n, int64_t first,
                                 int64_t n_elements, enum dtype t)
{
    for (int m = 0; m <= n; m++)
        x->scratch[m] = clamp(cut[m * step] - first, 0, n_elements) * (int64_t)num_dtype_bytes(t);
    return x->scratch;
}

void collect_mirror(struct exec *x, const struct instr *in)
{
    const struct flat *f = &x->program->layout.flat[in->flat];
    const int n = f->n_ranks / f->n_shards, shard = f->index % f->n_shards;
    comm_gather_ranges(x->mirror[in->flat], exec_at(x, in->ref[0]),
                       boundaries(x, f->cut + shard * n, 1, n, 0, f->n_elements, gradient_type(x)));
}

void collect_gather(struct exec *x, const struct instr *in)
{
    const struct flat *f = &x->program->layout.flat[in->flat];
    const enum dtype t = plan_float(&x->program->plan);
    const int64_t *cut = boundaries(x, f->cut, f->n_ranks / f->n_shards, f->n_shards, in->first,
                                    in->n_elements, t),
                  own = f->index % f->n_shards, bytes = cut[own + 1] - cut[own];
    struct ref from = element(in->ref[0], in->first, t), to = element(in->ref[1], in->first, t);
    char *all = exec_at(x, to);
    from.at_bytes += cut[own];
    if (bytes > 0 && in->ref[0].buffer != in->ref[1].buffer)
        x->device->copy(all + cut[own], exec_at(x, from), (size_t)bytes);
    comm_gather_ranges(x->shard[in->flat], all, cut);
}

/* Sums the chunks in their order; the same double on every rank, whatever the layout. */
bool collect_norm(struct exec *x, const struct instr *in)
{
    double *sums = x->norm_sums, total = 0;
    const struct step_control *s = &x->control;
    exec_get(x, sums, in->ref[0], in->n * (int64_t)sizeof *sums);
    comm_sum_doubles(sums, in->n);
    x->bad_chunk = -1;
    for (int64_t i = 0; i < in->n; i++) {
        if (!isfinite(sums[i]) && x->bad_chunk < 0)
            x->bad_chunk = i;
        total += sums[i];
    }
    x->grad_norm = sqrt(total);
    const double factor = s->clip > 0 ? s->clip / (x->grad_norm + 1e-6) : 1;
    const float control[6] = { (float)s->lr,
                               (float)(factor < 1 ? factor : 1),
                               (float)(1 - pow(s->beta1, (double)s->step)),
                               (float)(1 - pow(s->beta2, (double)s->step)),
                               (float)s->step,
                               (float)(s->seed & 0xffffff) /* what a float32 holds */ };
    exec_put(x, in->ref[1], control, sizeof control);
    return x->bad_chunk < 0 && !x->refuse;
}
