/* collect_cuda_test.c - what exchanges between ranks do on a CUDA device: sums and moves against those of the host, bit
 * for bit, and NCCL with one rank. Skips where there is no device or no library. */
#include "device/comm_impl.h"
#include "device/device_impl.h"
#include "tests/cuda_fixture.h"
#include "tests/twins.h"

static uint32_t random_bits(uint64_t i)
{
    return (uint32_t)rng_u64(opcall_seed(), 9, i);
}

/* out += one part, as the sums of shards are kept and added; float32. */
static void check_added(int64_t n, bool add)
{
    const size_t bytes = sizeof(float) * (size_t)n;
    float *part = malloc(bytes), *out = malloc(bytes), *got = malloc(bytes);
    char *from = device_buffer(bytes), *to = device_buffer(bytes);
    for (int64_t i = 0; i < n; i++) {
        part[i] = (float)rng_normal(opcall_seed(), 4, (uint64_t)i);
        out[i] = (float)rng_normal(opcall_seed(), 5, (uint64_t)i) * 1e3f;
    }
    device_cuda()->put(from, part, bytes);
    device_cuda()->put(to, out, bytes);
    device_cuda()->sum(&(struct device_sum){ from, to, F32, 1, n, n, add });
    device_sum_cpu(&(struct device_sum){ part, out, F32, 1, n, n, add });
    device_cuda()->get(got, to, bytes);
    EXPECT(memcmp(got, out, bytes) == 0);
    EXPECT(device_guarded(from, bytes) && device_guarded(to, bytes));
    device_cuda()->release(from);
    device_cuda()->release(to);
    free(part), free(out), free(got);
}

TEST(sums_of_shards_are_those_of_the_host)
{
    static const int64_t n[] = { 1, 255, 257, 100003 };
    if (!have_device())
        return;
    for (size_t i = 0; i < 2 * sizeof n / sizeof *n; i++)
        check_added(n[i / 2], i % 2);
}

/* out = tree of parts, both as `type`; sums of the host are float32. */
static void check_sum(enum dtype type, int n_parts, int64_t stride, int64_t n, bool in_place)
{
    const size_t each = num_dtype_bytes(type), bytes = each * (size_t)(n_parts * stride);
    char *raw = malloc(bytes + 16), *got = malloc(each * (size_t)n + 16),
         *want = malloc(each * (size_t)n + 16);
    float *parts = malloc(sizeof *parts * (size_t)(n_parts * stride) + 16);
    char *device = device_buffer(bytes), *out = device_buffer(each * (size_t)n);
    for (int64_t i = 0; i < n_parts * stride; i++)
        parts[i] = (float)rng_normal(opcall_seed(), 3, (uint64_t)i) * (i % 5 == 0 ? 1e4f : 1e-3f);
    num_from_float(raw, parts, type, n_parts * stride);
    num_to_float(parts, raw, type, n_parts * stride);
    device_cuda()->put(device, raw, bytes);
    struct device_sum s = { parts, parts, F32, n_parts, stride, n, false };
    device_sum_cpu(&s);
    num_from_float(want, parts, type, n);
    s = (struct device_sum){ device, in_place ? device : out, type, n_parts, stride, n, false };
    device_cuda()->sum(&s);
    device_cuda()->get(got, s.out, each * (size_t)n);
    EXPECT(memcmp(got, want, each * (size_t)n) == 0);
    EXPECT(device_guarded(device, bytes) && device_guarded(out, each * (size_t)n));
    device_cuda()->release(device);
    device_cuda()->release(out);
    free(raw), free(got), free(want), free(parts);
}

TEST(sums_of_parts_are_those_of_the_host)
{
    static const int n_parts[] = { 1, 2, 3, 4, 5, 6, 7, 8, 13, 16, 33, 100 };
    if (!have_device())
        return;
    for (size_t i = 0; i < sizeof n_parts / sizeof *n_parts; i++)
        for (int k = 0; k < 4; k++) {
            check_sum(k % 2 ? BF16 : F32, n_parts[i], 1000 + 8 * k, 1000 - k, k < 2);
            check_sum(k % 2 ? BF16 : F32, n_parts[i], 257, 257, k >= 2);
        }
}

/* Parts that lie apart, of which one is the place of the sum: as of parts that lie together. `odd`: elements off a multiple of
 * 16 bytes. */
