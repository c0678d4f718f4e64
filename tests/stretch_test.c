/* Stretches of launches on a device that only writes down what it is told: run plainly first, recorded second, replayed
 * from then on; and launched one by one where recording fails. */
#include "run/stretch.h"
#include "tests/test.h"
#include <stdlib.h>

static char done[256]; /* a letter per call that ran, by the bytes of the zeroed buffer */
static char taken[64]; /* the same of the recording */
static bool recording, fails;
static int n_forgotten;

static void note(void *at, size_t bytes)
{
    (void)at;
    char *to = recording ? taken : done;
    to[strlen(to)] = (char)('a' + bytes);
}

static void begin(void)
{
    recording = true;
    memset(taken, 0, sizeof taken);
}

static void *end(struct err *e)
{
    recording = false;
    if (fails)
        err_set(e, "as asked");
    return fails ? NULL : strdup(taken);
}

static void replay(void *record)
{
    const size_t n = strlen(done);
    snprintf(done + n, sizeof done - n, "<%s>", (const char *)record);
}

static void forget(void *record)
{
    n_forgotten++;
    free(record);
}

static int64_t used(void)
{
    return 0;
}

static const struct device writer = {
    .zero = note, .record_begin = begin, .record_end = end, .replay = replay, .forget = forget, .used = used
};

/* Two stretches of 10 and 8 launches around one exchange, and one of 3 behind another, which is too short. */
static void make(struct arena *a, struct program *p, struct exec *x)
{
    static struct instr item[23];
    static struct buffer buffer;
    *p = (struct program){ .buffers = &buffer, .n_buffers = 1 };
    for (int i = 0; i < 23; i++)
        item[i] = (struct instr){ .kind = i == 10 || i == 19 ? RUN_SEND : RUN_ZERO, .name = "item", .n = i };
    p->list[LIST_MICRO] = (struct list){ .n = 23, .item = item };
    *x = (struct exec){ .program = p, .device = &writer, .n_slots = { 1, 1, 1 } };
    memset(done, 0, sizeof done);
    n_forgotten = 0;
    stretch_new(a, x, false);
}

TEST(second_run_is_recorded)
{
    struct arena *a = arena_new("stretch");
    struct program p;
    struct exec x;
    fails = false;
    make(a, &p, &x);
    EXPECT_INT(x.n_stretches[LIST_MICRO], 2);
    EXPECT_INT(x.n_stretches[LIST_EVAL], 0);
    for (int i = 0; i < 3; i++)
        EXPECT_INT(stretch_run(&x, LIST_MICRO, 11, false), 19);
    EXPECT_TEXT(done, "lmnopqrs<lmnopqrs><lmnopqrs>");
    EXPECT_INT(stretch_run(&x, LIST_MICRO, 10, false), 10);
    EXPECT_INT(stretch_run(&x, LIST_MICRO, 20, false), 20);
    EXPECT_INT(stretch_run(&x, LIST_MICRO, 0, false), 10);
    EXPECT_INT(x.n_records, 1);
    x.replays = false;
    EXPECT_INT(stretch_run(&x, LIST_MICRO, 11, false), 11);
    stretch_free(&x);
    EXPECT_INT(n_forgotten, 1);
    arena_free(a);
}

static void note_call(const struct call *c)
{
    char *to = recording ? taken : done;
    to[strlen(to)] = (char)('0' + c->add);
}

/* Where sums begin, the first micro-batch has calls of its own and a recording of its own. */
TEST(first_micro_batch_is_recorded_apart)
{
    struct arena *a = arena_new("stretch");
    const struct op op = { .bwd = { [CPU] = note_call } };
    struct instr item[18];
    struct program p = { .list[LIST_MICRO] = { .n = 18, .item = item } };
    struct exec x = { .program = &p, .device = &writer, .n_slots = { 1, 1, 1 } };
    fails = false;
    memset(done, 0, sizeof done);
    for (int i = 0; i < 18; i++)
        item[i] = (struct instr){ .kind = i == 8 ? RUN_SEND : RUN_OP, .op = &op, .backward = true, .add = 3 };
    item[12].first_writes = 2;
    x.calls[LIST_MICRO] = ARENA_NEW(a, struct call, 18);
    stretch_new(a, &x, false);
    EXPECT_INT(x.n_stretches[LIST_MICRO], 3);
    for (int i = 0; i < 6; i++)
        EXPECT_INT(stretch_run(&x, LIST_MICRO, 9, i % 2 == 0), 18);
    EXPECT_TEXT(done, "333133333333333333<333133333><333333333><333133333><333333333>");
    for (int i = 0; i < 2; i++) /* no sum begins there */
        EXPECT_INT(stretch_run(&x, LIST_MICRO, 0, i == 0), 8);
    EXPECT_INT(x.n_records, 3);
    stretch_free(&x);
    arena_free(a);
}

/* What waits for another lane begins a stretch, what one waits for ends it, and so does what runs in a first round alone. */
TEST(waiting_comes_between_stretches)
{
    struct arena *a = arena_new("stretch");
    struct instr item[40];
    struct program p = { .list[LIST_MICRO] = { .n = 40, .item = item } };
    struct exec x = { .program = &p, .device = &writer, .n_slots = { 1, 1, 1 } };
    for (int i = 0; i < 40; i++)
        item[i] = (struct instr){ .kind = RUN_ZERO, .name = "item", .once = i >= 20 && i < 30 };
    item[10].mark = 1;
    item[31].after = 1;
    stretch_new(a, &x, false);
    const struct stretch *s = x.stretches[LIST_MICRO];
    EXPECT_INT(x.n_stretches[LIST_MICRO], 4);
    EXPECT(s[0].from == 0 && s[0].to == 11 && s[1].from == 11 && s[1].to == 20);
    EXPECT(s[2].from == 20 && s[2].to == 30 && s[3].from == 31 && s[3].to == 40);
    arena_free(a);
}

TEST(a_failed_recording_launches_one_by_one)
{
    struct arena *a = arena_new("stretch");
    struct program p;
    struct exec x;
    fails = true;
    make(a, &p, &x);
    stretch_run(&x, LIST_MICRO, 11, false);
    EXPECT_INT(stretch_run(&x, LIST_MICRO, 11, false), 19);
    fails = false; /* it is not tried again; the other one is recorded all the same */
    EXPECT_INT(stretch_run(&x, LIST_MICRO, 11, false), 19);
    EXPECT_TEXT(done, "lmnopqrslmnopqrslmnopqrs");
    stretch_run(&x, LIST_MICRO, 0, false);
    stretch_run(&x, LIST_MICRO, 0, false);
    EXPECT_INT(x.n_records, 1);
    stretch_free(&x);
    EXPECT_INT(n_forgotten, 1);
    arena_free(a);
}
