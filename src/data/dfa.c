/* dfa.c - pattern -> program of a backtracking machine -> subset construction that keeps the order of the
 * threads, because order is preference. A state is the list of places behind the character just read; the
 * next class decides which lookaheads hold on the way from there. */
#include "data/dfa.h"
#include "base/err.h"
#include <string.h>
enum { MOST_CODE = 4000, MOST_STATES = 2000, MOST_THREADS = 20000, FIRST_ROOM = 64 };
enum { OP_SET, OP_SPLIT, OP_JUMP, OP_LOOK, OP_MATCH };
struct op_code {
    int op, x, y;              /* x: next, the preferred one of a split; y: the other one */
    const struct charset *set; /* of OP_SET, OP_LOOK */
    bool negative;             /* OP_LOOK */
    bool at_end;               /* OP_LOOK: holds at the end of the text */
    bool *member;              /* OP_SET, OP_LOOK: [alphabet->n + 1] */
};
struct maker {
    struct arena *a, *scratch;
    const struct alphabet *b;
    struct op_code *code;
    int n_code, code_room;
    bool failed;
    int n_states, state_room, row_room, n_threads, thread_room;
    struct {
        int first, n; /* threads */
    } * state;
    int *thread;
    uint16_t *row; /* [n_states, alphabet->n + 1] */
    int *seen, stamp, *stack;
};

/* Room for at least n items, where there is room for *room; most patterns need little. */
static void *with_room(struct arena *a, void *items, int n, int *room, size_t item_bytes)
{
    if (n <= *room)
        return items;
    const int before = *room;
    while (*room < n)
        *room = *room ? 2 * *room : FIRST_ROOM;
    void *more = arena_array(a, *room, item_bytes);
    return before ? memcpy(more, items, (size_t)before * item_bytes) : more;
}

/* The set of a node that is one set, however wrapped. */
static const struct charset *single_set(const struct rx *x)
{
    while ((x->kind == RX_ALT || x->kind == RX_CAT) && x->child && !x->child->next)
        x = x->child;
    return x->kind == RX_SET ? x->set : NULL;
}

/* A property that occurs again is the same charset. */
static bool add_set(const struct charset *x, const struct charset **sets, int64_t *n, int64_t most)
{
    for (int64_t i = 0; i < *n; i++)
        if (sets[i] == x)
            return true;
    if (*n == most)
        return false;
    sets[(*n)++] = x;
    return true;
}

bool dfa_sets(const struct rx *x, struct arena *a, const struct charset **sets, int64_t *n, int64_t most)
{
    if (x->kind == RX_SET)
        return add_set(x->set, sets, n, most);
    if (x->kind == RX_ASSERT)
        return add_set(charset_one(a, '\n'), sets, n, most);
    for (const struct rx *c = x->child; c; c = c->next)
        if (!dfa_sets(c, a, sets, n, most))
            return false;
    return true;
}

static int emit(struct maker *m, int op)
{
    if (m->n_code == MOST_CODE) {
        m->failed = true;
        return 0;
    }
    m->code = with_room(m->scratch, m->code, m->n_code + 1, &m->code_room, sizeof *m->code);
    m->code[m->n_code] = (struct op_code){ .op = op, .x = m->n_code + 1 };
    return m->n_code++;
}

static void emit_set(struct maker *m, const struct charset *set)
{
    const int i = emit(m, OP_SET);
    m->code[i].set = set;
}

static void emit_look(struct maker *m, const struct charset *set, bool negative, bool at_end)
{
    const int i = emit(m, OP_LOOK);
    m->code[i].set = set;
    m->code[i].negative = negative;
    m->code[i].at_end = at_end;
}

static void emit_node(struct maker *m, const struct rx *x);

static void emit_alternatives(struct maker *m, const struct rx *x)
{
    int last_jump = -1; /* jumps to the end are chained through x until the end is known */
    for (const struct rx *c = x->child; c && !m->failed; c = c->next) {
        const int split = c->next ? emit(m, OP_SPLIT) : -1;
        emit_node(m, c);
        if (!c->next)
            break;
        const int jump = emit(m, OP_JUMP);
        m->code[jump].x = last_jump;
        last_jump = jump;
        m->code[split].y = m->n_code;
    }
    while (last_jump >= 0 && !m->failed) {
        const int before = m->code[last_jump].x;
        m->code[last_jump].x = m->n_code;
        last_jump = before;
    }
}

/* One more optional time, or the end of the repeat: which is preferred depends on greed. */
static void aim(struct maker *m, int split, int into, int out, bool lazy)
{
    m->code[split].x = lazy ? out : into;
    m->code[split].y = lazy ? into : out;
}

