/* ckpt_fixture.h - a small model with every kind of parameter, and ranks that hold it in many layouts, all in
 * one process. Values are a pure function of (seed, parameter, element), so that a checkpoint tells its step. */
#pragma once
#include "base/file.h"
#include "base/hash.h"
#include "base/rng.h"
#include "ckpt/ckpt_impl.h"
#include "tests/test.h"
#include <stdlib.h>
enum { E = 4, D = 6, F = 5, V = 23, KV = 7, KR = 3, N_PARAMS = 8, MAX_RANKS = 8 };
struct fixture {
    struct arena *arena;
    struct param_list params;
    enum dtype stored[N_PARAMS];
    struct ckpt_order *order; /* of what is saved from now on; NULL = all as they are */
    float *weight[N_PARAMS], *exp_avg[N_PARAMS], *exp_avg_sq[N_PARAMS]; /* the whole parameters */
    const char *model_dir;
    size_t piece_bytes; /* of what is saved from now on, as in struct ckpt_job */
    int n_threads;
};

static inline struct piece *one_piece(struct arena *a, const char *tensor, int n_dims, const int64_t *shape,
                                      int64_t at, int64_t n)
{
    struct piece *p = ARENA_NEW(a, struct piece, 1);
    *p = (struct piece){ .tensor = tensor, .n_dims = n_dims, .at = at, .n_elements = n };
    for (int i = 0; i < n_dims; i++)
        p->shape[i] = shape[i];
    return p;
}

static inline void add_param(struct fixture *f, const char *name, int n_pieces, struct piece *piece)
{
    struct param *p = &f->params.item[f->params.n++];
    *p = (struct param){ .name = name, .n_pieces = n_pieces, .piece = piece };
    for (int i = 0; i < n_pieces; i++)
        p->n_elements += piece[i].n_elements;
    p->n_dims = 1;
    p->shape[0] = p->n_elements;
}

static inline void add_matrix(struct fixture *f, const char *tensor, int64_t rows, int64_t columns)
{
    add_param(f, tensor, 1,
              one_piece(f->arena, tensor, 2, (const int64_t[]){ rows, columns }, 0, rows * columns));
}

/* All experts in one parameter, as the model does. */
static inline void add_experts(struct fixture *f, const char *name, int n_projections,
                               const char *const *projection, int64_t rows, int64_t columns)
{
    struct piece *p = ARENA_NEW(f->arena, struct piece, E * n_projections);
    for (int i = 0; i < E * n_projections; i++)
        p[i] = (struct piece){ .tensor = arena_printf(f->arena, "model.layers.1.mlp.experts.%d.%s.weight",
                                                      i / n_projections, projection[i % n_projections]),
                               .n_dims = 2,
                               .shape = { rows, columns },
                               .offset = i * rows * columns,
                               .n_elements = rows * columns };
    add_param(f, name, E * n_projections, p);
}

static inline bool is_expert(const struct fixture *f, int param)
{
    return f->params.item[param].n_pieces > 1;
}

static inline void fill(struct fixture *f, uint64_t seed)
{
    for (int i = 0; i < f->params.n; i++)
        for (int64_t k = 0; k < f->params.item[i].n_elements; k++) {
            const uint64_t stream = hash_text(f->params.item[i].name), at = (uint64_t)k;
            f->weight[i][k] = (float)rng_normal(seed, stream, at);
            f->exp_avg[i][k] = (float)rng_normal(seed + 1000000, stream, at);
            f->exp_avg_sq[i][k] = (float)rng_uniform(seed + 2000000, stream, at);
        }
}

