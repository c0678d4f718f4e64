/* states_test.c - weights and states in every form that the CUDA device keeps, on a device of host memory: what is saved,
 * from the device or from a copy, is loaded again bit by bit. */
#include "base/file.h"
#include "base/pool.h"
#include "device/comm.h"
#include "run/moments.h"
#include "run/setup.h"
#include "run/states.h"
#include "run/weights.h"
#include "tests/test.h"
#include <unistd.h>

static void move(void *to, const void *from, size_t bytes)
{
    memcpy(to, from, bytes);
}

static void clear(void *at, size_t bytes)
{
    memset(at, 0, bytes);
}

static void wait_for_nothing(void)
{
}

static void *no_stream(void)
{
    return NULL;
}

/* Host memory under the name of CUDA: what lies on it has CUDA's forms. Nothing runs there. */
static const struct device pretended = { .name = "pretended",
                                         .backend = CUDA,
                                         .allocate = arena_slab,
                                         .release = arena_slab_free,
                                         .put = move,
                                         .get = move,
                                         .copy = move,
                                         .zero = clear,
                                         .wait = wait_for_nothing,
                                         .stream = no_stream,
                                         .host_allocate = arena_slab,
                                         .host_release = arena_slab_free };

static const char config[] =
    "{\"architectures\": [\"DeepseekV2ForCausalLM\"], \"model_type\": \"deepseek_v2\", \"torch_dtype\": "
    "\"bfloat16\", \"vocab_size\": 104, \"hidden_size\": 40, \"num_hidden_layers\": 2, "
    "\"num_attention_heads\": 2, \"num_key_value_heads\": 2, \"intermediate_size\": 72, "
    "\"moe_intermediate_size\": 24, \"q_lora_rank\": null, \"kv_lora_rank\": 24, \"qk_nope_head_dim\": 16, "
    "\"qk_rope_head_dim\": 8, \"v_head_dim\": 16, \"n_routed_experts\": 4, \"n_shared_experts\": 1, "
    "\"num_experts_per_tok\": 2, \"first_k_dense_replace\": 1, \"moe_layer_freq\": 1, \"n_group\": 1, "
    "\"topk_group\": 1, \"topk_method\": \"greedy\", \"scoring_func\": \"softmax\", \"norm_topk_prob\": "
    "false, \"routed_scaling_factor\": 1.0, \"aux_loss_alpha\": 0.001, \"seq_aux\": true, \"hidden_act\": "
    "\"silu\", \"rms_norm_eps\": 1e-06, \"rope_theta\": 10000.0, \"attention_bias\": false, "
    "\"tie_word_embeddings\": false, \"initializer_range\": 0.02, \"max_position_embeddings\": 256, "
    "\"bos_token_id\": 0, \"eos_token_id\": 1}";

static void engine_of(struct arena *a, struct setup *s, struct numbers n, struct engine *x)
{
    struct err e = { 0 };
    struct plan p;
    const struct adamw o = { .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8 };
    const char *dir = arena_printf(a, "%s/model", test_dir());
    EXPECT(file_mkdirs(dir, &e) &&
           file_write(arena_printf(a, "%s/config.json", dir), config, sizeof config - 1, &e));
    *s = (struct setup){ .arena = a, .model_dir = dir, .device = &pretended, .backend = CUDA };
    EXPECTF(model_config_read(dir, &s->model, &e), "%s", e.text);
    setup_small_plan(s, 1, 64, &p);
    p.numbers = n;
    engine_build(s, &p, true, false, &o, x);
}

static struct ref behind(struct ref r, int64_t bytes)
{
    r.at_bytes += bytes;
    return r;
}

