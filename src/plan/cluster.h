/* cluster.h - what the machines can do: rates that turn FLOPs and bytes into time. JSON file or a built-in
 * description (doc/formats/cluster.md). */
#pragma once
#include "base/arena.h"
#include "base/err.h"
#include <stdint.h>
struct cluster {
    char name[64];
    int ranks_per_node;
    int64_t memory_bytes;            /* of one rank */
    double flops_per_s;              /* reached by large float32 products, one rank */
    double memory_bytes_per_s;       /* streaming, one rank */
    double link_bytes_per_s;         /* between two ranks */
    double link_latency_us, call_us; /* of one message; of one operator call */
    double peak_flops_per_s;         /* for MFU */
};
/* This machine: memory divided by the ranks on it; rates are typical of a server core (about 100 GFLOP/s). */
/* cores: of the machine; more threads than cores share them. */
void cluster_cpu(struct cluster *c, int ranks_per_node, int threads, int cores);
/* One CUDA device per rank, an H200 unless the memory says otherwise (0 = unknown); rates measured on one. */
void cluster_cuda(struct cluster *c, int ranks_per_node, int64_t memory_bytes);
bool cluster_read(const char *path, struct cluster *c, struct err *e);
void cluster_signature(const struct cluster *c, char out[17]);