static void emit_star(struct maker *m, const struct rx *x, bool lazy)
{
    const int split = emit(m, OP_SPLIT);
    emit_node(m, x->child);
    const int jump = emit(m, OP_JUMP);
    m->code[jump].x = split;
    aim(m, split, split + 1, m->n_code, lazy);
}

/* X? nested `times` deep; possessive X leaves only where no X follows. */
static void emit_optional(struct maker *m, const struct rx *x, int times, bool lazy,
                          const struct charset *possessive)
{
    if (times == 0 || m->failed)
        return;
    const int split = emit(m, OP_SPLIT);
    emit_node(m, x->child);
    emit_optional(m, x, times - 1, lazy, possessive);
    if (!possessive) {
        aim(m, split, split + 1, m->n_code, lazy);
        return;
    }
    const int jump = emit(m, OP_JUMP);
    aim(m, split, split + 1, m->n_code, false);
    emit_look(m, possessive, true, true);
    m->code[jump].x = m->n_code;
}

static void emit_repeat(struct maker *m, const struct rx *x)
{
    const bool lazy = x->greed == LAZY;
    const struct charset *possessive = x->greed == POSSESSIVE ? single_set(x->child) : NULL;
    if ((x->greed == POSSESSIVE && !possessive) || rx_nullable(x->child)) {
        m->failed = true;
        return;
    }
    for (int i = 0; i < x->min && !m->failed; i++)
        emit_node(m, x->child);
    if (x->max >= 0)
        emit_optional(m, x, x->max - x->min, lazy, possessive);
    else {
        emit_star(m, x, lazy);
        if (possessive)
            emit_look(m, possessive, true, true);
    }
}

static void emit_assertion(struct maker *m, const struct rx *x)
{
    if (x->assertion == '$')
        emit_look(m, charset_one(m->scratch, '\n'), false, true);
    else if (x->assertion == 'z')
        emit_look(m, charset_of(m->scratch, NULL, 0), false, true);
    else
        m->failed = true;
}

static void emit_node(struct maker *m, const struct rx *x)
{
    if (m->failed)
        return;
    const struct charset *ahead = x->kind == RX_LOOK && !x->behind ? single_set(x->child) : NULL;
    if (x->kind == RX_SET)
        emit_set(m, x->set);
    else if (x->kind == RX_ALT)
        emit_alternatives(m, x);
    else if (x->kind == RX_REPEAT)
        emit_repeat(m, x);
    else if (x->kind == RX_ASSERT)
        emit_assertion(m, x);
    else if (ahead)
        emit_look(m, ahead, x->negative, x->negative);
    else if (x->kind == RX_CAT)
        for (const struct rx *c = x->child; c; c = c->next)
            emit_node(m, c);
    else if (x->kind != RX_EMPTY)
        m->failed = true;
}

/* Which classes are in the set of each instruction: any member decides for its class. */
static void fill_members(struct maker *m)
{
    for (int i = 0; i < m->n_code; i++) {
        struct op_code *o = m->code + i;
        if (o->op != OP_SET && o->op != OP_LOOK)
            continue;
        o->member = ARENA_NEW(m->scratch, bool, m->b->n + 1);
        for (int k = 0; k < m->b->n; k++)
            o->member[k] = charset_has(o->set, m->b->example[k]) != o->negative;
        o->member[m->b->n] = o->op == OP_LOOK && o->at_end;
    }
}

static void make_room(struct maker *m, int threads)
{
    struct arena *a = m->scratch;
    m->state = with_room(a, m->state, m->n_states + 1, &m->state_room, sizeof *m->state);
    m->row = with_room(a, m->row, m->n_states + 1, &m->row_room, (size_t)(m->b->n + 1) * sizeof *m->row);
    m->thread = with_room(a, m->thread, m->n_threads + threads, &m->thread_room, sizeof *m->thread);
}

/* The state with these threads; a new one is made when there is none. */
static int state_of(struct maker *m, const int *thread, int n)
{
    for (int s = 0; s < m->n_states; s++)
        if (m->state[s].n == n &&
            (n == 0 || memcmp(m->thread + m->state[s].first, thread, (size_t)n * sizeof *thread) == 0))
            return s;
    if (m->n_states == MOST_STATES || m->n_threads + n > MOST_THREADS) {
        m->failed = true;
        return DFA_DEAD;
    }
    make_room(m, n);
    m->state[m->n_states].first = m->n_threads;
    m->state[m->n_states].n = n;
    if (n)
        memcpy(m->thread + m->n_threads, thread, (size_t)n * sizeof *thread);
    m->n_threads += n;
    return m->n_states++;
}

/* Follows one thread in order of preference; adds places behind a read of `class` to next. True at a match,
 * which ends all threads of lower preference. */
