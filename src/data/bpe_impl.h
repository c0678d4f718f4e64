/* bpe_impl.h - inside of a tokenizer, shared by bpe*.c. */
#pragma once
#include "base/json.h"
#include "data/bpe.h"
#include "data/lexicon.h"
#include "data/split.h"
enum { MOST_IDS = 1 << 24, MOST_TOKEN_BYTES = 1024, NO_RANK = -1 };
struct token {
    const char *text; /* bytes that the token stands for; NULL where no token has this id */
    int32_t bytes;
    bool byte_level; /* every character of the entry was a byte; else text is the entry itself */
    bool special;
};
struct merge {
    uint64_t pair; /* left id << 32 | right id; EMPTY_PAIR where the slot is free */
    int32_t rank, id;
};
#define EMPTY_PAIR UINT64_MAX
/* Open addressing; n_slots is a power of 2. */
struct merges {
    struct merge *slot;
    int64_t n_slots;
    int shift; /* 64 - log2(n_slots) */
};
struct added {
    const char *text; /* as it is looked for: normalized if the flag says so */
    int32_t bytes, id;
    bool single_word, lstrip, rstrip, normalized;
};
/* Added tokens that are looked for at one time: in the raw text, or in the normalized one. */
struct added_list {
    struct lexicon lexicon; /* value: index in item */
    const struct added *item;
    bool first[256]; /* bytes that an entry starts with */
};
/* Entry as written in the file -> id. Open addressing; text NULL = free slot. */
struct names {
    const char **text;
    int32_t *id;
    int64_t n_slots;
};
struct bpe {
    struct arena *arena;
    const char *path;
    int64_t n_ids, most_ids, n_entries; /* largest id + 1; room; entries of model.vocab */
    struct token *token;                /* [n_ids] */
    struct names names;
    int32_t byte_id[256]; /* -1: the byte has no token and disappears, as in Hugging Face's library */
    struct merges merges;
    bool ignore_merges, nfc;
    struct lexicon lexicon; /* byte-level entries of the vocabulary; value: id */
    struct added_list raw, normalized;
    bool may_divide;                    /* no added token looks at its neighbours: cuts are safe */
    bool inside_added[256];             /* bytes that occur in an added token behind its first */
    const struct charset *space, *word; /* for the flags of added tokens */
    struct split split;
    const char *decoder_problem; /* NULL: decoding works */
    int32_t bos, eos;
    char fingerprint[17];
};
/* The alphabet of byte-level BPE: a printable character for each byte. */
uint32_t byte_level_character(int byte);
int byte_level_byte(uint32_t c); /* -1 */
/* Turns byte-level text into bytes; false when a character stands for no byte. out has room for `bytes`. */
bool byte_level_decode(char *out, int32_t *n, const char *text, size_t bytes);
/* bpe_merges.c */
void merges_make(struct arena *a, struct merges *m, int64_t n);
void merges_put(struct merges *m, int32_t left, int32_t right, int32_t rank, int32_t id);
static inline uint64_t merge_hash(uint64_t pair)
{
    return (pair ^ pair >> 29) * 0x9e3779b97f4a7c15u;
}
/* Slot of the pair, or NULL. */
static inline const struct merge *merges_get(const struct merges *m, int32_t left, int32_t right)
{
    const uint64_t pair = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    for (uint64_t i = merge_hash(pair) >> m->shift;; i++) {
        const struct merge *s = m->slot + (i & (uint64_t)(m->n_slots - 1));
        if (s->pair == pair)
            return s;
        if (s->pair == EMPTY_PAIR)
            return NULL;
    }
}
/* Ids of one piece, appended to *out. */
struct bpe_scratch;
struct bpe_scratch *bpe_scratch_new(void);
void bpe_scratch_free(struct bpe_scratch *s);
void bpe_merge(const struct bpe *t, struct bpe_scratch *s, const char *piece, size_t bytes,
               struct buffer *out);
/* bpe_added.c: calls text() and token() in order of the text. */
struct added_sink {
    bool (*text)(void *context, const char *text, size_t bytes, struct err *e);
    void (*token)(void *context, int32_t id);
    void *context;
};
bool added_scan(const struct bpe *t, const struct added_list *l, const char *text, size_t bytes,
                const struct added_sink *sink, struct err *e);
/* Readers of parts of tokenizer.json; `j` names file and line in errors. */
bool bpe_check_model_type(const struct json *j, jval root, struct err *e); /* first: it explains the rest */
bool bpe_read_model(struct bpe *t, const struct json *j, jval root, struct err *e);
bool bpe_read_added(struct bpe *t, const struct json *j, jval root, struct err *e);
bool bpe_read_pipeline(struct bpe *t, const struct json *j, jval root, struct err *e);
bool bpe_read_specials(struct bpe *t, const char *dir, struct err *e);
