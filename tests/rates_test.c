/* Tables of operators' rates: an exact call, rates from other sizes, derived tables, reading what was written. */
#include "base/file.h"
#include "base/str.h"
#include "plan/cluster.h"
#include "tests/test.h"

#define EXPECT_NEAR(got, want, tolerance) EXPECT(fabs((got) - (want)) <= (tolerance) * (want))

/* seconds = FLOPs / 1e9 for linear, whatever its bytes; bytes / 2e9 for norm. */
static struct rates_entry entry_of(const char *op, enum way way, int64_t n, double flops, double bytes)
{
    return (
        struct rates_entry){ .call = { .op = op, .way = way, .args = 7, .dim = { n, 3 }, .attr = { 0.1 } },
                             .seconds = strcmp(op, "linear") == 0 ? flops / 1e9 : bytes / 2e9,
                             .flops = flops,
                             .bytes = bytes };
}

static void make_table(struct arena *a, struct rates *r)
{
    struct rates_entry *x = ARENA_NEW(a, struct rates_entry, 5);
    x[0] = entry_of("linear", WAY_FWD, 10, 1e6, 5e3);
    x[1] = entry_of("linear", WAY_FWD, 20, 8e6, 5e3);
    x[2] = entry_of("linear", WAY_BWD, 10, 2e6, 1e4);
    x[3] = entry_of("norm", WAY_FWD, 10, 1e3, 1e4);
    x[4] = entry_of("norm", WAY_FWD, 20, 1e3, 4e4);
    *r = (struct rates){ .name = "t", .flops_part = 1, .bytes_part = 1, .n_entries = 5, .entry = x };
    rates_fit(a, r);
}

static void judge(const struct rates *r)
{
    struct rates_call c = r->entry[1].call;
    EXPECT_NEAR(rates_measured(r, &c), 8e-3, 1e-9); /* this very call */
    c.dim[0] = 11;
    EXPECT_NEAR(rates_seconds(r, &c, 3e6, 1e12, 0), 3e-3, 1e-9);
    c.way = WAY_AGAIN;
    EXPECT_NEAR(rates_seconds(r, &c, 3e6, 1e12, 0), 3e-3, 1e-9);
    c.way = WAY_BOTH;
    EXPECT(rates_seconds(r, &c, 3e6, 1, 0) < 0);
    c.op = "norm";
    c.way = WAY_FWD;
    EXPECT_NEAR(rates_seconds(r, &c, 1e12, 3e4, 0), 1.5e-5, 1e-9);
    c = r->entry[1].call;
    c.grads = 1; /* another call: from the rates */
    EXPECT_NEAR(rates_seconds(r, &c, 5e6, 1, 0), 5e-3, 1e-9);
}

TEST(calls_and_rates)
{
    struct arena *a = arena_new("rates");
    struct rates r;
    make_table(a, &r);
    EXPECT_INT(r.n_rates, 3);
    judge(&r);
    arena_free(a);
}

/* Where neither FLOPs nor bytes alone tell the times, each has a rate, and both times add up. */
TEST(rates_of_both)
{
    static const double cost[4][2] = {
        { 1e6, 1e5 }, { 2e6, 4e6 }, { 9e6, 2e5 }, { 3e6, 3e6 }
    }; /* FLOPs, bytes */
    struct arena *a = arena_new("rates");
    struct rates_entry x[4];
    for (int i = 0; i < 4; i++) {
        x[i] = entry_of("mix", WAY_BWD, 10 + i, cost[i][0], cost[i][1]);
        x[i].seconds = cost[i][0] / 2e9 + cost[i][1] / 1e9;
    }
    struct rates r = { .name = "t", .flops_part = 1, .bytes_part = 1, .n_entries = 4, .entry = x };
    rates_fit(a, &r);
    EXPECT_INT(r.n_rates, 1);
    struct rates_call c = x[0].call;
    c.dim[0] = 9;
    EXPECT_NEAR(rates_seconds(&r, &c, 4e6, 5e6, 0), 7e-3, 1e-6);
    arena_free(a);
}

TEST(cores_of_ranks_are_read_again)
{
    struct arena *a = arena_new("rates");
    struct str s = str_new(a, 1 << 16);
    struct err e = { 0 };
    struct cluster c, again;
    const char *path = arena_printf(a, "%s/here.json", test_dir());
    cluster_cpu(&c, 8, 2, 4);
    EXPECT(c.ranks_per_core == 1); /* whatever the threads, so that the plan is one */
    c.ranks_per_core = 4;
    c.host_bytes_per_s = 3e9;
    cluster_write(&c, NULL, &s);
    EXPECT(file_write(path, s.text, s.bytes, &e));
    EXPECTF(cluster_read(a, path, &again, &e), "%s", e.text);
    EXPECT(again.ranks_per_core == 4 && again.host_bytes_per_s == 3e9);
    arena_free(a);
}

