/* rates.h - what operators reach on a device, by their names (plan/ knows no operators): seconds of calls that were
 * measured, and rates for calls of other sizes. A table is built in (rates.def) or a file that `moec profile` wrote
 * (doc/formats/rates.md). FLOPs and bytes are those of the operators' records (op.h: cost). */
#pragma once
#include "base/arena.h"
#include "base/err.h"
#include "graph/op.h"
enum way { WAY_FWD, WAY_BWD, WAY_AGAIN, WAY_BOTH, RATES_WAYS };
extern const char *const rates_way_name[RATES_WAYS];
struct rates_call { /* a call, as far as its time depends on it */
    const char *op;
    enum way way;
    uint32_t args, grads, wide; /* args, grads: bits of those that are there */
    int64_t dim[OP_DIMS];
    double attr[OP_ATTRS];
};
struct rates_entry {
    struct rates_call call;
    double seconds, flops, bytes;
};
struct rate {
    const char *op;
    enum way way;
    double flops_per_s, bytes_per_s; /* times of both add up; 0 = this one takes none */
    double
        gradient_bytes_per_s; /* of gradients of weights; 0 = they are in the others. Half of the work makes them, and
                                      * hides them the better the longer it takes: the root of the sum of squares */
};
struct rates {
    const char *name;
    enum backend backend;
    double flops_part,
        bytes_part; /* of the rates and entries below: 1, or what a device has of the one that was measured */
    int n_rates, n_entries;
    const struct rate *rate;
    const struct rates_entry *entry;
};
/* A table of rates.def; NULL = there is none of this name. */
const struct rates *rates_builtin(const char *name);
/* Seconds of this very call, where it was measured; else negative. */
double rates_measured(const struct rates *r, const struct rates_call *c);
/* Seconds of a call that costs this, from the rates of its operator and way; of a way that computes outputs again, also
 * from those of fwd. Negative: the table knows neither. gradient_bytes: read and written by adding to gradients of weights.
 * What a call costs beside its work is in tables of measured calls, and not in the built-in ones. */
double rates_seconds(const struct rates *r, const struct rates_call *c, double flops, double bytes,
                     double gradient_bytes);
bool rates_same_call(const struct rates_call *x, const struct rates_call *y);
bool rates_read(struct arena *a, const char *path, struct rates *out, struct err *e);
struct str;
void rates_write(const struct rates *r, struct str *out); /* the entries, as JSON */
/* Rates of every operator and way among the entries, in the arena. Of FLOPs, bytes and both the one that tells the entries'
 * seconds best. */
void rates_fit(struct arena *a, struct rates *r);
