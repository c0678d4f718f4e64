/* What the annotations promise: a call cut in two along any splittable dimension and joined again is the whole
 * call, forward and backward. And what the rows of experts promise: tiles of fixed height make a row's bits
 * independent of its neighbours. */
#include "base/num.h"
#include "tests/opcall.h"
enum { MAX_AXES = 12 };

/* A part of a call: its dimensions, and where they begin in the whole. */
struct part {
    struct opcall t;
    int64_t offset[OP_DIMS];
};

/* Axes of an argument or its gradient as letters; -1 = the parts of a gradient. */
static int axes_of(const struct opcall *t, int arg, bool gradient, int *letter)
{
    int n = 0;
    if (gradient && opcall_grad_parts(t, arg) > 1)
        letter[n++] = -1;
    for (int k = 0; k < t->a.arg[arg].n_dims; k++) {
        const struct anno_dim d = t->a.arg[arg].dim[k];
        if (d.letter >= 0)
            letter[n++] = d.letter;
        if (d.factor >= 0)
            letter[n++] = d.factor;
    }
    return n;
}

static int64_t extent(const struct opcall *t, int arg, int letter)
{
    return letter < 0 ? opcall_grad_parts(t, arg) : t->cpu.dim[letter];
}

/* Index in the whole of element i of the part. */
static int64_t in_whole(const struct part *p, const struct opcall *whole, int arg, bool gradient, int64_t i)
{
    int letter[MAX_AXES];
    const int n = axes_of(whole, arg, gradient, letter);
    int64_t at = 0, step = 1;
    for (int k = n - 1; k >= 0; k--) {
        const int64_t mine = extent(&p->t, arg, letter[k]), from = letter[k] < 0 ? 0 : p->offset[letter[k]];
        at += (i % mine + from) * step;
        i /= mine;
        step *= extent(whole, arg, letter[k]);
    }
    return at;
}

static bool has_letter(const struct opcall *t, int arg, int l)
{
    for (int k = 0; k < t->a.arg[arg].n_dims; k++) {
        const struct anno_dim d = t->a.arg[arg].dim[k];
        if (d.letter == l || d.rows_of == l)
            return true;
    }
    return false;
}

/* The letter whose rows l sorts, as r in r(e), or -1. */
static int rows_letter(const struct opcall *t, int l)
{
    for (int i = 0; i < t->a.n_args; i++)
        for (int k = 0; k < t->a.arg[i].n_dims; k++)
            if (t->a.arg[i].dim[k].rows_of == l)
                return t->a.arg[i].dim[k].letter;
    return -1;
}

static bool is_rows(const struct opcall *t, int l)
{
    for (int other = 0; other < t->a.n_letters; other++)
        if (rows_letter(t, other) == l)
            return true;
    return false;
}

/* First row of the segments of e, rounded to the tile. */
static int64_t row_of(const struct opcall *t, int64_t e)
{
    const int end = opcall_arg(t, "end");
    const int64_t tile = (int64_t)opcall_attr(t, "tile", 1);
    const int64_t sources = t->n[end] / t->cpu.dim[t->a.arg[end].dim[0].letter];
    if (e == 0)
        return 0;
    return (((const int32_t *)t->cpu.arg[end])[e * sources - 1] + tile - 1) / tile * tile;
}

static void take_slice(struct part *p, const struct opcall *whole, int arg, bool gradient)
{
    const enum dtype d = opcall_dtype(whole, arg, false);
    void *to = gradient ? p->t.cpu.grad[arg] : p->t.cpu.arg[arg];
    const void *from = gradient ? whole->cpu.grad[arg] : whole->cpu.arg[arg];
    const size_t each = num_dtype_bytes(d);
    for (int64_t i = 0; i < (gradient ? p->t.n_grad[arg] : p->t.n[arg]); i++)
        memcpy((char *)to + (size_t)i * each,
               (const char *)from + (size_t)in_whole(p, whole, arg, gradient, i) * each, each);
}