static inline void fixture_new(struct fixture *f, enum dtype stored)
{
    struct arena *a = arena_new("fixture");
    struct err e = { 0 };
    *f = (struct fixture){ .arena = a, .params.item = ARENA_NEW(a, struct param, N_PARAMS) };
    const int64_t kv_shape[] = { KV + KR, D }, norm_shape[] = { D };
    add_matrix(f, "model.embed_tokens.weight", V, D);
    add_param(f, "kv_a", 1,
              one_piece(a, "model.layers.0.self_attn.kv_a_proj_with_mqa.weight", 2, kv_shape, 0, KV * D));
    add_param(
        f, "k_r", 1,
        one_piece(a, "model.layers.0.self_attn.kv_a_proj_with_mqa.weight", 2, kv_shape, KV * D, KR * D));
    add_param(f, "model.layers.0.norm.weight", 1,
              one_piece(a, "model.layers.0.norm.weight", 1, norm_shape, 0, D));
    add_experts(f, "gate_up", 2, (const char *const[]){ "gate_proj", "up_proj" }, F, D);
    add_experts(f, "down", 1, (const char *const[]){ "down_proj" }, D, F);
    add_matrix(f, "model.layers.10.o_proj.weight", D, D);
    add_matrix(f, "lm_head.weight", V, D);
    for (int i = 0; i < f->params.n; i++) {
        const int64_t n = f->params.item[i].n_elements;
        f->stored[i] = i == 3 ? F32 : stored; /* the norm is always F32: a mixed directory */
        f->weight[i] = ARENA_NEW(a, float, n);
        f->exp_avg[i] = ARENA_NEW(a, float, n);
        f->exp_avg_sq[i] = ARENA_NEW(a, float, n);
    }
    fill(f, 1);
    f->model_dir = arena_printf(a, "%s/source", test_dir());
    static const char config[] = "{\n  \"model_type\": \"deepseek_v2\",\n  \"x\": {\"torch_dtype\": "
                                 "\"no\"},\n  \"torch_dtype\": \"bfloat16\"\n}\n";
    EXPECT(file_mkdirs(f->model_dir, &e) &&
           file_write(path_in(a, f->model_dir, "config.json"), config, sizeof config - 1, &e) &&
           file_write(path_in(a, f->model_dir, "tokenizer.json"), "{}", 2, &e) &&
           file_write(path_in(a, f->model_dir, "README.md"), "not copied", 10, &e));
}

/* From now on ranks hold `tensor` slices of the three last matrices but one: of every tensor of one parameter of many, of
 * rows, of columns. 1: everything as it is. */
static inline void slice(struct fixture *f, int tensor)
{
    f->order = NULL;
    if (tensor == 1)
        return;
    f->order = ARENA_NEW(f->arena, struct ckpt_order, N_PARAMS);
    f->order[4] = (struct ckpt_order){ tensor, F * D / tensor };
    f->order[6] = (struct ckpt_order){ tensor, D * D / tensor };
    f->order[7] = (struct ckpt_order){ tensor, D / tensor };
}

/* A parameter in the order in which ranks hold it. */
static inline const float *in_held_order(const struct fixture *f, int param, const float *x)
{
    const int64_t n = f->params.item[param].n_elements;
    if (!f->order || f->order[param].slices < 2)
        return x;
    const struct ckpt_order *o = &f->order[param];
    float *held = ARENA_NEW(f->arena, float, n), *to = held;
    for (int64_t s = 0; s < o->slices; s++)
        for (int64_t outer = 0; outer < n / (o->slices * o->run); outer++)
            for (int64_t i = 0; i < o->run; i++)
                *to++ = x[(outer * o->slices + s) * o->run + i];
    return held;
}

static inline struct ckpt_range *add_range(struct ckpt_range *r, int *n, int param, int64_t begin,
                                           int64_t end)
{
    if (begin < end)
        r[(*n)++] = (struct ckpt_range){ param, begin, end, 0 };
    return r;
}

/* Rank r of n: experts are split over `ep` consecutive ranks, what is sliced over as many as there are slices; states
 * over the ranks that hold the same, and weights with them where `sharded`. */
