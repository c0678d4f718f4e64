/* bpe_merges.c - ids of one piece. A short piece is merged as the definition says: the pair of lowest rank, the
 * leftmost first, until no pair has a rank. A long one is not merged but searched from left to right. Of all
 * sequences of tokens that spell the piece, the result of merging is the only one whose neighbours all stay
 * apart when the two are merged alone: as long as no merge has crossed a border, what happens on its sides is
 * what would happen without the rest of the text. The same holds for every prefix, so a place that was left
 * without success never needs another visit, and the time is linear in the length of the piece. */
#include "data/bpe_impl.h"
#include <string.h>
enum { SHORT_BYTES = 128, MOST_SYMBOLS = 2 * MOST_TOKEN_BYTES, N_APART = 1 << 14 };
struct bpe_scratch {
    struct arena *a;
    int32_t id[MOST_SYMBOLS], rank[MOST_SYMBOLS], merged[MOST_SYMBOLS];
    char pair_text[MOST_SYMBOLS];
    struct {
        uint64_t pair; /* with all bits turned, so that 0 is none */
        bool apart;
    } apart[N_APART]; /* what was found out about pairs of tokens; a newer pair replaces an older one */
    struct buffer kept, dead; /* bytes that have tokens; bits of places without a way to the end */
};

void merges_make(struct arena *a, struct merges *m, int64_t n)
{
    m->shift = 64 - 6;
    for (m->n_slots = 64; m->n_slots < 2 * n; m->n_slots *= 2)
        m->shift--;
    m->slot = ARENA_NEW(a, struct merge, m->n_slots);
    for (int64_t i = 0; i < m->n_slots; i++)
        m->slot[i].pair = EMPTY_PAIR;
}

/* A pair that comes twice has its last rank, as in Hugging Face's library. */
void merges_put(struct merges *m, int32_t left, int32_t right, int32_t rank, int32_t id)
{
    const uint64_t pair = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    int64_t i = (int64_t)(merge_hash(pair) >> m->shift);
    while (m->slot[i].pair != EMPTY_PAIR && m->slot[i].pair != pair)
        i = (i + 1) & (m->n_slots - 1);
    m->slot[i] = (struct merge){ pair, rank, id };
}

struct bpe_scratch *bpe_scratch_new(void)
{
    struct arena *a = arena_new("merging");
    struct bpe_scratch *s = ARENA_NEW(a, struct bpe_scratch, 1);
    s->a = a;
    return s;
}

void bpe_scratch_free(struct bpe_scratch *s)
{
    buffer_free(&s->kept);
    buffer_free(&s->dead);
    arena_free(s->a);
}

static void rank_pair(const struct bpe *t, struct bpe_scratch *s, int i)
{
    const struct merge *m = merges_get(&t->merges, s->id[i], s->id[i + 1]);
    s->rank[i] = m ? m->rank : INT32_MAX;
    s->merged[i] = m ? m->id : -1;
}

static int lowest(const int32_t *rank, int n)
{
    int32_t low = INT32_MAX;
    for (int i = 0; i < n; i++)
        low = rank[i] < low ? rank[i] : low;
    if (low == INT32_MAX)
        return -1;
    int i = 0;
    while (rank[i] != low)
        i++;
    return i;
}

static void drop(int32_t *x, int i, int n)
{
    memmove(x + i, x + i + 1, (size_t)(n - i - 1) * sizeof *x);
}

/* Merges s->id[0..n); returns how many are left. */
static int merge_all(const struct bpe *t, struct bpe_scratch *s, int n)
{
    int i;
    for (i = 0; i + 1 < n; i++)
        rank_pair(t, s, i);
    while (n > 1 && (i = lowest(s->rank, n - 1)) >= 0) {
        s->id[i] = s->merged[i];
        drop(s->id, i + 1, n);
        drop(s->rank, i, n - 1);
        drop(s->merged, i, n - 1);
        n--;
        if (i > 0)
            rank_pair(t, s, i - 1);
        if (i + 1 < n)
            rank_pair(t, s, i);
    }
    return n;
}

static int merge_bytes(const struct bpe *t, struct bpe_scratch *s, const char *text, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        s->id[i] = t->byte_id[(unsigned char)text[i]];
    return merge_all(t, s, (int)bytes);
}