/* The part [from, to) of letter l. */
static struct part part_of(const struct opcall *whole, int l, int64_t from, int64_t to)
{
    const int rows = rows_letter(whole, l), end = opcall_arg(whole, "end");
    struct op_case k;
    struct part p = { .offset = { 0 } };
    memcpy(k.dim, whole->cpu.dim, sizeof k.dim);
    memcpy(k.attr, whole->cpu.attr, sizeof k.attr);
    k.dim[l] = to - from;
    p.offset[l] = from;
    for (int i = 0; i < whole->a.n_attrs; i++) /* op.h: first */
        if (strcmp(whole->a.attr[i], "first") == 0 && whole->a.kind[l] == DIM_REDUCE)
            k.attr[i] += (double)from;
    if (rows >= 0) {
        p.offset[rows] = row_of(whole, from);
        k.dim[rows] = (to == whole->cpu.dim[l] ? whole->cpu.dim[rows] : row_of(whole, to)) - p.offset[rows];
    }
    p.t = opcall_begin(whole->op, &k, whole->arena);
    opcall_allocate(&p.t);
    for (int i = 0; i < whole->a.n_inputs; i++)
        take_slice(&p, whole, i, false);
    for (int i = 0; i < whole->a.n_args; i++)
        if (whole->of >> i & 1)
            take_slice(&p, whole, i, true);
    for (int64_t i = 0; rows >= 0 && i < p.t.n[end]; i++)
        ((int32_t *)p.t.cpu.arg[end])[i] -= (int32_t)p.offset[rows];
    return p;
}

/* joined (float64, of the whole) takes up a result of a part: its place, or its share of a sum. */
static void join(double *joined, const struct part *p, const struct opcall *whole, int arg, bool gradient,
                 int l)
{
    const enum dtype d = opcall_dtype(whole, arg, false);
    const void *from = gradient ? p->t.cpu.grad[arg] : p->t.cpu.arg[arg];
    for (int64_t i = 0; i < (gradient ? p->t.n_grad[arg] : p->t.n[arg]); i++) {
        double *to = joined + in_whole(p, whole, arg, gradient, i);
        *to = element(from, i, d) + (has_letter(whole, arg, l) ? 0 : *to);
    }
}

/* A by-product may lack a letter that is split (the logits of a chunk); it cannot be compared. */
static bool joins(const struct opcall *t, int arg, int l)
{
    const bool joined = has_letter(t, arg, l) || t->a.kind[l] == DIM_REDUCE;
    EXPECTF(joined || (t->of && !(t->of >> arg & 1)), "%s: %s may be split, but %s lacks it", t->op->name,
            t->a.letter[l], t->a.arg[arg].name);
    return joined;
}

/* Runs a part. Outputs are taken before backward writes over some. */
static void run_part(struct part *p, const struct opcall *whole, double **joined, int l)
{
    opcall_fwd(&p->t);
    for (int i = whole->a.n_inputs; i < whole->a.n_args; i++)
        if (joins(whole, i, l))
            join(joined[i], p, whole, i, false, l);
    opcall_bwd(&p->t);
    for (int i = 0; i < whole->a.n_inputs; i++)
        if (whole->by >> i & 1)
            join(joined[i] + whole->n[i], p, whole, i, true, l);
}

static void check_letter(struct opcall *t, int l, int64_t middle)
{
    const size_t mark = arena_mark(t->arena);
    double *joined[OP_ARGS];
    char what[64];
    struct part half[2] = { part_of(t, l, 0, middle), part_of(t, l, middle, t->cpu.dim[l]) };
    snprintf(what, sizeof what, "cut of %s, joined", t->a.letter[l]);
    for (int i = 0; i < OP_ARGS; i++)
        joined[i] = ARENA_NEW(t->arena, double, i < t->a.n_args ? t->n[i] + t->n_grad[i] : 0);
    for (int h = 0; h < 2; h++)
        run_part(&half[h], t, joined, l);
    for (int i = 0; i < t->a.n_args; i++)
        if (i >= t->a.n_inputs && joins(t, i, l) && t->a.arg[i].dtype != I32)
            opcall_compare(t, i, joined[i], F64, t->exact.arg[i], t->n[i], what);
        else if (i < t->a.n_inputs && t->by >> i & 1)
            opcall_compare(t, i, joined[i] + t->n[i], F64, t->exact.grad[i], t->n_grad[i], what);
        else if (i >= t->a.n_inputs && joins(t, i, l))
            for (int64_t j = 0; j < t->n[i]; j++)
                EXPECTF(joined[i][j] == ((const int32_t *)t->exact.arg[i])[j], "%s: %s", t->op->name, what);
    arena_reset(t->arena, mark);
}

/* An operator that keeps a partial sum for backward could not be split that way. */
static void check_saved_sums(const struct opcall *t, int l)
{
    for (int i = t->a.n_inputs; i < t->a.n_args; i++)
        EXPECTF(t->a.kind[l] != DIM_REDUCE || has_letter(t, i, l) || !(t->a.saved >> i & 1),
                "%s: %s is a partial sum over %s, and saved", t->op->name, t->a.arg[i].name, t->a.letter[l]);
}