static inline struct ckpt_holding *holdings(struct fixture *f, int n_ranks, int ep, bool zero, bool sharded)
{
    struct ckpt_holding *h = ARENA_NEW(f->arena, struct ckpt_holding, n_ranks);
    for (int r = 0; r < n_ranks; r++) {
        h[r].weights = ARENA_NEW(f->arena, struct ckpt_range, N_PARAMS);
        h[r].states = ARENA_NEW(f->arena, struct ckpt_range, N_PARAMS);
        for (int i = 0; i < f->params.n; i++) {
            const int64_t slices = f->order ? f->order[i].slices : 0;
            const int64_t n = f->params.item[i].n_elements, parts = slices > 1        ? slices
                                                                    : is_expert(f, i) ? ep
                                                                                      : 1;
            const int64_t begin = n * (r % parts) / parts, end = n * (r % parts + 1) / parts,
                          held = end - begin;
            const int64_t members = n_ranks / parts, me = r / parts;
            const int64_t first = begin + held * me / members, last = begin + held * (me + 1) / members;
            add_range(h[r].weights, &h[r].n_weights, i, sharded ? first : begin, sharded ? last : end);
            if (zero)
                add_range(h[r].states, &h[r].n_states, i, first, last);
            else if (me == 0)
                add_range(h[r].states, &h[r].n_states, i, begin, end);
        }
    }
    return h;
}

static inline const float **pointers(struct fixture *f, float *const *from, const struct ckpt_range *r, int n)
{
    const float **p = ARENA_NEW(f->arena, const float *, n + 1);
    for (int i = 0; i < n; i++)
        p[i] = in_held_order(f, r[i].param, from[r[i].param]) + r[i].begin;
    return p;
}

static inline struct ckpt_job job_of(struct fixture *f, const char *directory, const char *train_state,
                                     int n_ranks, const struct ckpt_holding *h, int64_t max_shard_bytes)
{
    return (struct ckpt_job){ .directory = directory,
                              .params = &f->params,
                              .n_ranks = n_ranks,
                              .holding = h,
                              .order = f->order,
                              .stored = f->stored,
                              .model_dir = f->model_dir,
                              .train_state = train_state,
                              .piece_bytes = f->piece_bytes,
                              .n_threads = f->n_threads,
                              .max_shard_bytes = max_shard_bytes };
}

/* The rank's own data. */
/* Ranges lie where they are. */
static inline const float *read_fixture(void *context, enum ckpt_part part, int64_t index, int64_t at,
                                        int64_t n, float *room)
{
    (void)n;
    (void)room;
    return ((const float ***)context)[part][index] + at;
}

static inline struct ckpt_job job_as(struct fixture *f, struct ckpt_job job, int rank)
{
    const struct ckpt_holding *h = &job.holding[rank];
    const float **from[4] = { pointers(f, f->weight, h->weights, h->n_weights),
                              pointers(f, f->exp_avg, h->states, h->n_states),
                              pointers(f, f->exp_avg_sq, h->states, h->n_states),
                              pointers(f, f->weight, h->states, h->n_states) };
    const float ***context = (const float ***)ARENA_NEW(f->arena, void *, 4);
    memcpy(context, from, sizeof from);
    job.read = read_fixture;
    job.context = context;
    return job;
}

/* All ranks one after the other, last first: the order must not matter. */
static inline bool save(struct fixture *f, struct ckpt_job job, int keep_last, struct err *e)
{
    if (!ckpt_begin(&job, e))
        return false;
    for (int r = job.n_ranks - 1; r >= 0; r--) {
        const struct ckpt_job mine = job_as(f, job, r);
        if (!ckpt_write(&mine, r, e))
            return false;
    }
    for (int r = job.n_ranks - 1; r >= 0 && ckpt_has_shared(&job); r--)
        if (!ckpt_seal(&job, r, e))
            return false;
    return ckpt_publish(&job, keep_last, e);
}

