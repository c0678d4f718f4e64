/* ckpt_codes_test.c - 8-bit moments come back from a checkpoint as the codes and scales that they were, whatever ranges
 * cut their blocks. */
#include "run/moments.h"
#include "tests/ckpt_fixture.h"
enum { N = 2600, PIECES = 3, SHARE = 300 }; /* a matrix; a parameter of three tensors that cut its blocks */
static const int64_t n_elements[] = { N, PIECES *SHARE };

struct
    codes { /* of one moment of one rank's range of a parameter, with blocks from the beginning of `own` on */
    int64_t own, n;
    unsigned char code[N];
    float scale[N / CKPT_BLOCK + 1];
};
struct side { /* what a rank holds: by moment and range */
    struct fixture *f;
    const struct ckpt_holding *h;
    struct codes at[2][2];
};

static float table[2][256];

/* Random values of all sizes; blocks whose largest is negative, that are zero, that are tiny. */
static float value(int which, int param, int64_t i)
{
    const uint64_t block = (uint64_t)i / CKPT_BLOCK, stream = 2 * (uint64_t)param + (uint64_t)which;
    const double x = rng_normal(1, stream, (uint64_t)i) * pow(10, -6 * rng_uniform(2, stream, (uint64_t)i));
    const double size = block % 5 == 1 ? 0 : block % 5 == 2 ? 1e-38 : 1;
    const bool largest = i % CKPT_BLOCK == 77;
    if (which)
        return (float)(x * x * size);
    return (float)((largest && block % 2 ? -9.1 : x) * size);
}

/* As the device does: the largest magnitude is the scale, the lowest code also stands for -1. */
static void encode(struct codes *c, int which, int param)
{
    for (int64_t b = 0; b * CKPT_BLOCK < c->n; b++) {
        float top = 1e-37f;
        const int64_t end = (b + 1) * CKPT_BLOCK < c->n ? (b + 1) * CKPT_BLOCK : c->n;
        for (int64_t i = b * CKPT_BLOCK; i < end; i++)
            top = fmaxf(top, fabsf(value(which, param, c->own + i)));
        c->scale[b] = top;
        for (int64_t i = b * CKPT_BLOCK; i < end; i++) {
            const float x = value(which, param, c->own + i) / top;
            int best = 0;
            for (int k = 1; k < 256; k++)
                best = fabsf(table[which][k] - x) < fabsf(table[which][best] - x) ? k : best;
            c->code[i] = (unsigned char)best;
        }
    }
}

static void read_codes(void *context, enum ckpt_part part, int64_t index, int64_t at, int64_t n,
                       unsigned char *codes)
{
    const struct side *s = context;
    const struct codes *c = &s->at[part == CKPT_EXP_AVG_SQ][index];
    if (codes)
        memcpy(codes, c->code + s->h->states[index].begin - c->own + at, (size_t)n);
}

static void read_scales(void *context, enum ckpt_part part, int64_t index, int64_t at, int64_t n,
                        float *scales)
{
    const struct side *s = context;
    const struct codes *c = &s->at[part == CKPT_EXP_AVG_SQ][index];
    if (scales)
        memcpy(scales, c->scale + (s->h->states[index].begin - c->own) / CKPT_BLOCK + at,
               (size_t)n * sizeof *scales);
}

static const float *read_weights(void *context, enum ckpt_part part, int64_t index, int64_t at, int64_t n,
                                 float *room)
{
    const struct side *s = context;
    const struct ckpt_range *r = part == CKPT_WEIGHT ? &s->h->weights[index] : &s->h->states[index];
    (void)n, (void)room;
    return s->f->weight[r->param] + r->begin + at;
}

static void two_params(struct fixture *f)
{
    struct piece *p = ARENA_NEW(f->arena, struct piece, PIECES);
    f->params.n = 0;
    add_matrix(f, "a", N / 10, 10);
    for (int i = 0; i < PIECES; i++)
        p[i] = (struct piece){ .tensor = arena_printf(f->arena, "b.%d", i),
                               .n_dims = 1,
                               .shape = { SHARE },
                               .offset = (int64_t)i * SHARE,
                               .n_elements = SHARE };
    add_param(f, "b", PIECES, p);
    for (int i = 0; i < 2; i++) {
        f->stored[i] = BF16;
        f->weight[i] = ARENA_NEW(f->arena, float, n_elements[i]);
        for (int64_t k = 0; k < n_elements[i]; k++)
            f->weight[i][k] = (float)k;
    }
}

/* Ranks that own [cut[r], cut[r + 1]) per thousand of every parameter; `late`: they save it from 40 elements on, and
 * the rank before saves those, as mirrors do. */