static void check_sum_of(enum dtype type, int n_parts, int64_t n, int odd, bool add)
{
    const size_t each = num_dtype_bytes(type), bytes = each * (size_t)n;
    char *together = device_buffer(bytes * (size_t)n_parts), *want = malloc(bytes), *got = malloc(bytes);
    char *apart[DEVICE_MEMBERS], *raw = malloc(bytes);
    struct device_sum_of s = { .type = type, .n_parts = n_parts, .n = n, .add = add };
    for (int m = 0; m < n_parts; m++) {
        apart[m] = device_buffer(bytes + 16);
        for (int64_t i = 0; i < n; i++) {
            const float x = (float)rng_normal(opcall_seed(), (uint64_t)m, (uint64_t)i);
            num_from_float(raw + (size_t)i * each, &x, type, 1);
        }
        device_cuda()->put(apart[m] + (size_t)odd * each, raw, bytes);
        device_cuda()->put(together + (size_t)m * bytes, raw, bytes);
        s.of[m] = apart[m] + (size_t)odd * each;
    }
    char *out = device_buffer(bytes);
    device_cuda()->put(out, raw, bytes);
    device_cuda()->sum(&(struct device_sum){ together, out, type, n_parts, n, n, add });
    device_cuda()->get(want, out, bytes);
    s.out = (void *)(uintptr_t)s.of[n_parts - 1]; /* which has `raw` */
    device_cuda()->sum_of(&s);
    device_cuda()->get(got, s.out, bytes);
    EXPECTF(memcmp(got, want, bytes) == 0, "%d parts of %lld", n_parts, (long long)n);
    for (int m = 0; m < n_parts; m++) {
        EXPECT(device_guarded(apart[m], bytes + 16));
        device_cuda()->release(apart[m]);
    }
    device_cuda()->release(together);
    device_cuda()->release(out);
    free(want), free(got), free(raw);
}

TEST(sums_of_parts_that_lie_apart)
{
    static const int n_parts[] = { 1, 2, 3, 5, 8, 13, 64 };
    if (!have_device())
        return;
    for (size_t i = 0; i < sizeof n_parts / sizeof *n_parts; i++)
        for (int k = 0; k < 4; k++) {
            check_sum_of(k % 2 ? BF16 : F32, n_parts[i], 4096, 0, k < 2);
            check_sum_of(k % 2 ? BF16 : F32, n_parts[i], 1003, 0, k >= 2);
            check_sum_of(k % 2 ? BF16 : F32, n_parts[i], 512, 1, k < 2);
        }
}

/* Every fourth segment or so is empty. */
static int64_t rows_of_segment(int64_t i, int64_t most)
{
    return random_bits((uint64_t)i) % 4 == 0 ? 0 : random_bits((uint64_t)(1000 + i)) % (uint32_t)most;
}

/* Segments of random lengths, some empty, in tiles; rows of row_bytes. */
static void check_move(int64_t n_segments, int64_t tile, int64_t row_bytes, int64_t most, bool pack)
{
    int32_t *end = malloc(sizeof *end * 2 * (size_t)n_segments), *from = end + n_segments;
    int64_t at = 0, sum = 1; /* packed rows stand in another order: the last segment first */
    for (int64_t i = 0; i < n_segments; i++) {
        from[i] = (int32_t)rows_of_segment(i, most);
        end[i] = (int32_t)(at + from[i]);
        at = (end[i] + tile - 1) / tile * tile;
    }
    for (int64_t i = n_segments - 1; i >= 0; i--) {
        sum += from[i];
        from[i] = (int32_t)(sum - from[i]);
    }
    const int64_t n_rows = at + tile;
    const size_t bytes[2] = { (size_t)(n_rows * row_bytes), (size_t)((sum + 1) * row_bytes) },
                 ends = sizeof *end * 2 * (size_t)n_segments;
    char *host[2], *device[2], *got = malloc(bytes[0] + bytes[1]), *places = device_buffer(ends);
    for (int k = 0; k < 2; k++) {
        host[k] = malloc(bytes[k]);
        device[k] = device_buffer(bytes[k]);
        for (size_t i = 0; i < bytes[k]; i++)
            host[k][i] = (char)random_bits(i + (size_t)k * 1000003);
        device_cuda()->put(device[k], host[k], bytes[k]);
    }
    device_cuda()->put(places, end, ends);
    struct device_move m = { host[0], host[1], end, from, NULL, n_segments, tile, n_rows, row_bytes, pack };
    device_move_cpu(&m);
    m.rows = device[0], m.packed = device[1];
    m.end = (const int32_t *)places, m.from = m.end + n_segments;
    device_cuda()->move(&m);
    for (int k = 0; k < 2; k++) {
        device_cuda()->get(got, device[k], bytes[k]);
        EXPECT(memcmp(got, host[k], bytes[k]) == 0);
        EXPECT(device_guarded(device[k], bytes[k]));
        device_cuda()->release(device[k]);
        free(host[k]);
    }
    device_cuda()->release(places);
    free(end), free(got);
}

