/* cuda_side.h - calls of an operator on the device: buffers like those of opcall.h, rounded inputs, zero rows between
 * segments, poison, guards. */
#pragma once
#include "tests/cuda_fixture.h"

struct side { /* a call on the device */
    struct call c;
    struct opcall *t;
    size_t bytes[OP_ARGS], grad_bytes[OP_ARGS], work_bytes;
};

static bool is_bf16(const struct opcall *t, int arg)
{
    return t->a.arg[arg].model_float;
}

static size_t element_bytes(const struct opcall *t, int arg, bool wide)
{
    return is_bf16(t, arg) && !wide ? 2 : num_dtype_bytes(opcall_dtype(t, arg, false));
}

/* Inputs are rounded to what the device can hold before the reference sees them. */
static void round_inputs(struct opcall *t)
{
    for (int i = 0; i < t->a.n_args; i++)
        for (int k = 0; k < 2; k++) {
            float *x = k ? t->cpu.grad[i] : t->cpu.arg[i];
            const bool given = k ? (t->of >> i & 1) != 0 : i < t->a.n_inputs;
            for (int64_t j = 0; given && is_bf16(t, i) && j < (k ? t->n_grad[i] : t->n[i]); j++)
                x[j] = num_from_bf16(num_to_bf16(x[j]));
        }
}

static int64_t segment_of_row(const struct opcall *t, int64_t row, int64_t tile)
{
    const int end = opcall_arg(t, "end");
    const int32_t *ends = t->cpu.arg[end];
    int64_t begin = 0;
    for (int64_t i = 0; i < t->n[end]; i++) {
        if (row >= begin && row < ends[i])
            return i;
        begin = (ends[i] + tile - 1) / tile * tile;
        if (row < begin)
            return -1; /* behind the segment, inside its tile */
    }
    return -2; /* behind all */
}

/* -2: not made of rows with segments */
static int64_t rows_of_arg(const struct opcall *t, int arg)
{
    const int end = opcall_arg(t, "end");
    if (end < 0 || t->a.arg[end].output || t->a.arg[arg].dim[0].rows_of < 0)
        return 0;
    return t->cpu.dim[t->a.arg[arg].dim[0].letter];
}

/* Rows between segments hold zeros (op.h). */
static void clear_padding(struct opcall *t)
{
    const int64_t tile = (int64_t)opcall_attr(t, "tile", 1);
    for (int i = 0; i < t->a.n_args; i++) {
        const int64_t rows = rows_of_arg(t, i);
        for (int64_t r = 0; r < rows; r++) {
            const int64_t width = t->n[i] / rows;
            if (segment_of_row(t, r, tile) != -1)
                continue;
            if (i < t->a.n_inputs)
                memset((float *)t->cpu.arg[i] + r * width, 0, (size_t)width * sizeof(float));
            if (t->of >> i & 1)
                memset((float *)t->cpu.grad[i] + r * width, 0, (size_t)width * sizeof(float));
        }
    }
}

/* n elements of float or int32 on the host -> elements of each bytes on the device */
static void upload(void *to, const void *from, int64_t n, size_t each)
{
    if (each == 2) {
        uint16_t *x = malloc((size_t)n * 2 + 2);
        for (int64_t i = 0; i < n; i++)
            x[i] = num_to_bf16(((const float *)from)[i]);
        device_cuda()->put(to, x, (size_t)n * 2);
        free(x);
    } else {
        device_cuda()->put(to, from, (size_t)n * each);
    }
}

/* The other way; poison of 2 bytes comes back as poison of 4. */
static void download(void *to, const void *from, int64_t n, size_t each)
{
    if (each == 2) {
        uint16_t *x = malloc((size_t)n * 2 + 2);
        device_cuda()->get(x, from, (size_t)n * 2);
        for (int64_t i = 0; i < n; i++) {
            ((float *)to)[i] = num_from_bf16(x[i]);
            if (x[i] == (poison32 & 0xffff))
                memcpy((float *)to + i, &poison32, sizeof poison32);
        }
        free(x);
    } else {
        device_cuda()->get(to, from, (size_t)n * each);
    }
}

static void device_poison(void *p, size_t bytes)
{
    uint16_t *x = malloc(bytes + 4);
    for (size_t i = 0; i < bytes / 4 + 1; i++)
        memcpy(x + 2 * i, &poison32, 4);
    for (size_t i = 0; bytes % 4 && i < 1; i++)
        x[bytes / 2 - 1] = poison32 & 0xffff;
    device_cuda()->put(p, x, bytes);
    free(x);
}