/* Whether the two tokens, spelled out and merged, come out as these two; left -1: `right` alone. */
static bool stay_apart(const struct bpe *t, struct bpe_scratch *s, int32_t left, int32_t right)
{
    const uint64_t pair = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    const uint64_t slot = merge_hash(pair) >> 50;
    if (s->apart[slot].pair == ~pair)
        return s->apart[slot].apart;
    size_t bytes = 0;
    if (left >= 0) {
        bytes = (size_t)t->token[left].bytes;
        memcpy(s->pair_text, t->token[left].text, bytes);
    }
    memcpy(s->pair_text + bytes, t->token[right].text, (size_t)t->token[right].bytes);
    const int n = merge_bytes(t, s, s->pair_text, bytes + (size_t)t->token[right].bytes);
    const bool apart =
        left < 0 ? n == 1 && s->id[0] == right : n == 2 && s->id[0] == left && s->id[1] == right;
    s->apart[slot].pair = ~pair;
    s->apart[slot].apart = apart;
    return apart;
}

static bool is_dead(const struct bpe_scratch *s, size_t at)
{
    return s->dead.data[at / 8] >> (at % 8) & 1;
}

/* Longest token at `at` that may follow *ids' last one and is shorter than entry `below` (-1: any). */
static int32_t candidate(const struct bpe *t, struct bpe_scratch *s, const char *text, size_t bytes,
                         size_t at, int32_t last, int32_t below)
{
    const struct lexicon *x = &t->lexicon;
    int32_t k = below < 0 ? lexicon_longest(x, text + at, bytes - at) : x->shorter[below];
    while (k >= 0 &&
           (is_dead(s, at + (size_t)x->entry[k].bytes) || !stay_apart(t, s, last, x->entry[k].value)))
        k = x->shorter[k];
    return k;
}

/* Entries of the lexicon are kept on *out while searching, and turned into ids at the end. */
static void search(const struct bpe *t, struct bpe_scratch *s, const char *text, size_t bytes,
                   struct buffer *out)
{
    const size_t base = out->bytes;
    size_t at = 0;
    int32_t below = -1;
    s->dead.bytes = 0;
    memset(buffer_room(&s->dead, bytes / 8 + 1), 0, bytes / 8 + 1);
    while (at < bytes) {
        const int32_t *top =
            out->bytes == base ? NULL : (int32_t *)(void *)(out->data + out->bytes - sizeof(int32_t));
        const int32_t last = top ? t->lexicon.entry[*top].value : -1;
        int32_t k = candidate(t, s, text, bytes, at, last, below);
        below = -1;
        if (k >= 0) {
            buffer_add(out, &k, sizeof k);
            at += (size_t)t->lexicon.entry[k].bytes;
            continue;
        }
        CHECK(top, "a text of %zu bytes has no tokens", bytes); /* each byte has a token of its own */
        s->dead.data[at / 8] = (char)(s->dead.data[at / 8] | 1 << (at % 8));
        below = *top;
        out->bytes -= sizeof *top;
        at -= (size_t)t->lexicon.entry[below].bytes;
    }
    for (size_t i = base; i < out->bytes; i += sizeof(int32_t)) {
        int32_t *id = (int32_t *)(void *)(out->data + i);
        *id = t->lexicon.entry[*id].value;
    }
}

/* Bytes without a token disappear, and their neighbours meet. */
static const char *without_unknown(const struct bpe *t, struct bpe_scratch *s, const char *piece,
                                   size_t *bytes)
{
    size_t i = 0;
    while (i < *bytes && t->byte_id[(unsigned char)piece[i]] >= 0)
        i++;
    if (i == *bytes)
        return piece;
    s->kept.bytes = 0;
    char *out = buffer_room(&s->kept, *bytes);
    size_t n = 0;
    for (i = 0; i < *bytes; i++)
        if (t->byte_id[(unsigned char)piece[i]] >= 0)
            out[n++] = piece[i];
    *bytes = n;
    return out;
}

void bpe_merge(const struct bpe *t, struct bpe_scratch *s, const char *piece, size_t bytes,
               struct buffer *out)
{
    if (t->ignore_merges) {
        const int32_t k = lexicon_longest(&t->lexicon, piece, bytes);
        if (k >= 0 && (size_t)t->lexicon.entry[k].bytes == bytes) {
            buffer_add(out, &t->lexicon.entry[k].value, sizeof(int32_t));
            return;
        }
    }
    piece = without_unknown(t, s, piece, &bytes);
    if (bytes > SHORT_BYTES) {
        search(t, s, piece, bytes, out);
        return;
    }
    const int n = merge_bytes(t, s, piece, bytes);
    buffer_add(out, s->id, (size_t)n * sizeof *s->id);
}