TEST(a_written_table_is_read_again)
{
    struct arena *a = arena_new("rates");
    struct rates r, again;
    struct err e = { 0 };
    struct str s = str_new(a, 1 << 20);
    const char *path = arena_printf(a, "%s/table.json", test_dir()),
               *cluster = arena_printf(a, "%s/cluster.json", test_dir());
    make_table(a, &r);
    rates_write(&r, &s);
    EXPECT(file_write(path, s.text, s.bytes, &e));
    EXPECTF(rates_read(a, path, &again, &e), "%s", e.text);
    EXPECT_INT(again.n_entries, 5);
    for (int i = 0; i < 5; i++)
        EXPECT(rates_same_call(&again.entry[i].call, &r.entry[i].call));
    judge(&again);
    const char text[] = "{\"name\": \"x\", \"ranks_per_node\": 1, \"memory_bytes\": 1, \"flops_per_s\": 1, "
                        "\"peak_flops_per_s\": 1, \"memory_bytes_per_s\": 1, \"link_bytes_per_s\": 1, "
                        "\"link_latency_us\": 1, \"call_us\": 1, \"table\": \"table.json\"}";
    struct cluster c;
    EXPECT(file_write(cluster, text, sizeof text - 1, &e));
    EXPECTF(cluster_read(a, cluster, &c, &e), "%s", e.text); /* the table lies beside it */
    EXPECT(c.rates && c.rates->n_entries == 5);
    EXPECT(c.ranks_per_core == 1 && c.host_bytes_per_s > 0); /* they may be missing */
    arena_free(a);
}

static void expect_refused(const char *text, const char *pattern)
{
    struct arena *a = arena_new("rates");
    struct rates r;
    struct err e = { 0 };
    const char *path = arena_printf(a, "%s/bad.json", test_dir());
    EXPECT(file_write(path, text, strlen(text), &e));
    EXPECT(!rates_read(a, path, &r, &e));
    EXPECTF(strstr(e.text, pattern), "%s", e.text);
    arena_free(a);
}

TEST(bad_tables)
{
    expect_refused("[]", "expected an object");
    expect_refused("{\"version\": 2, \"device\": \"cpu\", \"calls\": []}", "version");
    expect_refused("{\"version\": 1, \"device\": \"tpu\", \"calls\": []}", "cpu or cuda");
    expect_refused("{\"version\": 1, \"device\": \"cpu\", \"calls\": [3]}", "objects");
    expect_refused(
        "{\"version\": 1, \"device\": \"cpu\", \"calls\": [{\"operator\": \"x\", \"way\": \"up\"}]}",
        "way: expected fwd");
    expect_refused(
        "{\"version\": 1, \"device\": \"cpu\", \"calls\": [{\"operator\": \"x\", \"way\": \"fwd\", "
        "\"sizes\": [1]}]}",
        "expected 10 numbers");
}

TEST(derived_tables)
{
    const struct rates *h200 = rates_builtin("h200"), *h100 = rates_builtin("h100"),
                       *a100 = rates_builtin("a100");
    const struct rates_call product = { .op = "linear", .way = WAY_BWD }, pass = { .op = "rope" };
    EXPECT(!rates_builtin("cpu") && h200 && h100 && a100);
    EXPECT_NEAR(rates_seconds(h200, &product, 618e12, 0, 0), 1, 1e-9);
    EXPECT_NEAR(rates_seconds(h100, &product, 618e12, 0, 0), 1, 1e-9);
    EXPECT(rates_seconds(a100, &product, 618e12, 0, 0) > 3);
    /* Half of the work hides gradients: legs of 3 and 4 make 5. Products have no such rate where they hide all of them. */
    const struct rates_call experts = { .op = "experts", .way = WAY_BWD };
    EXPECT_NEAR(rates_seconds(h200, &experts, 6 * 630e12, 0, 4 * 2800e9), 3 + 5, 1e-9);
    EXPECT_NEAR(rates_seconds(h200, &product, 618e12, 0, 1e12), 1, 1e-9);
    EXPECT(rates_seconds(h100, &pass, 0, 1e12, 0) > 1.4 * rates_seconds(h200, &pass, 0, 1e12, 0));
}
