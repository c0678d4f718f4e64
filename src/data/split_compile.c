/* split_compile.c - automata of the stages, and the proof of the cuts.
 *
 * Between characters x and y, a stage with an automaton is *closed* when no attempt can cross: every state that
 * can be reached by reading x dies when it reads y, and ends a match before y exactly when it would end one
 * before the end of the text. Then both sides are searched as if they were alone. A closed stage *separates* x
 * and y when it also puts a border between them whatever surrounds them: a match always ends after x, or always
 * starts at y. If stages 0..k are closed and stage k separates, later stages never see x and y together, and the
 * text can be divided there beforehand. Only Isolated and Removed qualify; merging looks at neighbours. */
#include "data/split.h"
enum { MOST_SETS = 2000 };

/* States that an attempt can be in after reading a character of class x. */
static int states_after(const struct dfa *d, int x, bool *reached)
{
    int n = 0;
    for (int s = 0; s < d->n_states; s++)
        reached[s] = false;
    for (int s = DFA_START; s < d->n_states; s++) {
        const int next = dfa_step(d, s, x) & ~DFA_MATCH;
        n += next != DFA_DEAD && !reached[next];
        reached[next] = next != DFA_DEAD;
    }
    return n;
}

static bool match_always_starts(const struct dfa *d, int y)
{
    const int next = dfa_step(d, DFA_START, y) & ~DFA_MATCH;
    if (next == DFA_DEAD)
        return false;
    for (int z = 0; z <= d->alphabet->n; z++)
        if (!(dfa_step(d, next, z) & DFA_MATCH))
            return false;
    return true;
}

struct between {
    bool closed, separates;
};

static struct between between(const struct dfa *d, const bool *reached, int x, int y, bool starts_at_y)
{
    bool always_ends = (dfa_step(d, DFA_START, x) & ~DFA_MATCH) != DFA_DEAD;
    for (int s = 0; s < d->n_states; s++) {
        if (!reached[s])
            continue;
        const int t = dfa_step(d, s, y), end = dfa_step(d, s, d->alphabet->n);
        if ((t & ~DFA_MATCH) != DFA_DEAD || (t & DFA_MATCH) != (end & DFA_MATCH))
            return (struct between){ false, false };
        always_ends = always_ends && (t & DFA_MATCH);
    }
    return (struct between){ true, always_ends || starts_at_y };
}

/* Narrows open[x][y] (all stages so far are closed there) and widens cut[x][y]. */
static void prove_stage(struct split *s, const struct dfa *d, bool (*open)[MOST_CLASSES],
                        struct arena *scratch)
{
    bool *reached = ARENA_NEW(scratch, bool, d->n_states), starts[MOST_CLASSES];
    for (int y = 0; y < s->alphabet.n; y++)
        starts[y] = match_always_starts(d, y);
    for (int x = 0; x < s->alphabet.n; x++) {
        states_after(d, x, reached);
        for (int y = 0; y < s->alphabet.n; y++) {
            const struct between b = between(d, reached, x, y, starts[y]);
            open[x][y] = open[x][y] && b.closed;
            s->cut[x][y] = s->cut[x][y] || (open[x][y] && b.separates);
        }
    }
}

static void prove_cuts(struct split *s)
{
    struct arena *scratch = arena_new("cuts");
    bool(*open)[MOST_CLASSES] = arena_array(scratch, MOST_CLASSES, sizeof *open);
    for (int x = 0; x < s->alphabet.n; x++)
        for (int y = 0; y < s->alphabet.n; y++)
            open[x][y] = true;
    for (int i = 0; i < s->n_stages; i++) {
        const struct stage *t = s->stage + i;
        if (!t->pattern && !t->add_prefix_space)
            continue;
        if (!t->dfa || (t->behavior != ISOLATED && t->behavior != REMOVED) || t->add_prefix_space)
            break; /* a piece that gets a blank in front is not the same piece when it is divided */
        prove_stage(s, t->dfa, open, scratch);
    }
    arena_free(scratch);
}

static bool collect_sets(struct arena *a, const struct split *s, const struct charset **sets, int64_t *n)
{
    for (int i = 0; i < s->n_stages; i++)
        if (s->stage[i].pattern && !dfa_sets(s->stage[i].pattern, a, sets, n, MOST_SETS))
            return false;
    return true;
}

bool split_compile(struct arena *a, struct split *s, struct err *e)
{
    struct arena *scratch = arena_new("split");
    const struct charset **sets = ARENA_NEW(scratch, const struct charset *, MOST_SETS);
    int64_t n = 0;
    const bool has_alphabet = collect_sets(scratch, s, sets, &n) && alphabet_make(a, sets, n, &s->alphabet);
    bool ok = true;
    if (!has_alphabet) /* everything is one class, and no cut is known */
        CHECK(alphabet_make(a, NULL, 0, &s->alphabet), "an alphabet of one class");
    for (int i = 0; i < s->n_stages && ok; i++) {
        struct stage *t = s->stage + i;
        if (!t->pattern)
            continue;
        t->dfa = has_alphabet ? dfa_make(a, &s->alphabet, t->pattern) : NULL;
        if (!t->dfa)
            ok = (t->matcher = matcher_new(a, t->pattern, e)) != NULL;
    }
    if (ok && has_alphabet)
        prove_cuts(s);
    arena_free(scratch);
    return ok;
}

void split_free(struct split *s)
{
    for (int i = 0; i < s->n_stages; i++)
        matcher_free(s->stage[i].matcher);
}
