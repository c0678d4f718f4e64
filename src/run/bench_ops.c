/* bench_ops.c - `bench ops`: the calls of measure.h, each with the floor that its FLOPs and bytes set at the rates that this
 * device reaches, and the error against the CPU's kernels. */
#include "base/blas.h"
#include "run/bench.h"
#include "run/bench_error.h"
#include "run/measure.h"
#include <math.h>
#include <stdio.h>

/* Bits of the arguments that have gradients in any call of the operator. */
static struct bench_error error_of_op(const struct measure *m, const struct op *op)
{
    uint32_t of = 0, by = 0;
    struct anno a;
    anno_parse(op, &a);
    for (int k = 0; k < m->n; k++)
        for (int j = 0; j < a.n_args && m->call[k].first->op == op; j++)
            if (m->call[k].first->grad[j].buffer >= 0)
                *(j < a.n_inputs ? &by : &of) |= 1u << j;
    return bench_error(m->setup.device, op, of, by);
}

/* By call; each operator is compared once. */
static void find_errors(const struct measure *m, struct bench_error *error)
{
    for (int i = 0; i < m->n; i++) {
        const struct op *op = m->call[i].first->op;
        int k = 0;
        while (m->call[k].first->op != op)
            k++;
        error[i] = k < i ? error[k]
                   : m->call[i].list == LIST_MICRO && m->setup.backend != CPU
                       ? error_of_op(m, op)
                       : (struct bench_error){ -1, -1 };
    }
}

static double floor_of(const struct measure *m, const struct measured *r)
{
    return fmax(r->flops / m->flops_per_s, r->bytes / m->bytes_per_s);
}

static const char *way_of(const struct instr *in)
{
    return in->both ? "both" : in->backward ? "bwd" : in->again ? "again" : "fwd";
}

static void add_sizes(struct str *s, const struct instr *in)
{
    struct anno a;
    anno_parse(in->op, &a);
    for (int i = 0; i < a.n_letters; i++)
        str_addf(s, "%s%s %lld", i ? " " : "", a.letter[i], (long long)in->dim[i]);
}

static double error_of(const struct measured *r, const struct bench_error *e)
{
    return r->first->backward ? e->gradient : e->output;
}

static void print_text(const struct measure *m, const struct bench_error *error, struct arena *a)
{
    const struct plan *p = &m->plan;
    double all = 0, floors = 0;
    printf("micro-batch %lld x %lld, %lld layers; reached here: %.3g TFLOP/s (square product), %.4g GB/s "
           "(copy)\n"
           "floor: the larger of FLOPs and bytes at these rates; error: relative L2 against the CPU's "
           "kernels%s\n",
           (long long)p->micro_batch, (long long)p->sequence, (long long)m->setup.model.layers,
           m->flops_per_s / 1e12, m->bytes_per_s / 1e9,
           p->numbers.backend == CPU ? " (this is the CPU)" : "");
    printf("%-12s %-5s %6s %10s %10s %7s %-6s %9s  %s\n", "operator", "", "calls", "us", "floor us", "share",
           "bound", "error", "sizes");
    for (int i = 0; i < m->n; i++) {
        const struct measured *r = &m->call[i];
        const double floor = floor_of(m, r);
        struct str s = str_new(a, 4096);
        add_sizes(&s, r->first);
        printf("%-12s %-5s %6lld %10.1f %10.1f %6.1f%% %-6s ", r->first->op->name, way_of(r->first),
               (long long)r->calls, 1e6 * r->seconds, 1e6 * floor, 100 * floor / r->seconds,
               r->flops / m->flops_per_s > r->bytes / m->bytes_per_s ? "flops" : "bytes");
        if (error_of(r, &error[i]) < 0)
            printf("%9s  %s\n", "-", s.text);
        else
            printf("%9.1e  %s\n", error_of(r, &error[i]), s.text);
        all += r->seconds * (double)r->calls;
        floors += floor * (double)r->calls;
    }
    printf("sum of all calls %.2f ms, of their floors %.2f ms (%.1f %%)\n", 1e3 * all, 1e3 * floors,
           100 * floors / all);
}

static void print_json(const struct measure *m, const struct bench_error *error, struct arena *a)
{
    printf("{\"micro_batch\": %lld, \"sequence\": %lld, \"layers\": %lld, \"flops_per_s\": %.6g, "
           "\"bytes_per_s\": %.6g, \"operators\": [",
           (long long)m->plan.micro_batch, (long long)m->plan.sequence, (long long)m->setup.model.layers,
           m->flops_per_s, m->bytes_per_s);
    for (int i = 0; i < m->n; i++) {
        const struct measured *r = &m->call[i];
        struct str s = str_new(a, 4096);
        add_sizes(&s, r->first);
        printf(
            "%s\n{\"name\": \"%s\", \"way\": \"%s\", \"sizes\": \"%s\", \"calls\": %lld, \"seconds\": %.6g, "
            "\"floor_seconds\": %.6g, \"flops\": %.6g, \"bytes\": %.6g, \"error\": ",
            i ? "," : "", r->first->op->name, way_of(r->first), s.text, (long long)r->calls, r->seconds,
            floor_of(m, r), r->flops, r->bytes);
        if (error_of(r, &error[i]) < 0)
            printf("null}");
        else
            printf("%.3g}", error_of(r, &error[i]));
    }
    printf("]}\n");
}

bool bench_ops(struct arena *a, const struct config *c, struct err *e)
{
    struct measure *m = ARENA_NEW(a, struct measure, 1);
    struct bench_error *error = ARENA_NEW(a, struct bench_error, MEASURE_MOST);
    blas_warm_up();
    if (comm_ranks() > 1)
        return err_code(e, EXIT_USAGE, "bench ops runs on one rank, %d were started", comm_ranks());
    if (!measure_calls(m, a, c, e))
        return false;
    find_errors(m, error);
    if (c->json)
        print_json(m, error, a);
    else
        print_text(m, error, a);
    return true;
}
