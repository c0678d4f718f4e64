/* bpe_encode.c - text to ids. Added tokens divide the text first; the rest goes, stretch by stretch between two
 * proved cuts (split.h), through a cache of ids. Only a stretch that is not there runs through the
 * pre-tokenizer and the merges. */
#include "base/hash.h"
#include "data/bpe_cache.h"
#include "data/bpe_impl.h"
#include "data/nfc.h"
struct bpe_encoder {
    struct arena *arena;
    const struct bpe *t;
    struct bpe_cache cache;
    struct bpe_scratch *merging;
    struct split_scratch splitting;
    struct buffer ids, repaired, normal;
};

struct bpe_encoder *bpe_encoder_new(const struct bpe *t)
{
    struct arena *a = arena_new("encoder");
    struct bpe_encoder *x = ARENA_NEW(a, struct bpe_encoder, 1);
    *x = (struct bpe_encoder){ .arena = a, .t = t, .merging = bpe_scratch_new() };
    x->cache.small = arena_array(a, SMALL_SETS, sizeof *x->cache.small);
    x->cache.large = ARENA_NEW(a, struct large_entry, LARGE_ENTRIES);
    return x;
}

void bpe_encoder_free(struct bpe_encoder *x)
{
    if (!x)
        return;
    bpe_scratch_free(x->merging);
    split_scratch_free(&x->splitting);
    buffer_free(&x->ids);
    buffer_free(&x->repaired);
    buffer_free(&x->normal);
    arena_free(x->arena);
}

static void take_piece(void *context, const char *piece, size_t bytes)
{
    struct bpe_encoder *x = context;
    bpe_merge(x->t, x->merging, piece, bytes, &x->ids);
}

static bool encode_anew(struct bpe_encoder *x, const char *text, size_t bytes, struct err *e)
{
    return split_run(&x->t->split, &x->splitting, text, bytes, take_piece, x, e);
}

static bool encode_large(struct bpe_encoder *x, const char *text, size_t bytes, struct err *e)
{
    struct large_entry *l = x->cache.large + hash_bytes(text, bytes) % LARGE_ENTRIES;
    if (l->bytes == bytes && memcmp(l->text, text, bytes) == 0) {
        buffer_add(&x->ids, l->id, (size_t)l->n * sizeof *l->id);
        return true;
    }
    const size_t before = x->ids.bytes;
    if (!encode_anew(x, text, bytes, e))
        return false;
    const size_t n = (x->ids.bytes - before) / sizeof(int32_t);
    if (n > 0 && n <= LARGE_IDS) {
        l->bytes = (uint8_t)bytes;
        l->n = (int32_t)n;
        memcpy(l->text, text, bytes);
        memcpy(l->id, x->ids.data + before, n * sizeof(int32_t));
    }
    return true;
}

static bool encode_missing(struct bpe_encoder *x, struct small_entry set[2], const uint64_t key[2],
                           const char *text, size_t bytes, struct err *e)
{
    const size_t before = x->ids.bytes;
    if (!encode_anew(x, text, bytes, e))
        return false;
    const size_t n = (x->ids.bytes - before) / sizeof(int32_t);
    if (n > SMALL_IDS)
        return true;
    set[1] = set[0];
    set[0] = (struct small_entry){ { key[0], key[1] }, (int32_t)n, { 0 } };
    if (n)
        memcpy(set[0].id, x->ids.data + before, n * sizeof(int32_t));
    return true;
}

/* A stretch of text between two cuts. `readable` bytes lie at text. */
static inline bool encode_stretch(struct bpe_encoder *x, const char *text, size_t bytes, size_t readable,
                                  struct err *e)
{
    uint64_t key[2];
    if (bytes > LARGE_TEXT)
        return encode_anew(x, text, bytes, e);
    if (bytes > SMALL_TEXT)
        return encode_large(x, text, bytes, e);
    cache_key(key, text, bytes, readable);
    struct small_entry *set = x->cache.small[cache_set(key)];
    const struct small_entry *s = set[0].key[0] == key[0] && set[0].key[1] == key[1] ? set : set + 1;
    if (s->key[0] != key[0] || s->key[1] != key[1])
        return encode_missing(x, set, key, text, bytes, e);
    memcpy(buffer_room(&x->ids, sizeof s->id), s->id, sizeof s->id);
    x->ids.bytes += (size_t)s->n * sizeof *s->id;
    return true;
}

