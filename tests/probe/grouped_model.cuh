/* grouped_model.cuh - the barriers of BACK in grouped_later.cuh, on the host: two blocks of a cluster, each one loader and
 * two warpgroups, run in random order over random tiles, and copies arrive when they like. A warpgroup is one actor.
 * Shown: all come to their end; no wait ends with the phase of another turn; what is read is what was asked for, and is
 * not written meanwhile. Stages and units are those of the kernel. */
#pragma once
#include "src/cuda/grouped_later.cuh"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
enum {
    BLOCKS = 2,
    GROUPS = 2,
    ACTORS = BLOCKS * (1 + GROUPS),
    MOST_TILES = 8,
    MOST_ACTS = 2048,
    MOST_COPIES = 64
};
enum act_kind {
    WAIT_EMPTY,
    LOAD,
    WAIT_FULL,
    RELEASE,
    WAIT_STORES,
    ASK,
    WAIT_PIECE,
    USE,
    STORE,
    MEET,
    ASK_ALL,
    WAIT_ALL
};
struct act {
    enum act_kind kind;
    int what; /* the step; the turn of a piece */
    int room; /* of a piece: 0, or i + 1: the i-th in the ring */
};
struct list {
    struct act act[MOST_ACTS];
    int n, at;
};
struct barrier {
    int phase, missing, bytes, count;
};
struct copy { /* under way */
    enum act_kind kind;
    int block, group, what, room;
};
struct model {
    struct list list[ACTORS]; /* of block b: 3 b its loader, then its warpgroups */
    struct barrier full[BLOCKS][STAGES], empty[BLOCKS][STAGES], piece[BLOCKS][GROUPS], all[BLOCKS][GROUPS];
    int stage[BLOCKS][STAGES][BLOCKS], readers[BLOCKS][STAGES]; /* the step that each block's half is of */
    int in[BLOCKS][GROUPS][8];                                  /* which turn of h lies in a room */
    int leaving[BLOCKS][GROUPS];                                /* stores that are not read yet */
    int met[BLOCKS];
    bool ring_has_h[BLOCKS];
    struct copy copy[MOST_COPIES];
    int n_copies, seed;
    const char *wrong;
};

static int any(struct model *m, int n)
{
    m->seed = (int)(((unsigned)m->seed * 1103515245u + 12345u) & 0x7fffffff);
    return (m->seed >> 8) % n;
}
static void add(struct list *l, enum act_kind kind, int what, int room)
{
    const struct act a = { kind, what, room };
    CHECK(l->n < MOST_ACTS, "%d acts", l->n);
    l->act[l->n++] = a;
}
static void settle(struct barrier *b)
{
    if (b->missing == 0 && b->bytes == 0) {
        b->phase++;
        b->missing = b->count;
    }
}
static void arrive(struct barrier *b, int bytes)
{
    b->missing--;
    b->bytes += bytes;
    settle(b);
}
/* As the hardware sees it: by parity; and it must be the phase that was meant. */
static bool passes(struct model *m, const struct barrier *b, int phase)
{
    const bool over = (b->phase & 1) != (phase & 1);
    if (over && b->phase != phase + 1)
        m->wrong = "a wait ended with another phase";
    return over;
}
static void send(struct model *m, enum act_kind kind, int block, int group, int what, int room)
{
    const struct copy c = { kind, block, group, what, room };
    CHECK(m->n_copies < MOST_COPIES, "%d copies", m->n_copies);
    m->copy[m->n_copies++] = c;
}

/* A copy ends: LOAD, ASK, ASK_ALL write, STORE has read. group of LOAD: whose half it is. */
static void land(struct model *m, int i)
{
    const struct copy c = m->copy[i];
    m->copy[i] = m->copy[--m->n_copies];
    if (c.kind == LOAD) {
        struct barrier *full = &m->full[c.block][c.what % STAGES];
        if (m->readers[c.block][c.what % STAGES] || m->ring_has_h[c.block])
            m->wrong = "a stage is written while it is read";
        m->stage[c.block][c.what % STAGES][c.group] = c.what;
        full->bytes--;
        settle(full);
    } else if (c.kind == STORE) {
        if (m->in[c.block][c.group][c.room] != c.what)
            m->wrong = "results were overwritten before they left";
        m->leaving[c.block][c.group]--;
    } else {
        struct barrier *b = c.kind == ASK ? &m->piece[c.block][c.group] : &m->all[c.block][c.group];
        m->in[c.block][c.group][c.room] = c.what;
        b->bytes--;
        settle(b);
    }
}