TEST(rows_move_as_on_the_host)
{
    static const int64_t cases[][4] = { { 1, 128, 16, 5 },    { 8, 128, 4, 300 },  { 64, 128, 4096, 200 },
                                        { 160, 128, 144, 3 }, { 6, 128, 20, 400 }, { 5, 1, 48, 9 } };
    if (!have_device())
        return;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (int pack = 0; pack < 2; pack++)
            check_move(cases[i][0], cases[i][1], cases[i][2], cases[i][3], pack);
}

TEST(rows_that_travel_once_come_to_all_their_places)
{
    static const struct twins_case cases[] = {
        { 1, 1, 1, 1, 16, 1, TWINS_ANY },
        { 50, 2, 8, 1, 12, 4, TWINS_ANY },
        { 33, 6, 16, 128, 20, 2, TWINS_ANY },
        { 300, 6, 64, 128, 4096, 8, TWINS_ANY },
        { 20, 3, 12, 8, 144, 4, TWINS_ONE_MEMBER },
        { 20, 3, 12, 8, 8, 4, TWINS_HALF_EMPTY },
        { 50, 40, 80, 1, 48, 2, TWINS_ANY },
        { 90, 64, 128, 128, 2064, 1, TWINS_ANY }, /* more twins than a warp has lanes */
        { 5000, 4, 8, 128, 32, 2, TWINS_ANY },
        { 3, 2, 64, 128, 16, 8, TWINS_ANY },
    };
    if (!have_device())
        return;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        twins_try(device_cuda(), &cases[i], device_cuda()->pull);
}

/* Segments in order, of which some have no rows and some rows of others lie between: each from a member's rows, anywhere in them. */
struct pulled {
    int64_t n, each, tile, row_bytes, n_rows, member_rows;
    int members;
    int32_t *tables; /* begin, end, first */
};

static void draw_segments(struct pulled *p)
{
    int64_t at = 0;
    for (int64_t i = 0; i < p->n; i++) {
        const int64_t rows = rows_of_segment(i, p->member_rows),
                      between = p->tile == 1 ? rows_of_segment(500 + i, 3) : 0;
        p->tables[i] = (int32_t)(at + between);
        p->tables[p->n + i] = (int32_t)(at + between + rows);
        p->tables[2 * p->n + i] =
            (int32_t)(random_bits((uint64_t)(7000 + i)) % (uint32_t)(p->member_rows - rows + 1));
        at = (p->tables[p->n + i] + p->tile - 1) / p->tile * p->tile;
    }
    p->n_rows = at + 5;
}

/* The definition, on the host. */
static void pull(const struct pulled *p, char *rows, char *const *of)
{
    for (int64_t i = 0; i < p->n; i++) {
        const int32_t begin = p->tables[i], end = p->tables[p->n + i], first = p->tables[2 * p->n + i];
        for (int64_t r = begin; r < (end + p->tile - 1) / p->tile * p->tile; r++)
            if (r < end)
                memcpy(rows + r * p->row_bytes,
                       of[i / p->each % p->members] + (first + r - begin) * p->row_bytes,
                       (size_t)p->row_bytes);
            else
                memset(rows + r * p->row_bytes, 0, (size_t)p->row_bytes);
    }
}

