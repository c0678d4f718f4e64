/* cluster.h - what the machines can do: rates that turn FLOPs and bytes into time. JSON file or a built-in
 * description (doc/formats/cluster.md). */
#pragma once
#include "base/arena.h"
#include "base/err.h"
#include "plan/rates.h"
#include <stdint.h>
enum transfer {                    /* rates differ by how bytes move */
                TRANSFER_EXCHANGE, /* each to each, other rows for everyone */
                TRANSFER_GATHER,   /* everyone receives the ranges of all */
                TRANSFER_REDUCE,   /* everyone receives its range from all, and adds */
                TRANSFERS
};
struct link {
    double bytes_per_s[TRANSFERS]; /* what one rank sends, and receives at the same time */
    double latency_us;             /* of one message */
};
struct str;
struct cluster {
    char name[64];
    int ranks_per_node;
    int64_t memory_bytes;        /* of one rank */
    double flops_per_s;          /* reached by large products of the device's float, one rank */
    double memory_bytes_per_s;   /* streaming, one rank */
    struct link inside, between; /* between ranks of one node; of different nodes */
    double call_us;              /* of one operator call */
    double peak_flops_per_s;     /* for MFU */
    /* Above 1: threads of ranks share cores, or ranks a GPU, and one that waits leaves its part to them. The rates are what each
     * reaches while all compute. */
    double ranks_per_core;
    double host_bytes_per_s;   /* of copies to and from the memory of the host, one rank, while it computes */
    const struct rates *rates; /* of operators; NULL = the rates above for all */
    /* Not of machines, but of data and model, and predictions need it as they need rates: rows of the fullest expert over the
     * mean of a layer's; at most 1 = even. No file has it. */
    double expert_load;
};
/* This machine: memory divided by the ranks on it; rates are typical of a server core (about 100 GFLOP/s). */
/* cores: of the machine; more threads than cores share them. No plan depends on the threads: all rates do alike, and
 * ranks_per_core stays 1. */
void cluster_cpu(struct cluster *c, int ranks_per_node, int threads, int cores);
/* One CUDA device per rank, an H200 unless the memory says otherwise (0 = unknown); rates measured on one. */
void cluster_cuda(struct cluster *c, int ranks_per_node, int64_t memory_bytes);
/* Links of devices whose ranks exchange through host memory (--comm mpi). */
void cluster_by_host(struct cluster *c);
/* A description that the program knows by name: h100, h200, a100. */
bool cluster_builtin(const char *name, struct cluster *c);
/* Links of the slowest level that a group spans: `extent` consecutive ranks of n_ranks, aligned to `extent`. */
const struct link *cluster_link(const struct cluster *c, int64_t extent, int n_ranks);
/* The table that the file names is read into the arena. */
bool cluster_read(struct arena *a, const char *path, struct cluster *c, struct err *e);
/* As cluster_read() takes it, format 2; table: the name of the table of rates, or NULL. */
void cluster_write(const struct cluster *c, const char *table, struct str *out);
void cluster_signature(const struct cluster *c, char out[17]);
