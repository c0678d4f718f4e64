/* cluster.c - see cluster.h. */
#include "plan/cluster.h"
#include "base/hash.h"
#include "base/json.h"
#include "base/str.h"
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static const double PCIE_4 = 20e9; /* bytes/s of a device of which nothing is known */

static struct link even_link(double bytes_per_s, double latency_us)
{
    return (struct link){ { bytes_per_s, bytes_per_s, bytes_per_s }, latency_us };
}

void cluster_cpu(struct cluster *c, int ranks_per_node, int threads, int cores)
{
    const double wanted = (double)ranks_per_node * threads,
                 share = wanted > cores ? threads * cores / wanted : threads;
    const int64_t bytes = (int64_t)sysconf(_SC_PHYS_PAGES) * (int64_t)sysconf(_SC_PAGESIZE);
    *c = (struct cluster){ .name = "cpu",
                           .ranks_per_node = ranks_per_node,
                           .memory_bytes = bytes / ranks_per_node,
                           .flops_per_s = 80e9 * share,
                           .memory_bytes_per_s = 8e9,
                           .inside = even_link(2e9, 20),
                           .between = even_link(2e9, 20),
                           .call_us = 10,
                           .peak_flops_per_s = 100e9 * share,
                           .ranks_per_core = 1,
                           .host_bytes_per_s = 8e9 };
}

/* Products and streams of the H200 are measured; those of the others are in proportion to the peaks of the makers'
 * data sheets. Links inside a node are measured on the H200 (two that fetch from each other, bench/results/2026-11-29-two-h200.md), the
 * same on the h100, two thirds of NVLink's peak in one direction on the a100; between nodes 80 % of one network adapter for each device
 * (400 Gbit/s; a100: 200): assumed. To the host: what copies beside a step reached on the H200 (a100: assumed). Memory: what a process may allocate. */
static const struct cluster builtin[] = {
    { "h200",
      8,
      (int64_t)139 << 30,
      600e12,
      3.6e12,
      { { 350e9, 350e9, 350e9 }, 13 },
      { { 40e9, 40e9, 40e9 }, 20 },
      3,
      989e12,
      1,
      45e9,
      NULL,
      1 },
    { "h100",
      8,
      (int64_t)78 << 30,
      600e12,
      2.5e12,
      { { 350e9, 350e9, 350e9 }, 13 },
      { { 40e9, 40e9, 40e9 }, 20 },
      3,
      989e12,
      1,
      45e9,
      NULL,
      1 },
    { "a100",
      8,
      (int64_t)78 << 30,
      190e12,
      1.5e12,
      { { 200e9, 200e9, 200e9 }, 10 },
      { { 20e9, 20e9, 20e9 }, 20 },
      3,
      312e12,
      1,
      20e9,
      NULL,
      1 },
};

bool cluster_builtin(const char *name, struct cluster *c)
{
    for (size_t i = 0; i < sizeof builtin / sizeof *builtin; i++)
        if (strcmp(name, builtin[i].name) == 0) {
            *c = builtin[i];
            c->rates = rates_builtin(name);
            return true;
        }
    return false;
}

void cluster_cuda(struct cluster *c, int ranks_per_node, int64_t memory_bytes)
{
    cluster_builtin("h200", c);
    snprintf(c->name, sizeof c->name, "cuda");
    c->ranks_per_node = ranks_per_node;
    if (memory_bytes)
        c->memory_bytes = memory_bytes;
}

/* 0.93 GB/s and less for smaller messages: those of pipelines of V2-Lite on two H200 (bench/results/2026-11-24-two-h200.md). */
void cluster_by_host(struct cluster *c)
{
    c->inside = c->between = even_link(1e9, 60);
}

const struct link *cluster_link(const struct cluster *c, int64_t extent, int n_ranks)
{
    const bool one_node = n_ranks <= c->ranks_per_node || c->ranks_per_node % extent == 0;
    return one_node ? &c->inside : &c->between;
}

static bool want_rate(const struct json *j, jval in, const char *key, double *out, struct err *e)
{
    if (!json_want_number(j, in, key, out, e))
        return false;
    return (*out > 0 && *out < 1e30) || json_err(j, in, key, e, "expected a positive number, found %g", *out);
}

static bool read_link(const struct json *j, const char *key, struct link *l, struct err *e)
{
    jval in;
    return json_want_object(j, json_root(j), key, &in, e) &&
           want_rate(j, in, "exchange_bytes_per_s", &l->bytes_per_s[TRANSFER_EXCHANGE], e) &&
           want_rate(j, in, "gather_bytes_per_s", &l->bytes_per_s[TRANSFER_GATHER], e) &&
           want_rate(j, in, "reduce_bytes_per_s", &l->bytes_per_s[TRANSFER_REDUCE], e) &&
           want_rate(j, in, "latency_us", &l->latency_us, e);
}

/* Version 1 has one level and one rate. */
static bool read_links(const struct json *j, struct cluster *c, struct err *e)
{
    const jval r = json_root(j);
    double rate, latency;
    int64_t version = 1;
    if (json_get(r, "version") && !json_want_int(j, r, "version", 1, 2, &version, e))
        return false;
    if (version == 2)
        return read_link(j, "inside_node", &c->inside, e) && read_link(j, "between_nodes", &c->between, e);
    if (!want_rate(j, r, "link_bytes_per_s", &rate, e) || !want_rate(j, r, "link_latency_us", &latency, e))
        return false;
    c->inside = c->between = even_link(rate, latency);
    return true;
}