static void check_pull(struct pulled p)
{
    p.tables = malloc(sizeof *p.tables * 3 * (size_t)p.n);
    draw_segments(&p);
    const size_t bytes = (size_t)(p.n_rows * p.row_bytes), member = (size_t)(p.member_rows * p.row_bytes),
                 tables = sizeof *p.tables * 3 * (size_t)p.n;
    char *want = malloc(bytes), *got = malloc(bytes), *rows = device_buffer(bytes),
         *there = device_buffer(tables);
    char *host[DEVICE_MEMBERS], *device[DEVICE_MEMBERS];
    struct device_pull d = { .rows = rows,
                             .n_segments = p.n,
                             .each = p.each,
                             .tile = p.tile,
                             .n_rows = p.n_rows,
                             .row_bytes = p.row_bytes,
                             .members = p.members };
    for (size_t i = 0; i < bytes; i++)
        want[i] = (char)random_bits(i);
    device_cuda()->put(rows, want, bytes);
    device_cuda()->put(there, p.tables, tables);
    for (int m = 0; m < p.members; m++) {
        host[m] = malloc(member);
        device[m] = device_buffer(member);
        for (size_t i = 0; i < member; i++)
            host[m][i] = (char)random_bits(i + (size_t)(m + 1) * 1000003);
        device_cuda()->put(device[m], host[m], member);
        d.of[m] = device[m];
    }
    d.begin = (const int32_t *)there;
    d.end = d.begin + p.n;
    d.first = d.end + p.n;
    device_cuda()->pull(&d);
    pull(&p, want, host);
    device_cuda()->get(got, rows, bytes);
    EXPECT(memcmp(got, want, bytes) == 0 && device_guarded(rows, bytes));
    for (int m = 0; m < p.members; m++) {
        device_cuda()->release(device[m]);
        free(host[m]);
    }
    device_cuda()->release(rows);
    device_cuda()->release(there);
    free(want), free(got), free(p.tables);
}

TEST(rows_are_pulled_from_where_members_have_them)
{
    if (!have_device())
        return;
    check_pull(
        (struct pulled){ .n = 1, .each = 1, .tile = 128, .row_bytes = 16, .member_rows = 5, .members = 1 });
    check_pull((struct pulled){
        .n = 64, .each = 1, .tile = 128, .row_bytes = 4096, .member_rows = 200, .members = 2 });
    check_pull(
        (struct pulled){ .n = 24, .each = 8, .tile = 1, .row_bytes = 4, .member_rows = 300, .members = 3 });
    check_pull(
        (struct pulled){ .n = 64, .each = 8, .tile = 1, .row_bytes = 144, .member_rows = 70, .members = 8 });
    check_pull(
        (struct pulled){ .n = 12, .each = 1, .tile = 8, .row_bytes = 20, .member_rows = 9, .members = 4 });
}

/* One rank is member 0 of a group of one: every call that several make. */
static void try_nccl(struct comm_group *g)
{
    enum { N = 3000 };
    int32_t host[N], got[N];
    const int64_t cut[2] = { 40, 4 * N - 40 };
    int64_t rows[1] = { 100 }, send_at[1] = { 7 }, recv_at[1] = { 20 };
    const struct comm_rows r = { rows, send_at, rows, recv_at };
    char *a = device_buffer(sizeof host), *b = device_buffer(sizeof host);
    void *stream = device_cuda()->stream();
    for (int i = 0; i < N; i++)
        host[i] = (int32_t)random_bits((uint64_t)i);
    device_cuda()->put(a, host, sizeof host);
    device_cuda()->zero(b, sizeof host);
    nccl_gather(g, a, sizeof host, stream);
    nccl_gather_ranges(g, a, cut, stream);
    nccl_exchange(g, a, b, &r, 12, stream);
    device_cuda()->get(got, a, sizeof host);
    EXPECT(memcmp(got, host, sizeof host) == 0);
    device_cuda()->get(got, b, sizeof host);
    EXPECT(memcmp(got + 3 * 20, host + 3 * 7, 100 * 12) == 0);
    EXPECT(got[3 * 20 - 1] == 0 && got[3 * 120] == 0);
    EXPECT(device_guarded(a, sizeof host) && device_guarded(b, sizeof host));
    device_cuda()->release(a);
    device_cuda()->release(b);
}

TEST(nccl_with_one_rank)
{
    struct err e = { 0 };
    struct comm_group g = { .name = "test", .n = 1, .mpi = -1 };
    char id[NCCL_ID_BYTES];
    if (!have_device())
        return;
    if (!nccl_open(&e)) {
        test_skip("%s", e.text);
        return;
    }
    printf("  %s\n", nccl_name());
    nccl_id(id);
    nccl_join(&g, id, 0);
    try_nccl(&g);
    device_cuda()->wait();
    nccl_leave(g.nccl);
}

TEST(devices_have_an_identity)
{
    unsigned char a[16] = { 0 }, b[16] = { 0 }, none[16] = { 0 };
    if (!have_device())
        return;
    device_cuda()->identity(a);
    device_cuda()->identity(b);
    EXPECT(memcmp(a, b, 16) == 0 && memcmp(a, none, 16) != 0);
}