/* The ring is for h now: nobody may read it or load into it. */
static void check_ring_free(struct model *m, int block)
{
    m->ring_has_h[block] = true;
    for (int i = 0; i < STAGES; i++)
        if (m->readers[block][i])
            m->wrong = "h comes into a stage that is read";
    for (int i = 0; i < m->n_copies; i++)
        if (m->copy[i].kind == LOAD && m->copy[i].block == block)
            m->wrong = "h comes into a stage that is loaded";
}

/* What an act does when nothing holds it up: of block b, warpgroup g. */
static bool act_ring(struct model *m, const struct act *a, int b)
{
    const int at = a->what % STAGES, turn = a->what / STAGES;
    if (a->kind == WAIT_EMPTY)
        return turn == 0 || passes(m, &m->empty[b][at], turn - 1);
    if (a->kind == LOAD) {
        arrive(&m->full[b][at], BLOCKS);
        for (int to = 0; to < BLOCKS; to++)
            send(m, LOAD, to, b, a->what, 0);
    } else if (a->kind == WAIT_FULL) {
        if (!passes(m, &m->full[b][at], turn))
            return false;
        if (m->stage[b][at][0] != a->what || m->stage[b][at][1] != a->what)
            m->wrong = "a stage holds another step";
        m->readers[b][at]++;
    } else {
        m->readers[b][at]--;
        for (int to = 0; to < BLOCKS; to++)
            arrive(&m->empty[to][at], 0);
    }
    return true;
}
static bool act_piece(struct model *m, const struct act *a, int b, int g)
{
    if (a->kind == WAIT_STORES)
        return m->leaving[b][g] == 0;
    if (a->kind == WAIT_PIECE)
        return passes(m, &m->piece[b][g], a->what);
    if (a->kind == WAIT_ALL)
        return passes(m, &m->all[b][g], 0);
    if (a->kind == ASK) {
        arrive(&m->piece[b][g], 1);
        send(m, ASK, b, g, a->what, 0);
    } else if (a->kind == ASK_ALL) { /* `room` pieces */
        check_ring_free(m, b);
        arrive(&m->all[b][g], a->room);
        for (int i = 0; i < a->room; i++)
            send(m, ASK_ALL, b, g, a->what + i, 1 + i);
    } else if (a->kind == STORE) {
        m->leaving[b][g]++;
        send(m, STORE, b, g, a->what, a->room);
    } else if (m->in[b][g][a->room] != a->what) {
        m->wrong = "another h than that of the slice";
    }
    return true;
}
static bool step_actor(struct model *m, int i)
{
    struct list *l = &m->list[i];
    const struct act *a = &l->act[l->at];
    const int b = i / (1 + GROUPS), g = i % (1 + GROUPS) - 1;
    if (l->at == l->n)
        return false;
    if (a->kind == MEET) { /* the first one to come waits in front of the act behind it */
        m->met[b] += a->what ? 0 : 1;
        if (a->what && m->met[b] < GROUPS)
            return false;
    } else if (!(a->kind <= RELEASE ? act_ring(m, a, b) : act_piece(m, a, b, g))) {
        return false;
    }
    l->at++;
    return true;
}

/* One unit of a slice, as put_back_unit(); turn: of the slice, counted over all tiles. */
static void list_unit(struct list *l, int unit, int n_units, int first_turn, bool last)
{
    const int slice = unit / 3, turn = first_turn + slice, room = last ? slice : 0;
    if (unit % 3 == 0 && room == 0)
        add(l, WAIT_PIECE, turn, 0);
    if (unit % 3 < 2)
        add(l, USE, turn, room);
    if (unit % 3 == 1)
        add(l, STORE, turn, room);
    if (unit % 3 == 2 && !last && unit + 1 < n_units) {
        add(l, WAIT_STORES, 0, 0);
        add(l, ASK, turn + 1, 0);
    }
}