/* Something else in every place that a step writes: bits that are finite numbers in their form. */
static void scramble_moment(struct exec *x, int param, bool is_signed)
{
    const struct state *s = &x->program->state[param];
    const int64_t n = s->end - s->begin;
    const uint64_t stream = 2 * (uint64_t)param + is_signed;
    float values[256], block[ADAMW_BLOCK];
    unsigned char codes[ADAMW_BLOCK];
    moments_values(is_signed, values);
    for (int64_t at = 0; at < n; at += ADAMW_BLOCK) {
        const int64_t k = n - at < ADAMW_BLOCK ? n - at : ADAMW_BLOCK;
        for (int64_t i = 0; i < k; i++) {
            block[i] = (float)(rng_normal(5, stream, (uint64_t)(at + i)) * 1e-3);
            block[i] = is_signed ? block[i] : block[i] * block[i];
        }
        const struct ref r = states_moment_at(x, param, is_signed, at);
        if (x->program->plan.numbers.moments != MOMENTS_BYTE) {
            exec_put_floats(x, r, states_moment_dtype(x), block, k);
            continue;
        }
        /* as the device does: the largest magnitude is the scale, also where it is negative */
        float scale = 0;
        for (int64_t i = 0; i < k; i++)
            scale = fmaxf(scale, fabsf(block[i]));
        for (int i = 0; i < 100000 && values[0] * scale / values[0] == scale && is_signed; i++)
            scale = nextafterf(scale, 1); /* one that floats do not give back when the largest is negative */
        moments_encode(values, is_signed, block, k, codes);
        exec_put(x, r, codes, k);
        exec_put(x, states_scale_at(x, param, is_signed, at / ADAMW_BLOCK), &scale, sizeof scale);
    }
}

static void scramble(struct exec *x)
{
    const struct program *p = x->program;
    for (int i = 0; i < p->graph->params.n; i++) {
        const int64_t n = p->state[i].end - p->state[i].begin;
        scramble_moment(x, i, true);
        scramble_moment(x, i, false);
        for (int64_t k = 0; k < n; k++) {
            const float w = (float)rng_normal(9, (uint64_t)i, (uint64_t)k);
            uint16_t halves[2] = { num_to_bf16(w), 0 };
            if (p->plan.numbers.master == MASTER_SPLIT)
                states_split(&halves[0], &halves[1], &w, 1);
            exec_put(x, states_weight_at(x, i, k), halves, 2);
            if (p->plan.numbers.master == MASTER_SPLIT)
                exec_put(x, states_low_at(x, i, k), &halves[1], 2);
            if (p->plan.numbers.master == MASTER_FLOAT)
                exec_put(x, states_low_at(x, i, k), &w, 4);
        }
    }
}

static void save(struct arena *a, const struct setup *s, struct engine *x, bool copied, const char *dir)
{
    struct err e = { 0 };
    struct source source;
    const int n = x->graph->params.n;
    const struct ckpt_holding *h = weights_holdings(a, x->graph, &x->program.plan);
    struct weights_source from = { &source, &h[0] };
    enum dtype *stored = ARENA_NEW(a, enum dtype, n);
    const bool codes = x->program.plan.numbers.moments == MOMENTS_BYTE;
    for (int i = 0; i < n; i++)
        stored[i] = BF16;
    const struct ckpt_job job = { .directory = dir,
                                  .params = &x->graph->params,
                                  .n_ranks = 1,
                                  .holding = h,
                                  .stored = stored,
                                  .model_dir = s->model_dir,
                                  .train_state = "{}",
                                  .max_shard_bytes = 20000,
                                  .read = weights_read,
                                  .read_codes = codes ? weights_read_codes : NULL,
                                  .read_scales = codes ? weights_read_scales : NULL,
                                  .n_threads = 2,
                                  .context = &from };
    source_new(a, &x->exec, &source);
    ckpt_visit(&job, 0);
    source_sort(&source);
    source.from = SOURCE_DEVICE;
    if (copied) {
        source_reserve(&source);
        source_copy(&source);
        for (int i = 0; i < n; i++) /* training goes on */
            x->exec.device->zero(exec_at(&x->exec, states_weight_at(&x->exec, i, 0)), 2);
    }
    EXPECTF(ckpt_begin(&job, &e) && ckpt_write(&job, 0, &e) && ckpt_publish(&job, 0, &e), "%s", e.text);
    source_free(&source);
}