/* Rows sorted without `end` (sort, dispatch, combine) are judged by the chain of the three. */
static bool cuttable(const struct opcall *t, int l)
{
    const bool rows = rows_letter(t, l) >= 0;
    return t->a.kind[l] != DIM_WHOLE && !is_rows(t, l) &&
           (!rows || (opcall_arg(t, "end") >= 0 && !t->a.arg[opcall_arg(t, "end")].output));
}

static int n_cuts;

static void check_cuts(struct opcall *t, uint64_t seed)
{
    opcall_exact(t);
    for (int l = 0; l < t->a.n_letters; l++) {
        if (!cuttable(t, l))
            continue;
        EXPECTF(t->a.letter_attr[l] < 0, "%s: %s can be split, but an attribute fixes it", t->op->name,
                t->a.letter[l]);
        check_saved_sums(t, l);
        if (t->cpu.dim[l] < 2)
            continue;
        check_letter(t, l, 1 + (int64_t)(rng_u64(seed, 5, (uint64_t)l) % (uint64_t)(t->cpu.dim[l] - 1)));
        n_cuts++;
    }
}

TEST(halves_join_to_the_whole)
{
    pool_start(2);
    opcall_for_all(check_cuts);
    EXPECTF(n_cuts > 50, "only %d cuts were tried", n_cuts);
}

/* sort, dispatch, each row doubled and times its gate, combine; forward, and backward of dy. */
struct chain {
    int64_t n, d, k, e;
    const int32_t *top;
    const float *x, *gate, *dy;
    float *y, *dx, *dgate;
};

/* z = 2 g x; then dz becomes dx = 2 g dz, and dg = 2 <x, dz> */
static void chain_middle(const struct chain *h, int64_t r, const float *x, const float *g, float *z)
{
    for (int64_t i = 0; i < r * h->d; i++)
        z[i] = 2 * g[i / h->d] * x[i];
}

static void chain_middle_bwd(const struct chain *h, int64_t r, const float *x, const float *g, float *dz,
                             float *dg)
{
    for (int64_t i = 0; i < r; i++)
        dg[i] = 2 * dot(x + i * h->d, dz + i * h->d, h->d);
    chain_middle(h, r, dz, g, dz);
}

static void run_chain(const struct chain *h, struct arena *a)
{
    const int64_t r = h->n * h->k + h->e * 8, nk = h->n * h->k;
    int32_t *row = ARENA_NEW(a, int32_t, r), *place = ARENA_NEW(a, int32_t, nk),
            *end = ARENA_NEW(a, int32_t, h->e);
    float *xs = ARENA_NEW(a, float, r * h->d), *z = ARENA_NEW(a, float, r * h->d),
          *dz = ARENA_NEW(a, float, r * h->d), *g = ARENA_NEW(a, float, r), *dg = ARENA_NEW(a, float, r);
    struct call sort = { .arg = { (void *)h->top, row, place, end },
                         .dim = { h->n, h->k, r, h->e, 1 },
                         .attr = { (double)r, (double)h->e, 1, 8 } };
    struct call dispatch = { .arg = { (void *)h->x, (void *)h->gate, row, place, xs, g },
                             .grad = { h->dx, h->dgate, 0, 0, dz, dg },
                             .dim = { h->n, h->d, h->k, r } };
    struct call combine = { .arg = { z, row, place, h->y },
                            .grad = { dz, 0, 0, (void *)h->dy },
                            .dim = { r, h->n, h->d, h->k } };
    registry_find("sort")->fwd[CPU](&sort);
    registry_find("dispatch")->fwd[CPU](&dispatch);
    chain_middle(h, r, xs, g, z);
    registry_find("combine")->fwd[CPU](&combine);
    registry_find("combine")->bwd[CPU](&combine);
    chain_middle_bwd(h, r, xs, g, dz, dg);
    registry_find("dispatch")->bwd[CPU](&dispatch);
}

static float *random_floats(struct arena *a, int64_t n, uint64_t stream)
{
    float *x = ARENA_NEW(a, float, n);
    for (int64_t i = 0; i < n; i++)
        x[i] = (float)rng_normal(opcall_seed(), stream, (uint64_t)i);
    return x;
}

