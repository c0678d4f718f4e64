/* levels.c - see levels.h. The bytes alive at each moment stand in a tree of largest values; level by level, buffers of
 * values that are made again leave the moments between forward and backward. */
#include "sched/levels.h"
#include "sched/life.h"
#include <limits.h>

/* Node i has children 2 i and 2 i + 1; the leaves are the moments. */
struct tree {
    int n_leaves;  /* a power of two */
    int64_t *add;  /* by node: to all leaves below it */
    int64_t *most; /* by node: of its leaves, with what is added below it and here */
};

static struct tree tree_new(struct arena *a, int n_moments)
{
    struct tree t = { .n_leaves = 1 };
    while (t.n_leaves < n_moments)
        t.n_leaves *= 2;
    t.add = ARENA_NEW(a, int64_t, 2 * t.n_leaves);
    t.most = ARENA_NEW(a, int64_t, 2 * t.n_leaves);
    return t;
}

static void raise(const struct tree *t, int node)
{
    const int64_t left = t->most[2 * node], right = t->most[2 * node + 1];
    t->most[node] = t->add[node] + (left > right ? left : right);
}

/* To moments [from, to); from below, as both ends close in on each other. */
static void tree_add(const struct tree *t, int from, int to, int64_t bytes)
{
    int left = from + t->n_leaves, right = to + t->n_leaves;
    if (from >= to)
        return;
    for (; left < right; left /= 2, right /= 2) {
        if (left % 2) {
            t->most[left] += bytes;
            t->add[left++] += bytes;
        }
        if (right % 2) {
            t->most[--right] += bytes;
            t->add[right] += bytes;
        }
    }
    for (int i = (from + t->n_leaves) / 2; i > 0; i /= 2)
        raise(t, i);
    for (int i = (to - 1 + t->n_leaves) / 2; i > 0; i /= 2)
        raise(t, i);
}

struct lives {
    struct life *before, *behind; /* by buffer: in front of backward, and from there on */
    const struct loop *loop;
    int backward, n_moments;
};

static struct life *no_lives(struct arena *a, int n)
{
    struct life *l = ARENA_NEW(a, struct life, n);
    for (int i = 0; i < n; i++)
        l[i] = (struct life){ -1, -1 };
    return l;
}

static void touch(void *context, int buffer, int at)
{
    const struct lives *l = context;
    life_touch(&(at < l->backward ? l->before : l->behind)[buffer], at);
}

static struct lives find_lives(struct arena *a, const struct program *p)
{
    struct lives l = { .before = no_lives(a, p->n_buffers),
                       .behind = no_lives(a, p->n_buffers),
                       .loop = life_loops(a, p),
                       .backward = 1 + p->backward[p->plan.chunks - 1].from,
                       .n_moments = p->n_moments };
    life_each(a, p, touch, &l);
    return l;
}

/* As long as it is kept for backward. */
static struct life whole_of(const struct lives *l, const struct buffer *b, int i)
{
    const struct life before = l->before[i], behind = l->behind[i];
    if (b->last == INT_MAX || b->slots)
        return (struct life){ b->first, b->last == INT_MAX ? l->n_moments - 1 : b->last };
    return before.first < 0 ? behind
                            : (struct life){ before.first, behind.first < 0 ? before.last : behind.last };
}

static void add_life(const struct tree *t, const struct lives *l, struct life alive, int64_t bytes)
{
    const struct life wide = life_widened(alive, l->loop, l->n_moments);
    if (wide.first >= 0)
        tree_add(t, wide.first, wide.last + 1, bytes);
}

/* By level the first buffer of a value that it makes again, and by buffer the next one of the same level; -1: none. */
struct made_again {
    int *first, *next;
};

static struct made_again list_again(struct arena *a, const struct program *p)
{
    const struct made_again d = { ARENA_NEW(a, int, p->recompute_most + 1), ARENA_NEW(a, int, p->n_buffers) };
    for (int r = 0; r <= p->recompute_most; r++)
        d.first[r] = -1;
    for (int i = 0; i < p->n_buffers; i++) {
        d.next[i] = d.first[p->buffers[i].again_at];
        d.first[p->buffers[i].again_at] = i;
    }
    return d;
}

int sched_next_level(struct arena *a, const struct program *x, int64_t bytes)
{
    const struct tree t = tree_new(a, x->n_moments);
    const struct lives l = find_lives(a, x);
    const struct made_again again = list_again(a, x);
    int level = x->plan.recompute + 1;
    for (int i = 0; i < x->n_buffers; i++)
        add_life(&t, &l, whole_of(&l, &x->buffers[i], i), sched_room(&x->buffers[i]));
    for (; level <= x->recompute_most; level++) {
        for (int i = again.first[level]; i >= 0; i = again.next[i]) {
            struct buffer once = x->buffers[i];
            add_life(&t, &l, whole_of(&l, &once, i), -sched_room(&once));
            once.slots = 0;
            add_life(&t, &l, l.before[i], sched_room(&once));
            add_life(&t, &l, l.behind[i], sched_room(&once));
        }
        if (t.most[1] <= bytes)
            break;
    }
    return level;
}

void sched_fit(struct arena *a, struct program *x, const struct plan_bar *bar, struct plan *p)
{
    x->memory = (struct plan_memory){ .peak_bytes = sched_alive_bytes(a, x) };
    if (x->memory.peak_bytes <= bar->bytes && x->memory.peak_bytes > bar->sure_bytes)
        sched_assign(x, a);
    if (x->memory.peak_bytes > bar->bytes) {
        const int next = sched_next_level(a, x, bar->bytes);
        p->recompute_next = next > p->recompute_next ? next : p->recompute_next;
    }
    if (x->memory.peak_bytes > p->memory.peak_bytes)
        p->memory = x->memory;
}