static inline float rounded(float x, enum dtype t)
{
    uint32_t bits;
    num_from_float(&bits, &x, t, 1);
    num_to_float(&x, &bits, t, 1);
    return x;
}

/* Reads [begin, end) of every kind of a parameter and compares. */
static inline void expect_range(const struct fixture *f, const struct ckpt *c, int i, int64_t begin,
                                int64_t end)
{
    struct err e = { 0 };
    struct arena *a = arena_new("read");
    const struct param *p = &f->params.item[i];
    const int64_t n = end - begin;
    float *stored = ARENA_NEW(a, float, n), *w = ARENA_NEW(a, float, n), *m = ARENA_NEW(a, float, n),
          *v = ARENA_NEW(a, float, n);
    EXPECTF(ckpt_read_weight(c, p, begin, end, stored, &e) && ckpt_read_state(c, p, begin, end, w, m, v, &e),
            "%s", e.text);
    int64_t wrong = 0;
    for (int64_t k = 0; k < n; k++)
        wrong += stored[k] != rounded(f->weight[i][begin + k], f->stored[i]) ||
                 w[k] != f->weight[i][begin + k] || m[k] != f->exp_avg[i][begin + k] ||
                 v[k] != f->exp_avg_sq[i][begin + k];
    EXPECTF(wrong == 0, "%s [%lld, %lld): %lld elements differ", p->name, (long long)begin, (long long)end,
            (long long)wrong);
    arena_free(a);
}

static inline void expect_all(const struct fixture *f, const char *dir)
{
    struct err e = { 0 };
    struct arena *a = arena_new("open");
    struct ckpt *c = ckpt_open(a, dir, &e);
    EXPECTF(c && ckpt_match(c, &f->params, &e), "%s", e.text);
    for (int i = 0; c && !e.text[0] && i < f->params.n; i++) {
        const int64_t n = f->params.item[i].n_elements;
        expect_range(f, c, i, 0, n);
        for (int k = 0; k < 10; k++) {
            const int64_t x = (int64_t)(rng_u64(5, (uint64_t)i, (uint64_t)k) % (uint64_t)n), y = n - 1 - x;
            expect_range(f, c, i, x < y ? x : y, (x < y ? y : x) + 1);
        }
        EXPECT_INT(ckpt_stored(c, &f->params.item[i]), f->stored[i]);
    }
    if (c)
        ckpt_close(c);
    arena_free(a);
}

static char problems[2000];
static inline void note_problem(const char *line)
{
    const size_t used = strlen(problems);
    snprintf(problems + used, sizeof problems - used, "%s\n", line);
}

static inline bool verifies(const char *dir)
{
    struct err e = { 0 };
    problems[0] = 0;
    const bool sound = ckpt_verify(dir, note_problem, &e);
    EXPECT(sound == (e.text[0] == 0) && sound == (problems[0] == 0 && e.code == 0));
    return sound;
}

static inline const char *in_test_dir(struct arena *a, const char *name)
{
    return path_in(a, test_dir(), name);
}

/* Same names and bytes in two directories. */
static inline bool same_directories(struct arena *a, const char *x, const char *y)
{
    int64_t n_x, n_y;
    size_t x_bytes = 0, y_bytes = 1;
    struct err e = { 0 };
    char **in_x = file_list(a, x, &n_x, &e), **in_y = file_list(a, y, &n_y, &e);
    bool same = in_x && in_y && n_x == n_y;
    for (int64_t i = 0; same && i < n_x; i++) {
        const char *p = file_read(a, path_in(a, x, in_x[i]), 1 << 28, &x_bytes, &e);
        const char *q = file_read(a, path_in(a, y, in_y[i]), 1 << 28, &y_bytes, &e);
        same = p && q && !strcmp(in_x[i], in_y[i]) && x_bytes == y_bytes && !memcmp(p, q, x_bytes);
    }
    return same;
}