/* Tokens [from, from + n) of a chain. */
static struct chain tokens(const struct chain *h, int64_t from, int64_t n)
{
    const int64_t d = from * h->d, k = from * h->k;
    return (struct chain){ n,           h->d,      h->k,     h->e,      h->top + k,  h->x + d,
                           h->gate + k, h->dy + d, h->y + d, h->dx + d, h->dgate + k };
}

TEST(rows_of_tokens_come_back)
{
    enum { N = 60, D = 37, K = 3, E = 5 };
    struct arena *a = arena_new("chain");
    int32_t *top = ARENA_NEW(a, int32_t, N * K);
    for (int64_t i = 0; i < N * K; i++)
        top[i] = (int32_t)((i % K + (int64_t)(rng_u64(opcall_seed(), 1, (uint64_t)(i / K)) % E)) % E);
    struct chain whole = { N,
                           D,
                           K,
                           E,
                           top,
                           random_floats(a, N * D, 2),
                           random_floats(a, N * K, 3),
                           random_floats(a, N * D, 4),
                           0,
                           0,
                           0 },
                 halves = whole;
    for (int i = 0; i < 2; i++) {
        struct chain *h = i ? &halves : &whole;
        h->y = ARENA_NEW(a, float, N *D);
        h->dx = ARENA_NEW(a, float, N *D);
        h->dgate = ARENA_NEW(a, float, N *K);
    }
    const struct chain first = tokens(&halves, 0, 23), second = tokens(&halves, 23, N - 23);
    run_chain(&whole, a);
    run_chain(&first, a);
    run_chain(&second, a);
    EXPECT(same_bytes(whole.y, halves.y, N * D * sizeof(float)));
    EXPECT(same_bytes(whole.dx, halves.dx, N * D * sizeof(float)));
    EXPECT(same_bytes(whole.dgate, halves.dgate, N * K * sizeof(float)));
    for (int64_t i = 0; i < N * D; i++) { /* and they are what the formula says */
        float gates = 0;
        for (int64_t j = 0; j < K; j++)
            gates += whole.gate[i / D * K + j];
        EXPECT(fabsf(whole.y[i] - 2 * gates * whole.x[i]) < 1e-5f);
        EXPECT(fabsf(whole.dx[i] - 2 * gates * whole.dy[i]) < 1e-5f);
    }
    arena_free(a);
}

/* A reproducible call of two experts with two sources each. */
static struct opcall experts_call(struct arena *a, const int32_t *end, int64_t r, int64_t parts)
{
    const struct op_case k = { { r, 2, 37, 2, 2, 21 }, { 8, (double)parts } };
    struct opcall t = opcall_new(registry_find("experts"), &k, a, opcall_seed());
    memcpy(t.cpu.arg[opcall_arg(&t, "end")], end, 4 * sizeof *end);
    return t;
}

/* Row i of argument `arg` of u = row j of that of t. */
static void copy_row(struct opcall *u, int64_t i, const struct opcall *t, int64_t j, int arg, bool gradient)
{
    const int64_t width = t->n[arg] / t->cpu.dim[0];
    const float *from = gradient ? t->cpu.grad[arg] : t->cpu.arg[arg];
    float *to = gradient ? u->cpu.grad[arg] : u->cpu.arg[arg];
    memcpy(to + i * width, from + j * width, (size_t)width * sizeof *to);
}

/* Row i of every input made of rows. */
static void copy_inputs(struct opcall *u, int64_t i, const struct opcall *t, int64_t j)
{
    for (int k = 0; k < t->a.n_inputs; k++)
        if (t->a.arg[k].dim[0].rows_of >= 0)
            copy_row(u, i, t, j, k, false);
}

static void expect_row(struct opcall *u, int64_t i, const struct opcall *t, int64_t j, int arg, bool gradient)
{
    const int64_t width = t->n[arg] / t->cpu.dim[0];
    const float *want = gradient ? t->cpu.grad[arg] : t->cpu.arg[arg];
    const float *got = gradient ? u->cpu.grad[arg] : u->cpu.arg[arg];
    EXPECTF(same_bytes(got + i * width, want + j * width, (size_t)width * sizeof *got),
            "%s: row %lld of %s%s depends on its neighbours", t->op->name, (long long)i,
            gradient ? "the gradient of " : "", t->a.arg[arg].name);
}

static const char *const expert_weights[] = { "w_up", "w_down" };