static void make_sides(struct fixture *f, int n_ranks, const int *cut, int late, struct side *side)
{
    struct ckpt_holding *h = ARENA_NEW(f->arena, struct ckpt_holding, n_ranks);
    for (int r = 0; r < n_ranks; r++) {
        h[r].weights = ARENA_NEW(f->arena, struct ckpt_range, 2);
        h[r].states = ARENA_NEW(f->arena, struct ckpt_range, 2);
        side[r] = (struct side){ .f = f, .h = &h[r] };
        for (int i = 0; i < 2; i++) {
            const int64_t n = n_elements[i], begin = n * cut[r] / 1000, end = n * cut[r + 1] / 1000;
            const int64_t first = begin + (r ? late : 0), last = end + (r + 1 < n_ranks ? late : 0);
            h[r].weights[h[r].n_weights++] = (struct ckpt_range){ i, 0, n, 0 };
            if (first >= last)
                continue;
            for (int which = 0; which < 2; which++) {
                struct codes *c = &side[r].at[which][h[r].n_states];
                *c = (struct codes){ .own = begin, .n = last - begin };
                encode(c, which, i);
            }
            h[r].states[h[r].n_states++] =
                (struct ckpt_range){ i, first, last, (int)((first - begin) % CKPT_BLOCK) };
        }
    }
}

static const char *save_sides(struct fixture *f, const char *name, int n_ranks, struct side *side)
{
    struct err e = { 0 };
    const char *dir = in_test_dir(f->arena, name);
    struct ckpt_job job = job_of(f, dir, "{\"step\": 7}", n_ranks, side[0].h, 4000);
    job.read = read_weights;
    job.read_codes = read_codes;
    job.read_scales = read_scales;
    job.n_threads = 3;
    job.piece_bytes = n_ranks % 2 ? 0 : 100;
    EXPECT(ckpt_begin(&job, &e));
    for (int r = 0; r < n_ranks; r++) {
        job.context = &side[r];
        ckpt_visit(&job, r);
        EXPECTF(ckpt_write(&job, r, &e), "%s", e.text);
    }
    for (int r = 0; r < n_ranks; r++)
        EXPECTF(ckpt_seal(&job, r, &e), "%s", e.text);
    EXPECTF(ckpt_publish(&job, 0, &e), "%s", e.text);
    EXPECTF(verifies(dir), "%s", problems);
    return dir;
}

/* What a rank owns comes back bit by bit; `late` elements at its end belong to blocks that were not saved whole. */
static void expect_codes(const struct fixture *f, const struct ckpt *c, const struct codes *want, int which,
                         int param)
{
    struct err e = { 0 };
    static unsigned char code[N];
    static float scale[N / CKPT_BLOCK + 1];
    EXPECTF(ckpt_read_codes(c, &f->params.item[param], f->order ? &f->order[param] : NULL, want->own,
                            want->own + want->n, which ? CKPT_EXP_AVG_SQ : CKPT_EXP_AVG, code, scale, &e),
            "%s", e.text);
    EXPECT(!memcmp(code, want->code, (size_t)want->n));
    EXPECT(!memcmp(scale, want->scale, (size_t)((want->n + CKPT_BLOCK - 1) / CKPT_BLOCK) * sizeof *scale));
}

static void expect_floats(const struct fixture *f, const struct ckpt *c, const struct side *side, int n_ranks)
{
    struct err e = { 0 };
    static float x[2][N];
    for (int r = 0; r < n_ranks; r++)
        for (int i = 0; i < side[r].h->n_states; i++) {
            const struct ckpt_range *range = &side[r].h->states[i];
            EXPECTF(ckpt_read_state(c, &f->params.item[i], 0, n_elements[i], NULL, x[0], x[1], &e), "%s",
                    e.text);
            int64_t wrong = 0;
            const float *held[2] = { in_held_order(f, i, x[0]), in_held_order(f, i, x[1]) };
            for (int which = 0; which < 2; which++)
                for (int64_t k = range->begin; k < range->end; k++) {
                    const struct codes *w = &side[r].at[which][i];
                    wrong += held[which][k] !=
                             table[which][w->code[k - w->own]] * w->scale[(k - w->own) / CKPT_BLOCK];
                }
            EXPECT_INT(wrong, 0);
        }
}

static void tables(void)
{
    moments_values(true, table[0]);
    moments_values(false, table[1]);
}