static bool read_cluster(const struct json *j, struct cluster *c, struct err *e)
{
    const jval r = json_root(j);
    int64_t ranks;
    const char *name;
    if (json_type(r) != JSON_OBJECT)
        return json_err(j, r, "", e, "expected an object");
    if (!json_want_string(j, r, "name", &name, e) ||
        !json_want_int(j, r, "ranks_per_node", 1, 1 << 20, &ranks, e) ||
        !json_want_int(j, r, "memory_bytes", 1, INT64_MAX, &c->memory_bytes, e) ||
        !want_rate(j, r, "flops_per_s", &c->flops_per_s, e) ||
        !want_rate(j, r, "peak_flops_per_s", &c->peak_flops_per_s, e) ||
        !want_rate(j, r, "memory_bytes_per_s", &c->memory_bytes_per_s, e) || !read_links(j, c, e) ||
        !want_rate(j, r, "call_us", &c->call_us, e))
        return false;
    if (json_get(r, "host_bytes_per_s") && !want_rate(j, r, "host_bytes_per_s", &c->host_bytes_per_s, e))
        return false;
    if (json_get(r, "ranks_per_core") && !want_rate(j, r, "ranks_per_core", &c->ranks_per_core, e))
        return false;
    c->ranks_per_node = (int)ranks;
    snprintf(c->name, sizeof c->name, "%s", name);
    return true;
}

/* "table": a built-in one by its name, or a file beside the description. */
static bool read_rates(struct arena *a, const struct json *j, const char *path, struct cluster *c,
                       struct err *e)
{
    const char *name, *slash = strrchr(path, '/');
    if (!json_get(json_root(j), "table"))
        return true;
    if (!json_want_string(j, json_root(j), "table", &name, e))
        return false;
    c->rates = rates_builtin(name);
    if (c->rates)
        return true;
    struct rates *table = ARENA_NEW(a, struct rates, 1);
    const int folder = *name == '/' || !slash ? 0 : (int)(slash + 1 - path);
    c->rates = table;
    return rates_read(a, arena_printf(a, "%.*s%s", folder, path, name), table, e);
}

bool cluster_read(struct arena *a, const char *path, struct cluster *c, struct err *e)
{
    struct json *j = json_read(path, 1u << 20, e);
    if (!j)
        return false;
    *c = (struct cluster){ .ranks_per_core = 1, .host_bytes_per_s = PCIE_4 };
    const bool ok = read_cluster(j, c, e) && read_rates(a, j, path, c, e);
    json_free(j);
    return ok;
}

static void write_link(struct str *out, const char *key, const struct link *l)
{
    str_addf(out,
             "  \"%s\": {\"exchange_bytes_per_s\": %.17g, \"gather_bytes_per_s\": %.17g, "
             "\"reduce_bytes_per_s\": %.17g, \"latency_us\": %.17g},\n",
             key, l->bytes_per_s[TRANSFER_EXCHANGE], l->bytes_per_s[TRANSFER_GATHER],
             l->bytes_per_s[TRANSFER_REDUCE], l->latency_us);
}

void cluster_write(const struct cluster *c, const char *table, struct str *out)
{
    str_add(out, "{\n  \"version\": 2,\n  \"name\": ");
    str_add_json(out, c->name, strlen(c->name));
    str_addf(out,
             ",\n  \"ranks_per_node\": %d,\n  \"memory_bytes\": %lld,\n  \"flops_per_s\": %.17g,\n  "
             "\"peak_flops_per_s\": %.17g,\n  \"memory_bytes_per_s\": %.17g,\n",
             c->ranks_per_node, (long long)c->memory_bytes, c->flops_per_s, c->peak_flops_per_s,
             c->memory_bytes_per_s);
    str_addf(out, "  \"host_bytes_per_s\": %.17g,\n", c->host_bytes_per_s);
    if (c->ranks_per_core > 1)
        str_addf(out, "  \"ranks_per_core\": %.17g,\n", c->ranks_per_core);
    write_link(out, "inside_node", &c->inside);
    write_link(out, "between_nodes", &c->between);
    if (table) {
        str_add(out, "  \"table\": ");
        str_add_json(out, table, strlen(table));
        str_add(out, ",\n");
    }
    str_addf(out, "  \"call_us\": %.17g\n}\n", c->call_us);
}

static int add_link(char *text, size_t bytes, const struct link *l)
{
    return snprintf(text, bytes, " %.17g %.17g %.17g %.17g", l->bytes_per_s[TRANSFER_EXCHANGE],
                    l->bytes_per_s[TRANSFER_GATHER], l->bytes_per_s[TRANSFER_REDUCE], l->latency_us);
}

void cluster_signature(const struct cluster *c, char out[17])
{
    char text[512];
    int n = snprintf(text, sizeof text, "%s %d %.17g %.17g %.17g", c->name, c->ranks_per_node, c->flops_per_s,
                     c->memory_bytes_per_s, c->host_bytes_per_s);
    n += add_link(text + n, sizeof text - (size_t)n, &c->inside);
    n += add_link(text + n, sizeof text - (size_t)n, &c->between);
    if (c->expert_load > 1)
        n += snprintf(text + n, sizeof text - (size_t)n, " %.17g", c->expert_load);
    hash_hex(hash_bytes(text, (size_t)n), out);
}