/* Bytes of weights, low bits and moments of two engines that differ. */
static int64_t n_different(const struct exec *x, const struct exec *y)
{
    int64_t n = 0;
    for (int i = 0; i < x->program->graph->params.n; i++) {
        const struct plan *p = &x->program->plan;
        const struct state *s = &x->program->state[i];
        const int64_t elements = s->end - s->begin, moment_bytes = plan_moment_bytes(p, elements);
        const struct {
            struct ref at;
            int64_t bytes;
        } part[] = { { states_weight_at(x, i, 0), 2 * elements },
                     { states_low_at(x, i, 0), plan_master_bytes(p, elements) },
                     { s->exp_avg, moment_bytes },
                     { s->exp_avg_sq, moment_bytes } };
        for (int k = 0; k < 4; k++)
            for (int64_t b = 0; b < part[k].bytes; b++)
                n += *(char *)exec_at(x, behind(part[k].at, b)) != *(char *)exec_at(y, behind(part[k].at, b));
    }
    return n;
}

static void round_trip(struct numbers numbers, bool copied)
{
    struct err e = { 0 };
    struct setup s;
    struct engine x, y;
    struct arena *a = arena_new("test");
    const char *dir = arena_printf(a, "%s/step-%d%d%d", test_dir(), numbers.master, numbers.moments, copied);
    engine_of(a, &s, numbers, &x);
    engine_of(a, &s, numbers, &y);
    weights_init(&x.exec, 3);
    scramble(&x.exec);
    save(a, &s, &x, copied, dir);
    if (copied)
        scramble(&x.exec); /* what was overwritten comes again */
    struct ckpt *c = ckpt_open(a, dir, &e);
    EXPECTF(c && ckpt_match(c, &y.graph->params, &e) && weights_load_state(&y.exec, c, &e), "%s", e.text);
    EXPECT_INT(n_different(&x.exec, &y.exec), 0);
    ckpt_close(c);
    exec_free(&x.exec);
    exec_free(&y.exec);
    arena_free(a);
}

TEST(states_come_back_in_every_form)
{
    if (!device_cuda_open) {
        test_skip("without nvcc there is no CUDA kernel to lower to");
        return;
    }
    pool_start(2);
    for (int master = 0; master < MASTERS; master++)
        for (int moments = 0; moments < MOMENT_FORMS; moments++)
            for (int copied = 0; copied < 2; copied++)
                round_trip((struct numbers){ CUDA, (enum master)master, (enum moments)moments, F32 }, copied);
}

/* From 8-bit moments to float32 ones and back: values stay, scales up to a rounding. */
TEST(states_change_their_form)
{
    struct err e = { 0 };
    struct setup s;
    struct engine x, y;
    if (!device_cuda_open) {
        test_skip("without nvcc there is no CUDA kernel to lower to");
        return;
    }
    struct arena *a = arena_new("test");
    const char *dir = arena_printf(a, "%s/step-7", test_dir());
    engine_of(a, &s, (struct numbers){ CUDA, MASTER_SPLIT, MOMENTS_BYTE, F32 }, &x);
    engine_of(a, &s, (struct numbers){ CUDA, MASTER_FLOAT, MOMENTS_FLOAT, F32 }, &y);
    scramble(&x.exec);
    save(a, &s, &x, false, dir);
    struct ckpt *c = ckpt_open(a, dir, &e);
    EXPECTF(c && weights_load_state(&y.exec, c, &e), "%s", e.text);
    float values[256], got;
    int64_t wrong = 0;
    moments_values(true, values);
    for (int i = 0; i < x.graph->params.n; i++)
        for (int64_t k = 0; k < x.program.state[i].end - x.program.state[i].begin; k++) {
            const unsigned char code =
                *(unsigned char *)exec_at(&x.exec, states_moment_at(&x.exec, i, true, k));
            const float scale =
                *(float *)exec_at(&x.exec, states_scale_at(&x.exec, i, true, k / ADAMW_BLOCK));
            exec_get_floats(&y.exec, &got, states_moment_at(&y.exec, i, true, k), F32, 1);
            wrong += got != values[code] * scale;
        }
    EXPECT_INT(wrong, 0);
    ckpt_close(c);
    exec_free(&x.exec);
    exec_free(&y.exec);
    arena_free(a);
}
