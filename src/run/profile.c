/* profile.c - `profile`: what this machine reaches (measure.h, links.h), as descriptions that predictions read. */
#include "base/blas.h"
#include "base/file.h"
#include "base/pool.h"
#include "run/bench.h"
#include "run/links.h"
#include "run/measure.h"
#include "sched/predict.h"
#include <math.h>
#include <stdio.h>
#include <string.h>

/* The least times: what else the machine does belongs to no operator. */
static struct str table_of(const struct measure *m, struct arena *a)
{
    struct rates_entry *all = ARENA_NEW(a, struct rates_entry, m->n);
    struct str s = str_new(a, 64u << 20);
    for (int i = 0; i < m->n; i++) {
        const struct measured *r = &m->call[i];
        all[i] =
            (struct rates_entry){ .seconds = r->least_seconds, .flops = r->flops, .bytes = r->cost_bytes };
        sched_call(r->first, &all[i].call);
    }
    rates_write(&(struct rates){ .backend = m->setup.backend, .n_entries = m->n, .entry = all }, &s);
    return s;
}

/* That of the slowest rank, on all. */
static struct str slowest_table(const struct measure *m, struct arena *a)
{
    struct str s = table_of(m, a);
    size_t bytes = s.bytes;
    comm_broadcast(m->slowest, &bytes, sizeof bytes);
    if (comm_rank() != m->slowest)
        s = (struct str){ .text = ARENA_NEW(a, char, (int64_t)bytes + 1), .bytes = bytes };
    comm_broadcast(m->slowest, s.text, bytes);
    return s;
}

static bool write_cluster(const struct cluster *c, struct arena *a, const char *table, const char *path,
                          struct err *e)
{
    const char *slash = strrchr(table, '/');
    struct str s = str_new(a, 1u << 20);
    cluster_write(c, slash ? slash + 1 : table, &s);
    return file_write(path, s.text, s.bytes, e);
}

static void print_links(const struct cluster *c)
{
    if (c->ranks_per_node > 1)
        printf("links between %d ranks of a machine: %.2f GB/s, %.1f us a message\n", c->ranks_per_node,
               c->inside.bytes_per_s[TRANSFER_EXCHANGE] / 1e9, c->inside.latency_us);
    if (comm_ranks() > c->ranks_per_node)
        printf("links between machines, %d ranks: %.2f GB/s, %.1f us a message\n", comm_ranks(),
               c->between.bytes_per_s[TRANSFER_EXCHANGE] / 1e9, c->between.latency_us);
}

/* Of the core with most threads of ranks, or of the GPU with most ranks; machines are taken to be alike. */
static double ranks_per_core(enum backend backend)
{
    double load[POOL_CORES], most = 0;
    if (backend != CPU)
        return comm_sharers();
    pool_load(load);
    comm_sum_doubles(load, POOL_CORES);
    for (int i = 0; i < POOL_CORES; i++)
        most = fmax(most, load[i]);
    return fmax(1, most * comm_local_ranks() / comm_ranks());
}

bool bench_profile(struct arena *a, const struct config *c, struct err *e)
{
    const size_t n = strlen(c->output), ending = n > 5 && strcmp(c->output + n - 5, ".json") == 0 ? 5 : 0;
    const char *table = arena_printf(a, "%.*s.rates.json", (int)(n - ending), c->output);
    struct measure *m = ARENA_NEW(a, struct measure, 1);
    blas_warm_up();
    if (!measure_calls(m, a, c, e))
        return false;
    struct cluster here = m->setup.cluster;
    here.flops_per_s = m->flops_per_s;
    here.memory_bytes_per_s = m->bytes_per_s;
    here.ranks_per_core = ranks_per_core(m->setup.backend);
    if (comm_ranks() > 1)
        links_measure(a, m->setup.device, &here);
    measure_layouts(m, a, c, &here);
    const struct str rates = slowest_table(m, a);
    if (comm_rank() != 0)
        return true;
    if (!file_write(table, rates.text, rates.bytes, e) || !write_cluster(&here, a, table, c->output, e))
        return false;
    printf("%d calls measured, on %d rank%s at once; written to %s and %s\n", m->n, comm_ranks(),
           comm_ranks() > 1 ? "s" : "", c->output, table);
    print_links(&here);
    return true;
}
