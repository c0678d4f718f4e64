/* part_loss.cu - one thread per row: m is the size of a tensor group. */
#include "cuda/cuda.cuh"
enum { LSE, LOGIT, LABEL, NLL, N = 0, M };
enum { THREADS = 128 };

/* log(sum exp(x)) */
__device__ static inline float sum_parts(const float *x, int64_t n)
{
    float top = x[0], sum = 0;
    for (int64_t i = 1; i < n; i++)
        top = fmaxf(top, x[i]);
    for (int64_t i = 0; i < n; i++)
        sum += expf(x[i] - top);
    return top + logf(sum);
}

__global__ static void __launch_bounds__(THREADS)
    nll_rows(float *nll, const float *lse, const float *logit, const int32_t *label, int64_t n, int64_t m)
{
    const int64_t t = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (t < n)
        nll[t] = label[t] < 0 ? 0 : sum_parts(lse + t * m, m) - logit[t];
}

struct gradients {
    float *lse, *logit; /* NULL: not wanted */
    bool add_lse, add_logit;
};

__global__ static void __launch_bounds__(THREADS)
    gradient_rows(struct gradients g, const float *dnll, const float *lse, const int32_t *label, int64_t n,
                  int64_t m)
{
    const int64_t t = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (t >= n)
        return;
    const float scale = dnll && label[t] >= 0 ? dnll[t] : 0, all = sum_parts(lse + t * m, m);
    for (int64_t i = t * m; g.lse && i < (t + 1) * m; i++)
        g.lse[i] = scale * expf(lse[i] - all) + (g.add_lse ? g.lse[i] : 0);
    if (g.logit)
        g.logit[t] = -scale + (g.add_logit ? g.logit[t] : 0);
}

extern "C" void part_loss_fwd_cuda(const struct call *c)
{
    nll_rows<<<blocks_for(c->dim[N], THREADS), THREADS, 0, stream_of(c)>>>(
        (float *)c->arg[NLL], (const float *)c->arg[LSE], (const float *)c->arg[LOGIT],
        (const int32_t *)c->arg[LABEL], c->dim[N], c->dim[M]);
    LAUNCHED();
}

extern "C" void part_loss_bwd_cuda(const struct call *c)
{
    const struct gradients g = { (float *)c->grad[LSE], (float *)c->grad[LOGIT], adds(c, LSE),
                                 adds(c, LOGIT) };
    gradient_rows<<<blocks_for(c->dim[N], THREADS), THREADS, 0, stream_of(c)>>>(
        g, (const float *)c->grad[NLL], (const float *)c->arg[LSE], (const int32_t *)c->arg[LABEL], c->dim[N],
        c->dim[M]);
    LAUNCHED();
}