static bool follow(struct maker *m, int at, int class, int *next, int *n)
{
    int depth = 0;
    m->stack[depth++] = at;
    while (depth) {
        const int i = m->stack[--depth];
        const struct op_code *o = m->code + i;
        if (m->seen[i] == m->stamp)
            continue;
        m->seen[i] = m->stamp;
        if (o->op == OP_MATCH)
            return true;
        if (o->op == OP_SET && o->member[class] && class < m->b->n)
            next[(*n)++] = o->x;
        if (o->op == OP_SPLIT)
            m->stack[depth++] = o->y;
        if (o->op == OP_SPLIT || o->op == OP_JUMP || (o->op == OP_LOOK && o->member[class]))
            m->stack[depth++] = o->x;
    }
    return false;
}

/* Two threads at one place are the same from there on; the preferred one is kept. */
static int without_repeats(struct maker *m, int *list, int n)
{
    int kept = 0;
    m->stamp++;
    for (int i = 0; i < n; i++)
        if (m->seen[list[i]] != m->stamp) {
            m->seen[list[i]] = m->stamp;
            list[kept++] = list[i];
        }
    return kept;
}

static uint16_t transition(struct maker *m, int state, int class, int *next)
{
    int n = 0;
    bool match = false;
    m->stamp++;
    for (int i = 0; i < m->state[state].n && !match; i++)
        match = follow(m, m->thread[m->state[state].first + i], class, next, &n);
    n = without_repeats(m, next, n);
    return (uint16_t)(state_of(m, next, n) | (match ? DFA_MATCH : 0));
}

static void explore(struct maker *m)
{
    const int width = m->b->n + 1, start = 0;
    int *next = ARENA_NEW(m->scratch, int, m->n_code);
    m->seen = ARENA_NEW(m->scratch, int, m->n_code);
    m->stack = ARENA_NEW(m->scratch, int, 2 * m->n_code + 8);
    state_of(m, NULL, 0);
    state_of(m, &start, 1);
    for (int s = DFA_START; s < m->n_states && !m->failed; s++)
        for (int class = 0; class < width && !m->failed; class ++) {
            const uint16_t to = transition(m, s, class, next); /* may move the rows */
            m->row[s * width + class] = to;
        }
}

const struct dfa *dfa_make(struct arena *a, const struct alphabet *b, const struct rx *x)
{
    struct dfa *d = NULL;
    if (rx_nullable(x))
        return NULL;
    struct maker m = { .a = a, .scratch = arena_new("automaton"), .b = b };
    emit_node(&m, x);
    emit(&m, OP_MATCH);
    if (!m.failed) {
        fill_members(&m);
        explore(&m);
    }
    if (!m.failed) {
        const size_t n = (size_t)m.n_states * (size_t)(b->n + 1);
        uint16_t *row = ARENA_NEW(a, uint16_t, (int64_t)n);
        memcpy(row, m.row, n * sizeof *row);
        d = ARENA_NEW(a, struct dfa, 1);
        *d = (struct dfa){ b, m.n_states, row };
    }
    arena_free(m.scratch);
    return d;
}

/* A failed attempt that ended in a long stay in one state. An attempt that enters the same state inside that
 * stretch must fail as well: without this, \s+$ would be quadratic in blanks that end in a letter. */
struct failure {
    size_t from, to;
    int state;
};

/* One attempt at `at`: end of the match, or 0. */
static size_t attempt(const struct dfa *d, const char *text, size_t bytes, size_t at, struct failure *f)
{
    const struct alphabet *b = d->alphabet;
    const int width = b->n + 1;
    size_t end = 0, since = at, p = at;
    int state = DFA_START;
    for (;;) {
        const int class = p < bytes ? alphabet_class(b, text + p) : b->n;
        const int t = d->row[state * width + class], next = t & ~DFA_MATCH;
        if (t & DFA_MATCH)
            end = p;
        if (next == DFA_DEAD)
            break;
        p += (size_t)utf8_bytes((unsigned char)text[p]);
        if (next != state)
            since = p;
        state = next;
        if (state == f->state && p >= f->from && p < f->to)
            return end;
    }
    if (end == 0 && p - since > 16)
        *f = (struct failure){ since, p, state };
    return end;
}

bool dfa_search(const struct dfa *d, const char *text, size_t bytes, size_t from, size_t *start, size_t *end)
{
    const struct alphabet *b = d->alphabet;
    const uint16_t *first = d->row + DFA_START * (b->n + 1);
    struct failure f = { 0 };
    for (size_t p = from; p < bytes; p += (size_t)utf8_bytes((unsigned char)text[p])) {
        if (first[alphabet_class(b, text + p)] == DFA_DEAD)
            continue;
        *end = attempt(d, text, bytes, p, &f);
        if (*end > p) {
            *start = p;
            return true;
        }
    }
    return false;
}
