/* split.c - running the stages, depth first: no list of pieces is kept. */
#include "data/split.h"
#include <string.h>
struct run {
    const struct split *s;
    struct split_scratch *scratch;
    split_take *take;
    void *context;
    struct err *e;
};
/* The segments of one piece at one stage, on their way to becoming smaller pieces. */
struct segments {
    struct run *r;
    int stage;
    const char *text;
    size_t start, end; /* the segment that waits for its neighbour */
    bool waiting, previous_match;
};
static bool run_stage(struct run *r, int stage, const char *text, size_t bytes);

static bool pass_on(struct segments *g, size_t start, size_t end)
{
    return start == end || run_stage(g->r, g->stage + 1, g->text + start, end - start);
}

static bool flush(struct segments *g)
{
    if (!g->waiting)
        return true;
    g->waiting = false;
    return pass_on(g, g->start, g->end);
}

/* Whether this segment belongs to the one that waits. */
static bool joins(const struct segments *g, enum behavior b, bool match)
{
    if (!g->waiting)
        return false;
    if (b == CONTIGUOUS)
        return match == g->previous_match;
    if (b == MERGED_WITH_PREVIOUS)
        return match && !g->previous_match;
    return !match && g->previous_match; /* MERGED_WITH_NEXT: the waiting one is a match */
}

static bool segment(struct segments *g, size_t start, size_t end, bool match)
{
    const struct stage *s = g->r->s->stage + g->stage;
    match = match != s->invert;
    if (s->behavior == ISOLATED)
        return pass_on(g, start, end);
    if (s->behavior == REMOVED)
        return match || pass_on(g, start, end);
    const bool join = joins(g, s->behavior, match);
    g->previous_match = match;
    if (join) {
        g->end = end;
        return true;
    }
    if (!flush(g))
        return false;
    g->start = start;
    g->end = end;
    g->waiting = true;
    return true;
}

static bool segments_of_match(struct segments *g, size_t *last, size_t start, size_t end)
{
    if (*last != start && !segment(g, *last, start, false))
        return false;
    *last = end;
    return segment(g, start, end, true);
}

static bool split_by_dfa(struct segments *g, const struct dfa *d, size_t bytes)
{
    size_t last = 0, start, end;
    while (dfa_search(d, g->text, bytes, last, &start, &end))
        if (!segments_of_match(g, &last, start, end))
            return false;
    return (last == bytes || segment(g, last, bytes, false)) && flush(g);
}

/* Patterns that can match nothing: an empty match right behind another match is not one. */
static bool split_by_matcher(struct segments *g, const struct matcher *m, size_t bytes)
{
    struct run *r = g->r;
    size_t last = 0, from = 0, start, end;
    bool any = false;
    int found = 0;
    if (!r->scratch->matcher)
        r->scratch->matcher = matcher_scratch_new();
    while (from <= bytes &&
           (found = matcher_search(m, r->scratch->matcher, g->text, bytes, from, &start, &end, r->e)) == 1) {
        if (start == end && any && end == last) {
            from += from < bytes ? (size_t)utf8_bytes((unsigned char)g->text[from]) : 1;
            continue;
        }
        any = true;
        from = end;
        if (!segments_of_match(g, &last, start, end))
            return false;
    }
    return found >= 0 && (last == bytes || segment(g, last, bytes, false)) && flush(g);
}

static bool run_stage(struct run *r, int stage, const char *text, size_t bytes)
{
    if (stage == r->s->n_stages) {
        r->take(r->context, text, bytes);
        return true;
    }
    const struct stage *s = r->s->stage + stage;
    if (s->add_prefix_space && text[0] != ' ') {
        struct buffer *b = r->scratch->prefixed + stage;
        b->bytes = 0;
        buffer_add(b, " ", 1);
        buffer_add(b, text, bytes);
        text = b->data;
        bytes++;
    }
    struct segments g = { .r = r, .stage = stage, .text = text };
    if (!s->pattern)
        return run_stage(r, stage + 1, text, bytes);
    return s->dfa ? split_by_dfa(&g, s->dfa, bytes) : split_by_matcher(&g, s->matcher, bytes);
}

bool split_run(const struct split *s, struct split_scratch *scratch, const char *text, size_t bytes,
               split_take *take, void *context, struct err *e)
{
    struct run r = { s, scratch, take, context, e };
    return bytes == 0 || run_stage(&r, 0, text, bytes);
}

void split_scratch_free(struct split_scratch *scratch)
{
    matcher_scratch_free(scratch->matcher);
    for (int i = 0; i < MOST_STAGES; i++)
        buffer_free(scratch->prefixed + i);
}