/* As multiply_all_later(): tiles of so many steps, of so many slices (0: nothing to multiply). */
static void list_group(struct list *l, const int *steps, const int *slices, int n_tiles)
{
    int step = 0, unit = 0, n_units = 0, turn = 0;
    for (int t = 0; t < n_tiles; t++) {
        for (int i = 0; i < steps[t]; i++, step++) {
            add(l, WAIT_FULL, step, 0);
            if (slices[t] == 0)
                add(l, RELEASE, step, 0);
            else if (i > 0)
                add(l, RELEASE, step - 1, 0);
            for (; slices[t] && unit < n_units && (i >= unit_step(BACK, unit) || i == steps[t] - 1); unit++)
                list_unit(l, unit, n_units, turn, false);
        }
        if (slices[t] == 0)
            continue;
        add(l, RELEASE, step - 1, 0);
        turn += n_units / 3;
        unit = 0;
        n_units = 3 * slices[t];
        add(l, WAIT_STORES, 0, 0);
        add(l, ASK, turn, 0);
    }
    add(l, MEET, 0, 0);
    add(l, MEET, 1, 0);
    if (n_units > 3) {
        add(l, ASK_ALL, turn + 1, n_units / 3 - 1);
        add(l, WAIT_ALL, 0, 0);
    }
    for (unit = 0; unit < n_units; unit++)
        list_unit(l, unit, n_units, turn, true);
    add(l, WAIT_STORES, 0, 0);
}

static void begin_model(struct model *m, int seed)
{
    int steps[MOST_TILES], slices[MOST_TILES], n_steps = 0;
    memset(m, 0, sizeof *m);
    m->seed = seed;
    for (int i = 0; i < BLOCKS * STAGES; i++) {
        m->full[i / STAGES][i % STAGES].missing = m->full[i / STAGES][i % STAGES].count = 1;
        m->empty[i / STAGES][i % STAGES].missing = m->empty[i / STAGES][i % STAGES].count = BLOCKS * GROUPS;
    }
    for (int i = 0; i < BLOCKS * GROUPS; i++) {
        m->piece[i / GROUPS][i % GROUPS].missing = m->piece[i / GROUPS][i % GROUPS].count = 1;
        m->all[i / GROUPS][i % GROUPS].missing = m->all[i / GROUPS][i % GROUPS].count = 1;
    }
    const int n_tiles = any(m, MOST_TILES + 1), longest = any(m, 2) ? 3 : 40;
    for (int t = 0; t < n_tiles; t++)
        n_steps += steps[t] = 1 + any(m, longest);
    for (int i = 0; i < ACTORS; i++) {
        if (i % (1 + GROUPS)) {
            for (int t = 0; t < n_tiles; t++)
                slices[t] = any(m, 4) ? 1 + any(m, 8) : 0;
            list_group(&m->list[i], steps, slices, n_tiles);
            continue;
        }
        for (int s = 0; s < n_steps; s++) {
            add(&m->list[i], WAIT_EMPTY, s, 0);
            add(&m->list[i], LOAD, s, 0);
        }
    }
}

/* Whoever can, in random order; one actor or the copies may be much slower than the rest. */
static const char *run_model(struct model *m, int seed)
{
    begin_model(m, seed);
    const int slow = any(m, ACTORS + 2);
    for (int idle = 0; idle < 2000 && !m->wrong; idle++) {
        const int i = any(m, ACTORS + 1);
        if (i == slow && any(m, 20))
            continue;
        if (i < ACTORS ? step_actor(m, i) : m->n_copies > 0) {
            if (i == ACTORS)
                land(m, any(m, m->n_copies));
            idle = 0;
        }
    }
    for (int i = 0; i < ACTORS && !m->wrong; i++)
        if (m->list[i].at < m->list[i].n)
            m->wrong = "somebody waits for ever";
    return m->wrong ? m->wrong : m->n_copies ? "a copy is under way at the end" : NULL;
}

static int check_barriers(void)
{
    static struct model m;
    for (int seed = 1; seed <= 3000; seed++) {
        const char *wrong = run_model(&m, seed);
        if (wrong) {
            printf("barriers: %s (seed %d)\n", wrong, seed);
            return 1;
        }
    }
    printf("barriers: 3000 random runs came to their end\n");
    return 0;
}