/* bfloat16 buffers are filled with the low half of the poison, a NaN of its own. */
static void device_poison_elements(void *p, size_t bytes, size_t each)
{
    if (each != 2) {
        device_poison(p, bytes);
        return;
    }
    uint16_t *x = malloc(bytes + 2);
    for (size_t i = 0; i < bytes / 2; i++)
        x[i] = poison32 & 0xffff;
    device_cuda()->put(p, x, bytes);
    free(x);
}

static struct side side_new(struct opcall *t, uint32_t wide)
{
    struct side s = { .c = t->cpu, .t = t };
    size_t work[2] = { 0, 0 };
    s.c.wide = wide;
    s.c.stream = device_cuda()->stream();
    for (int i = 0; i < t->a.n_args; i++) {
        s.bytes[i] = (size_t)t->n[i] * element_bytes(t, i, false);
        s.c.arg[i] = device_buffer(s.bytes[i]);
        if (i < t->a.n_inputs)
            upload(s.c.arg[i], t->cpu.arg[i], t->n[i], element_bytes(t, i, false));
        if (!t->n_grad[i])
            continue;
        const size_t each = element_bytes(t, i, wide >> i & 1);
        s.grad_bytes[i] = (size_t)t->n_grad[i] * each;
        s.c.grad[i] = device_buffer(s.grad_bytes[i]);
        if (t->of >> i & 1)
            upload(s.c.grad[i], t->cpu.grad[i], t->n_grad[i], each);
    }
    if (t->op->work[CUDA])
        t->op->work[CUDA](&s.c, work);
    s.work_bytes = work[0] > work[1] ? work[0] : work[1];
    s.c.work = device_buffer(s.work_bytes);
    return s;
}

static void side_free(struct side *s)
{
    const struct opcall *t = s->t;
    for (int i = 0; i < t->a.n_args; i++) {
        EXPECTF(device_guarded(s->c.arg[i], s->bytes[i]), "%s: %s is written behind its end", t->op->name,
                t->a.arg[i].name);
        device_cuda()->release(s->c.arg[i]);
        if (!t->n_grad[i])
            continue;
        EXPECTF(device_guarded(s->c.grad[i], s->grad_bytes[i]),
                "%s: gradient of %s is written behind its end", t->op->name, t->a.arg[i].name);
        device_cuda()->release(s->c.grad[i]);
    }
    EXPECTF(device_guarded(s->c.work, s->work_bytes), "%s: more work memory is used than declared",
            t->op->name);
    device_cuda()->release(s->c.work);
}

/* Forward, whose outputs go to the host at once (backward may use up what it saved), then backward with everything
 * that is not saved poisoned; `want`: gradients asked for. */
static void side_run(struct side *s, uint32_t want, uint32_t add)
{
    struct opcall *t = s->t;
    struct call c = s->c;
    for (int i = t->a.n_inputs; i < t->a.n_args; i++)
        device_poison_elements(c.arg[i], s->bytes[i], element_bytes(t, i, false));
    device_poison(c.work, s->work_bytes / 4 * 4);
    t->op->fwd[CUDA](&c);
    device_cuda()->wait();
    for (int i = t->a.n_inputs; i < t->a.n_args; i++)
        download(t->cpu.arg[i], c.arg[i], t->n[i], element_bytes(t, i, false));
    if (!t->op->bwd[CUDA])
        return;
    device_poison(c.work, s->work_bytes / 4 * 4);
    c.add = add;
    for (int i = 0; i < t->a.n_args; i++) {
        const size_t each = element_bytes(t, i, s->c.wide >> i & 1);
        if (!(t->a.saved >> i & 1))
            c.arg[i] = NULL;
        if (i < t->a.n_inputs && c.grad[i] && !(want >> i & 1))
            c.grad[i] = NULL;
        if (i < t->a.n_inputs && c.grad[i] && !(add >> i & 1))
            device_poison_elements(c.grad[i], s->grad_bytes[i], each);
    }
    t->op->bwd[CUDA](&c);
    device_cuda()->wait();
    for (int i = 0; i < t->a.n_inputs; i++)
        if (c.grad[i])
            download(t->cpu.grad[i], c.grad[i], t->n_grad[i], element_bytes(t, i, s->c.wide >> i & 1));
}