TEST(codes_come_back_on_the_same_layout)
{
    static const int cuts[][5] = { { 0, 1000 }, { 0, 500, 1000 }, { 0, 333, 334, 1000 }, { 0, 0, 1000 } };
    static const int ranks[] = { 1, 2, 3, 2 };
    static const struct ckpt_order sliced[] = { { 2, 5 }, { 2, 50 } };
    tables();
    for (int layout = 0; layout < 8; layout++) /* 4 to 7: in slices */
        for (int late = 0; late < 2 && (late == 0 || layout % 4 == 1); late++) {
            const int *cut = cuts[layout % 4], n_ranks = ranks[layout % 4];
            struct fixture f;
            static struct side side[4];
            struct err e = { 0 };
            fixture_new(&f, BF16);
            two_params(&f);
            f.order = layout >= 4 ? (struct ckpt_order *)sliced : NULL;
            make_sides(&f, n_ranks, cut, 40 * late, side);
            const char *dir = save_sides(&f, arena_printf(f.arena, "c%d%d", layout, late), n_ranks, side);
            const char *merged = in_test_dir(f.arena, arena_printf(f.arena, "m%d%d", layout, late));
            EXPECTF(ckpt_merge(dir, merged, 1 << 20, &e) && verifies(merged), "%s %s", e.text, problems);
            for (int k = 0; k < 2; k++) {
                struct ckpt *c = ckpt_open(f.arena, k ? merged : dir, &e);
                EXPECTF(c && ckpt_match(c, &f.params, &e) && ckpt_has_codes(c), "%s", e.text);
                ckpt_set_values(c, table[0], table[1]);
                for (int r = 0; r < n_ranks && !late; r++)
                    for (int i = 0; i < 2 * side[r].h->n_states; i++)
                        expect_codes(&f, c, &side[r].at[i % 2][i / 2], i % 2, i / 2);
                expect_floats(&f, c, side, n_ranks);
                ckpt_close(c);
            }
            arena_free(f.arena);
        }
}

/* Other blocks: those whose elements had one scale keep codes and scale, the others say so. */
TEST(other_blocks_are_told)
{
    struct fixture f;
    static struct side side[2];
    struct err e = { 0 };
    static unsigned char code[N];
    static float scale[N / CKPT_BLOCK + 1];
    tables();
    fixture_new(&f, BF16);
    two_params(&f);
    make_sides(&f, 2, (const int[]){ 0, 500, 1000 }, 0, side); /* a is cut at 1300 = 5 * 256 + 20 */
    struct ckpt *c = ckpt_open(f.arena, save_sides(&f, "other", 2, side), &e);
    EXPECTF(c && ckpt_read_codes(c, &f.params.item[0], NULL, 0, N, CKPT_EXP_AVG, code, scale, &e), "%s",
            e.text);
    for (int b = 0; b < 5; b++)
        EXPECT(scale[b] == side[0].at[0][0].scale[b]);
    EXPECT(scale[5] == -1 && !memcmp(code, side[0].at[0][0].code, 5 * CKPT_BLOCK));
    EXPECT(ckpt_read_codes(c, &f.params.item[0], NULL, 1310, 1310 + 100, CKPT_EXP_AVG, code, scale, &e));
    EXPECT(scale[0] == side[1].at[0][0].scale[0] && !memcmp(code, side[1].at[0][0].code + 10, 100));
    ckpt_close(c);
    arena_free(f.arena);
}

/* A scale that is not finite stops the save, and is found in a file. */
TEST(bad_scales_are_errors)
{
    struct fixture f;
    static struct side side[1];
    struct err e = { 0 };
    size_t bytes;
    tables();
    fixture_new(&f, BF16);
    two_params(&f);
    make_sides(&f, 1, (const int[]){ 0, 1000 }, 0, side);
    const char *dir = save_sides(&f, "scale", 1, side),
               *path = path_in(f.arena, dir, optimizer_file(f.arena, 0, 1));
    unsigned char first[sizeof(float)];
    memcpy(first, &side[0].at[0][0].scale[0], sizeof first);
    unsigned char *file = (unsigned char *)file_read(f.arena, path, 1 << 24, &bytes, &e), *found = NULL;
    for (size_t i = 0; file && i + sizeof(float) <= bytes && !found; i++)
        if (!memcmp(file + i, first, sizeof first))
            found = file + i;
    EXPECT(found);
    if (found)
        memcpy(found, &(float){ -1 }, sizeof(float));
    EXPECT(found && file_write(path, file, bytes, &e));
    struct ckpt *c = ckpt_open(f.arena, dir, &e);
    unsigned char code[N];
    float scale[N / CKPT_BLOCK + 1];
    EXPECT(c && !ckpt_read_codes(c, &f.params.item[0], NULL, 0, N, CKPT_EXP_AVG, code, scale, &e) &&
           strstr(e.text, "a.exp_avg[0:2600]: the float of the block of element 0 is -1"));
    ckpt_close(c);
    side[0].at[1][1].scale[2] = INFINITY;
    struct ckpt_job job = job_of(&f, dir, "{}", 1, side[0].h, 4000);
    job.read = read_weights;
    job.read_codes = read_codes;
    job.read_scales = read_scales;
    job.context = &side[0];
    e = (struct err){ 0 };
    EXPECTF(ckpt_begin(&job, &e) && !ckpt_write(&job, 0, &e) && e.code == EXIT_NONFINITE &&
                strstr(e.text, "tensor b.1.exp_avg_sq[0:300:44]: the float of block 1 is inf"),
            "%d: %s", e.code, e.text);
    arena_free(f.arena);
}
