/* cluster.c - see cluster.h. */
#include "plan/cluster.h"
#include "base/hash.h"
#include "base/json.h"
#include <stdio.h>
#include <string.h>
#include <unistd.h>

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
                           .link_bytes_per_s = 2e9,
                           .link_latency_us = 20,
                           .call_us = 10,
                           .peak_flops_per_s = 100e9 * share };
}

void cluster_cuda(struct cluster *c, int ranks_per_node, int64_t memory_bytes)
{
    *c = (struct cluster){ .name = "cuda",
                           .ranks_per_node = ranks_per_node,
                           .memory_bytes = memory_bytes ? memory_bytes : (int64_t)139 << 30,
                           .flops_per_s = 600e12,
                           .memory_bytes_per_s = 3.6e12,
                           .link_bytes_per_s = 300e9,
                           .link_latency_us = 10,
                           .call_us = 3,
                           .peak_flops_per_s = 989e12 };
}

static bool want_rate(const struct json *j, const char *key, double *out, struct err *e)
{
    if (!json_want_number(j, json_root(j), key, out, e))
        return false;
    return (*out > 0 && *out < 1e30) ||
           json_err(j, json_root(j), key, e, "expected a positive number, found %g", *out);
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
        !want_rate(j, "flops_per_s", &c->flops_per_s, e) ||
        !want_rate(j, "peak_flops_per_s", &c->peak_flops_per_s, e) ||
        !want_rate(j, "memory_bytes_per_s", &c->memory_bytes_per_s, e) ||
        !want_rate(j, "link_bytes_per_s", &c->link_bytes_per_s, e) ||
        !want_rate(j, "link_latency_us", &c->link_latency_us, e) || !want_rate(j, "call_us", &c->call_us, e))
        return false;
    c->ranks_per_node = (int)ranks;
    snprintf(c->name, sizeof c->name, "%s", name);
    return true;
}

bool cluster_read(const char *path, struct cluster *c, struct err *e)
{
    struct json *j = json_read(path, 1u << 20, e);
    if (!j)
        return false;
    *c = (struct cluster){ 0 };
    const bool ok = read_cluster(j, c, e);
    json_free(j);
    return ok;
}

void cluster_signature(const struct cluster *c, char out[17])
{
    char text[512];
    const int n = snprintf(text, sizeof text, "%s %d %.17g %.17g %.17g %.17g", c->name, c->ranks_per_node,
                           c->flops_per_s, c->memory_bytes_per_s, c->link_bytes_per_s, c->link_latency_us);
    hash_hex(hash_bytes(text, (size_t)n), out);
}
