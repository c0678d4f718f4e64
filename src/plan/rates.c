/* rates.c - see rates.h. */
#include "plan/rates.h"
#include "base/json.h"
#include "base/str.h"
#include <math.h>
#include <string.h>

const char *const rates_way_name[RATES_WAYS] = { "fwd", "bwd", "again", "both" };

static const struct rate measured[] = {
#define RATE(op, way, tera_flops, giga_bytes, gradient_giga_bytes)                                           \
    { #op, way, (tera_flops)*1e12, (giga_bytes)*1e9, (gradient_giga_bytes)*1e9 },
#include "plan/rates.def"
};

static const struct rates builtin[] = {
#define TABLE(name, flops_part, bytes_part)                                                                  \
    { name, CUDA, flops_part, bytes_part, sizeof measured / sizeof *measured, 0, measured, NULL },
#include "plan/rates.def"
};

const struct rates *rates_builtin(const char *name)
{
    for (size_t i = 0; i < sizeof builtin / sizeof *builtin; i++)
        if (strcmp(builtin[i].name, name) == 0)
            return &builtin[i];
    return NULL;
}

bool rates_same_call(const struct rates_call *x, const struct rates_call *y)
{
    bool same = x->way == y->way && x->args == y->args && x->grads == y->grads && x->wide == y->wide &&
                memcmp(x->dim, y->dim, sizeof x->dim) == 0 && strcmp(x->op, y->op) == 0;
    for (int i = 0; i < OP_ATTRS; i++)
        same &= fabs(x->attr[i] - y->attr[i]) <= 1e-9 * fabs(x->attr[i]);
    return same;
}

static const struct rate *find_rate(const struct rates *r, const char *op, enum way way)
{
    for (int i = 0; i < r->n_rates; i++)
        if (r->rate[i].way == way && strcmp(r->rate[i].op, op) == 0)
            return &r->rate[i];
    return way == WAY_AGAIN ? find_rate(r, op, WAY_FWD) : NULL;
}

static double over(double amount, double rate)
{
    return rate > 0 ? amount / rate : 0;
}

double rates_measured(const struct rates *r, const struct rates_call *c)
{
    const struct rate *rate = find_rate(r, c->op, c->way);
    for (int i = 0; i < r->n_entries; i++)
        if (rates_same_call(&r->entry[i].call, c))
            return r->entry[i].seconds / (rate && rate->flops_per_s > 0 ? r->flops_part : r->bytes_part);
    return -1;
}

double rates_seconds(const struct rates *r, const struct rates_call *c, double flops, double bytes,
                     double gradient_bytes)
{
    const struct rate *rate = find_rate(r, c->op, c->way);
    if (!rate)
        return -1;
    const double work =
        over(flops, rate->flops_per_s * r->flops_part) + over(bytes, rate->bytes_per_s * r->bytes_part);
    return work / 2 + hypot(work / 2, over(gradient_bytes, rate->gradient_bytes_per_s * r->bytes_part));
}

static bool is_of(const struct rates_call *c, const char *op, enum way way)
{
    return c->way == way && strcmp(c->op, op) == 0;
}

/* How far a rate is from the entries of an operator and way: the sum of squares of logarithms. */
static double misfit(const struct rates *r, const struct rate *rate)
{
    double sum = 0;
    for (int i = 0; i < r->n_entries; i++) {
        const struct rates_entry *x = &r->entry[i];
        if (!is_of(&x->call, rate->op, rate->way))
            continue;
        const double told = over(x->flops, rate->flops_per_s) + over(x->bytes, rate->bytes_per_s),
                     off = told > 0 ? log(told / x->seconds) : 100;
        sum += off * off;
    }
    return sum;
}

/* The rates whose sum of times is nearest to the entries' in relative terms: a small system of normal equations. Rates that
 * are not positive: FLOPs and bytes do not tell apart what takes the time. */
static struct rate both_rates(const struct rates *r, const struct rates_call *c)
{
    double ff = 0, fb = 0, bb = 0, f1 = 0, b1 = 0;
    for (int i = 0; i < r->n_entries; i++) {
        const struct rates_entry *x = &r->entry[i];
        if (!is_of(&x->call, c->op, c->way))
            continue;
        const double f = x->flops / x->seconds / 1e9, b = x->bytes / x->seconds / 1e9;
        ff += f * f;
        fb += f * b;
        bb += b * b;
        f1 += f;
        b1 += b;
    }
    const double whole = ff * bb - fb * fb, per_flop = f1 * bb - b1 * fb, per_byte = b1 * ff - f1 * fb;
    if (!(whole > 1e-6 * ff * bb && per_flop > 0 && per_byte > 0))
        return (struct rate){ 0 };
    return (struct rate){ c->op, c->way, 1e9 * whole / per_flop, 1e9 * whole / per_byte, 0 };
}

static struct rate fitted(const struct rates *r, const struct rates_call *c)
{
    double seconds = 0, flops = 0, bytes = 0;
    for (int i = 0; i < r->n_entries; i++) {
        const struct rates_entry *x = &r->entry[i];
        if (!is_of(&x->call, c->op, c->way))
            continue;
        seconds += x->seconds;
        flops += x->flops;
        bytes += x->bytes;
    }
    const struct rate compute = { c->op, c->way, flops / seconds, 0, 0 },
                      memory = { c->op, c->way, 0, bytes / seconds, 0 }, both = both_rates(r, c),
                      one = misfit(r, &compute) < misfit(r, &memory) ? compute : memory;
    return both.op && misfit(r, &both) < misfit(r, &one) ? both : one;
}

void rates_fit(struct arena *a, struct rates *r)
{
    struct rate *all = ARENA_NEW(a, struct rate, r->n_entries);
    r->rate = all;
    r->n_rates = 0;
    for (int i = 0; i < r->n_entries; i++) {
        const struct rates_call *c = &r->entry[i].call;
        bool known = false;
        for (int k = 0; k < r->n_rates; k++)
            known |= all[k].way == c->way && strcmp(all[k].op, c->op) == 0;
        if (!known)
            all[r->n_rates++] = fitted(r, c);
    }
}

static void write_entry(struct str *s, const struct rates_entry *x)
{
    str_addf(s, "{\"operator\": \"%s\", \"way\": \"%s\", \"sizes\": [", x->call.op,
             rates_way_name[x->call.way]);
    for (int i = 0; i < OP_DIMS; i++)
        str_addf(s, "%s%lld", i ? ", " : "", (long long)x->call.dim[i]);
    str_add(s, "], \"attributes\": [");
    for (int i = 0; i < OP_ATTRS; i++)
        str_addf(s, "%s%.17g", i ? ", " : "", x->call.attr[i]);
    str_addf(s, "], \"arguments\": %u, \"gradients\": %u, \"wide\": %u, ", x->call.args, x->call.grads,
             x->call.wide);
    str_addf(s, "\"seconds\": %.6g, \"flops\": %.17g, \"bytes\": %.17g}", x->seconds, x->flops, x->bytes);
}

void rates_write(const struct rates *r, struct str *out)
{
    str_addf(out, "{\"version\": 1, \"device\": \"%s\", \"calls\": [", r->backend == CUDA ? "cuda" : "cpu");
    for (int i = 0; i < r->n_entries; i++) {
        str_add(out, i ? ",\n" : "\n");
        write_entry(out, &r->entry[i]);
    }
    str_add(out, "\n]}\n");
}

static bool read_numbers(const struct json *j, jval call, const char *key, int n, double *out, struct err *e)
{
    jval list;
    if (!json_want_array(j, call, key, &list, e))
        return false;
    if (json_count(list) != n)
        return json_err(j, call, key, e, "expected %d numbers, found %lld", n, (long long)json_count(list));
    for (int i = 0; i < n; i++) {
        const enum json_type t = json_type(json_at(list, i));
        if (t != JSON_INT && t != JSON_REAL)
            return json_err(j, call, key, e, "expected numbers, found %s", json_type_name(t));
        out[i] = json_number(json_at(list, i));
        if (!(fabs(out[i]) <= 1e18))
            return json_err(j, call, key, e, "expected numbers up to 1e18, found %g", out[i]);
    }
    return true;
}

static bool read_way(const struct json *j, jval call, enum way *out, struct err *e)
{
    const char *text;
    if (!json_want_string(j, call, "way", &text, e))
        return false;
    for (int i = 0; i < RATES_WAYS; i++)
        if (strcmp(text, rates_way_name[i]) == 0) {
            *out = (enum way)i;
            return true;
        }
    return json_err(j, call, "way", e, "expected fwd, bwd, again or both, found \"%s\"", text);
}

static bool read_cost(const struct json *j, jval call, struct rates_entry *x, struct err *e)
{
    if (!json_want_number(j, call, "seconds", &x->seconds, e) ||
        !json_want_number(j, call, "flops", &x->flops, e) ||
        !json_want_number(j, call, "bytes", &x->bytes, e))
        return false;
    if (!(x->seconds > 0 && x->seconds < 1e6))
        return json_err(j, call, "seconds", e, "expected a positive number, found %g", x->seconds);
    return (x->flops >= 0 && x->flops < 1e30 && x->bytes >= 0 && x->bytes < 1e30) ||
           json_err(j, call, "flops", e, "expected FLOPs and bytes from 0 on, found %g and %g", x->flops,
                    x->bytes);
}

static bool read_entry(struct arena *a, const struct json *j, jval call, struct rates_entry *x, struct err *e)
{
    const char *op;
    double dim[OP_DIMS] = { 0 };
    int64_t args, grads, wide;
    if (json_type(call) != JSON_OBJECT)
        return json_err(j, json_root(j), "calls", e, "expected objects");
    if (!json_want_string(j, call, "operator", &op, e) || !read_way(j, call, &x->call.way, e) ||
        !read_numbers(j, call, "sizes", OP_DIMS, dim, e) ||
        !read_numbers(j, call, "attributes", OP_ATTRS, x->call.attr, e) ||
        !json_want_int(j, call, "arguments", 0, UINT32_MAX, &args, e) ||
        !json_want_int(j, call, "gradients", 0, UINT32_MAX, &grads, e) ||
        !json_want_int(j, call, "wide", 0, UINT32_MAX, &wide, e) || !read_cost(j, call, x, e))
        return false;
    x->call.op = arena_strdup(a, op);
    x->call.args = (uint32_t)args;
    x->call.grads = (uint32_t)grads;
    x->call.wide = (uint32_t)wide;
    for (int i = 0; i < OP_DIMS; i++)
        x->call.dim[i] = (int64_t)dim[i];
    return true;
}

static bool read_table(struct arena *a, const struct json *j, struct rates *out, struct err *e)
{
    const jval r = json_root(j);
    const char *device;
    int64_t version;
    jval calls;
    if (json_type(r) != JSON_OBJECT)
        return json_err(j, r, "", e, "expected an object");
    if (!json_want_int(j, r, "version", 1, 1, &version, e) || !json_want_string(j, r, "device", &device, e) ||
        !json_want_array(j, r, "calls", &calls, e))
        return false;
    if (strcmp(device, "cpu") != 0 && strcmp(device, "cuda") != 0)
        return json_err(j, r, "device", e, "expected cpu or cuda, found \"%s\"", device);
    const int64_t n = json_count(calls), most = 1 << 16;
    if (n > most)
        return json_err(j, r, "calls", e, "expected at most %lld, found %lld", (long long)most, (long long)n);
    struct rates_entry *all = ARENA_NEW(a, struct rates_entry, n);
    for (int64_t i = 0; i < n; i++)
        if (!read_entry(a, j, json_at(calls, i), &all[i], e))
            return false;
    out->backend = strcmp(device, "cuda") == 0 ? CUDA : CPU;
    out->n_entries = (int)n;
    out->entry = all;
    return true;
}

bool rates_read(struct arena *a, const char *path, struct rates *out, struct err *e)
{
    struct json *j = json_read(path, 64u << 20, e);
    if (!j)
        return false;
    *out = (struct rates){ .name = arena_strdup(a, path), .flops_part = 1, .bytes_part = 1 };
    const bool ok = read_table(a, j, out, e);
    json_free(j);
    if (ok)
        rates_fit(a, out);
    return ok;
}