/* The 13 rows of the first segment are, in u, scattered over a longer one. */
static void check_neighbours(struct arena *a)
{
    const int32_t short_end[] = { 13, 21, 40, 43 }, long_end[] = { 30, 32, 61, 64 };
    struct opcall t = experts_call(a, short_end, 48, 1), u = experts_call(a, long_end, 64, 1);
    const int z = opcall_arg(&t, "z"), xs = opcall_arg(&t, "xs"), gate = opcall_arg(&t, "gate");
    int64_t row[13];
    for (int64_t i = 0; i < 13; i++) {
        row[i] = 5 + i * 7 % 25;
        copy_inputs(&u, row[i], &t, i);
        copy_row(&u, row[i], &t, i, z, true);
    }
    opcall_cpu(&t);
    opcall_cpu(&u);
    for (int64_t i = 0; i < 13; i++) {
        expect_row(&u, row[i], &t, i, z, false);
        expect_row(&u, row[i], &t, i, xs, true);
        expect_row(&u, row[i], &t, i, gate, true);
    }
}

/* The rows of one call, done in two calls of fewer rows that add, as in rounds of an exchange. */
static void check_rounds(struct arena *a)
{
    const int32_t end[] = { 13, 21, 40, 43 }, first[] = { 13, 21, 32, 32 }, second[] = { 0, 0, 8, 11 };
    struct opcall t = experts_call(a, end, 48, 1), u = experts_call(a, first, 48, 1);
    struct opcall v = experts_call(a, second, 24, 1);
    for (int64_t i = 0; i < 11; i++) {
        copy_inputs(&v, i, &t, 32 + i);
        copy_row(&v, i, &t, 32 + i, opcall_arg(&t, "z"), true);
    }
    opcall_cpu(&t);
    opcall_cpu(&u);
    for (int i = 0; i < 2; i++) {
        const int w = opcall_arg(&t, expert_weights[i]);
        memcpy(v.cpu.arg[w], t.cpu.arg[w], (size_t)t.n[w] * sizeof(float));
        memcpy(v.cpu.grad[w], u.cpu.grad[w], (size_t)t.n_grad[w] * sizeof(float));
        v.cpu.add |= 1u << w;
    }
    opcall_cpu(&v);
    for (int i = 0; i < 2; i++) {
        const int w = opcall_arg(&t, expert_weights[i]);
        EXPECTF(same_bytes(t.cpu.grad[w], v.cpu.grad[w], (size_t)t.n_grad[w] * sizeof(float)),
                "the gradient of %s depends on the rounds", expert_weights[i]);
    }
}

/* Each source has its own part of the gradient: the bits of a call without the rows of the other source. */
static void check_parts(struct arena *a)
{
    const int32_t end[] = { 13, 21, 40, 43 }, only_first[] = { 13, 16, 32, 32 };
    struct opcall t = experts_call(a, end, 48, 2), u = experts_call(a, only_first, 48, 2);
    for (int64_t i = 16; i < 32; i++) {
        copy_inputs(&u, i, &t, i + 8);
        copy_row(&u, i, &t, i + 8, opcall_arg(&t, "z"), true);
    }
    opcall_cpu(&t);
    opcall_cpu(&u);
    for (int k = 0; k < 2; k++) {
        const int w = opcall_arg(&t, expert_weights[k]);
        const float *two = t.cpu.grad[w], *one = u.cpu.grad[w];
        EXPECTF(same_bytes(two, one, (size_t)t.n[w] * sizeof *two), "%s: part 0 depends on source 1",
                expert_weights[k]);
        for (int64_t i = 0; i < t.n[w]; i++)
            EXPECT(one[t.n[w] + i] == 0 && (i > 0 || two[t.n[w] + i] != 0));
    }
}

TEST(tiles_make_rows_independent)
{
    struct arena *a = arena_new("tiles");
    check_neighbours(a);
    check_rounds(a);
    check_parts(a);
    arena_free(a);
}

/* What backward needs can be made again: the same bits, and nothing else is touched. */
TEST(experts_make_h_again)
{
    const int32_t end[] = { 13, 21, 40, 43 };
    struct arena *a = arena_new("again");
    struct opcall t = experts_call(a, end, 48, 1);
    const int h = opcall_arg(&t, "h"), z = opcall_arg(&t, "z");
    opcall_fwd(&t);
    struct call c = t.cpu;
    c.arg[z] = NULL;
    c.arg[h] = ARENA_NEW(a, float, t.n[h]);
    poison(c.arg[h], t.n[h], F32);
    t.op->saved_again[CPU](&c);
    EXPECT(same_bytes(c.arg[h], t.cpu.arg[h], (size_t)t.n[h] * sizeof(float)));
    arena_free(a);
}