static bool encode_plain(void *context, const char *text, size_t bytes, struct err *e)
{
    struct bpe_encoder *x = context;
    const struct split *s = &x->t->split;
    const struct alphabet *b = &s->alphabet;
    size_t start = 0, p = 0;
    const bool *cut = NULL; /* row of the previous character's class */
    while (p < bytes) {
        const int class = alphabet_class(b, text + p);
        if (cut && cut[class]) {
            if (!encode_stretch(x, text + start, p - start, bytes - start, e))
                return false;
            start = p;
        }
        cut = s->cut[class];
        p += (size_t)utf8_bytes((unsigned char)text[p]);
    }
    return start == bytes || encode_stretch(x, text + start, bytes - start, bytes - start, e);
}

static void take_token(void *context, int32_t id)
{
    struct bpe_encoder *x = context;
    buffer_add(&x->ids, &id, sizeof id);
}

/* Text between added tokens of the raw kind: normalize, then look for those of the normalized kind. */
static bool encode_normalized(void *context, const char *text, size_t bytes, struct err *e)
{
    struct bpe_encoder *x = context;
    const struct added_sink sink = { encode_plain, take_token, x };
    if (x->t->nfc) {
        x->normal.bytes = 0;
        nfc_append(&x->normal, text, bytes);
        text = x->normal.data;
        bytes = x->normal.bytes;
    }
    return added_scan(x->t, &x->t->normalized, text, bytes, &sink, e);
}

int64_t bpe_encode(struct bpe_encoder *x, const char *text, size_t bytes, const int32_t **ids, struct err *e)
{
    const struct added_sink sink = { encode_normalized, take_token, x };
    x->ids.bytes = 0;
    buffer_room(&x->ids, sizeof(int32_t)); /* *ids is never NULL */
    if (utf8_valid(text, bytes) != bytes) {
        x->repaired.bytes = 0;
        utf8_repair(&x->repaired, text, bytes);
        text = x->repaired.data;
        bytes = x->repaired.bytes;
    }
    if (bytes && !added_scan(x->t, &x->t->raw, text, bytes, &sink, e))
        return -1;
    *ids = (const int32_t *)(const void *)x->ids.data;
    return (int64_t)(x->ids.bytes / sizeof(int32_t));
}

/* Class of the character that ends before `at`; -1 when it is broken, or may be another one once normalized. */
static int class_before(const struct bpe *t, const char *text, size_t at)
{
    size_t start = at - 1;
    while (start > 0 && at - start < 4 && ((unsigned char)text[start] & 0xc0) == 0x80)
        start--;
    const size_t bytes = at - start;
    if (utf8_valid(text + start, bytes) != bytes || (size_t)utf8_bytes((unsigned char)text[start]) != bytes)
        return -1;
    return !t->nfc || nfc_is_plain(utf8_get(text + start)) ? alphabet_class(&t->split.alphabet, text + start)
                                                           : -1;
}

/* Before a character of ASCII nothing of a normal form or of broken UTF-8 goes on, so only the pre-tokenizer and
 * the added tokens have a say. */
size_t bpe_cut(const struct bpe *t, const char *text, size_t bytes, size_t most)
{
    const struct alphabet *b = &t->split.alphabet;
    for (size_t p = bytes ? (most < bytes ? most : bytes - 1) : 0; p > 0 && t->may_divide; p--) {
        const unsigned char right = (unsigned char)text[p];
        if (right >= 0x80 || t->inside_added[right])
            continue;
        const int left = class_before(t, text, p);
        if (left >= 0 && t->split.cut[left][b->ascii[right]])
            return p;
    }
    return 0;
}
