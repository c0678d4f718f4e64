/* bpe_train.c - learning a byte-level BPE (Sennrich et al. 2016, arXiv 1508.07909): the most frequent pair of
 * neighbours becomes a token, again and again. Pairs are counted over distinct pieces; ties go to the pair of
 * lowest ids, so the result depends on the text alone. */
#include "base/file.h"
#include "base/hash.h"
#include "base/str.h"
#include "data/bpe_impl.h"
#include "data/jsonl.h"
#include "data/text.h"
#include "data/utf8.h"
#include <stdio.h>
#include <string.h>
enum { BYTES = 256, SPECIALS = 2, MOST_BYTES = 128 };
static const char *const special_name[SPECIALS] = { "<|begin|>", "<|end|>" };
/* Words with the blank before them, single digits, runs of signs, line ends with what leads to them, blanks. */
static const char pattern[] =
    "\\\\p{N}| ?\\\\p{L}+| ?[^\\\\s\\\\p{L}\\\\p{N}]+|\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+";

struct word {
    const char *text;
    int32_t *id;
    int32_t bytes, n; /* n ids are left */
    int64_t count;
};
struct pair {
    uint64_t key; /* left << 32 | right; EMPTY_PAIR = free */
    int64_t count;
    struct buffer where; /* int32 words; may repeat */
};
struct candidate { /* of the heap; stale when the pair's count has changed */
    int64_t count;
    uint64_t key;
};
struct trainer {
    struct arena *arena;
    struct word *word;
    int64_t n_words, words_capacity, n_word_slots;
    int64_t *word_slot; /* index + 1 */
    struct pair *pair;
    int64_t n_pairs, n_pair_slots;
    struct buffer heap;
    int32_t n_merges, *left, *right, *length; /* length: bytes of a token */
};

/* --- distinct pieces -------------------------------------------------------------------------------------- */

static void place_word(struct trainer *t, int64_t index)
{
    uint64_t at =
        hash_bytes(t->word[index].text, (size_t)t->word[index].bytes) & (uint64_t)(t->n_word_slots - 1);
    while (t->word_slot[at])
        at = (at + 1) & (uint64_t)(t->n_word_slots - 1);
    t->word_slot[at] = index + 1;
}

static void grow_words(struct trainer *t)
{
    t->words_capacity = t->words_capacity ? 2 * t->words_capacity : 1 << 14;
    struct word *more = ARENA_NEW(t->arena, struct word, t->words_capacity);
    if (t->n_words)
        memcpy(more, t->word, (size_t)t->n_words * sizeof *more);
    t->word = more;
    t->n_word_slots = 4 * t->words_capacity;
    t->word_slot = ARENA_NEW(t->arena, int64_t, t->n_word_slots);
    for (int64_t i = 0; i < t->n_words; i++)
        place_word(t, i);
}

static void count_piece(void *context, const char *piece, size_t bytes)
{
    struct trainer *t = context;
    if (t->n_words == t->words_capacity)
        grow_words(t);
    for (uint64_t at = hash_bytes(piece, bytes);; at++) {
        const int64_t index = t->word_slot[at & (uint64_t)(t->n_word_slots - 1)] - 1;
        if (index < 0)
            break;
        if ((size_t)t->word[index].bytes == bytes && memcmp(t->word[index].text, piece, bytes) == 0) {
            t->word[index].count++;
            return;
        }
    }
    CHECK(bytes <= INT32_MAX, "a piece of %zu bytes", bytes);
    t->word[t->n_words] =
        (struct word){ .text = arena_strndup(t->arena, piece, bytes), .bytes = (int32_t)bytes, .count = 1 };
    place_word(t, t->n_words++);
}

static bool count_document(struct trainer *t, const struct bpe *base, struct split_scratch *scratch,
                           const char *text, size_t bytes, struct buffer *clean, struct err *e)
{
    clean->bytes = 0;
    utf8_repair(clean, text, bytes);
    return clean->bytes == 0 ||
           split_run(&base->split, scratch, clean->data, clean->bytes, count_piece, t, e);
}

static bool count_file(struct trainer *t, const struct bpe *base, const char *path, const char *key,
                       struct err *e)
{
    struct text_list list;
    struct buffer raw = { 0 }, text = { 0 }, clean = { 0 };
    struct split_scratch scratch = { 0 };
    int64_t offset, line;
    if (!text_list_files(t->arena, path, &list, e))
        return false;
    struct text_reader *r = text_open(&list.file[0], NULL, e);
    int got = r ? 1 : -1;
    while (got > 0 && (got = text_next(r, &raw, &offset, &line, e)) > 0) {
        bool ok = true;
        text.bytes = 0;
        if (list.file[0].jsonl) {
            char place[4200];
            snprintf(place, sizeof place, "%.4096s:%lld", path, (long long)line);
            ok = jsonl_text(raw.data, raw.bytes, key, place, &text, e);
        }
        const struct buffer *b = list.file[0].jsonl ? &text : &raw;
        if (!ok || !count_document(t, base, &scratch, b->data, b->bytes, &clean, e))
            got = -1;
        raw.bytes = 0;
    }
    text_close(r);
    split_scratch_free(&scratch);
    buffer_free(&raw);
    buffer_free(&text);
    buffer_free(&clean);
    return got == 0;
}

/* --- pairs ------------------------------------------------------------------------------------------------- */

static struct pair *find_pair(struct trainer *t, uint64_t key)
{
    uint64_t at = merge_hash(key) >> 20;
    for (;; at++) {
        struct pair *p = &t->pair[at & (uint64_t)(t->n_pair_slots - 1)];
        if (p->key == key || p->key == EMPTY_PAIR)
            return p;
    }
}

static void grow_pairs(struct trainer *t)
{
    struct pair *old = t->pair;
    const int64_t n = t->n_pair_slots;
    t->n_pair_slots = n ? 2 * n : 1 << 16;
    t->pair = ARENA_NEW(t->arena, struct pair, t->n_pair_slots);
    for (int64_t i = 0; i < t->n_pair_slots; i++)
        t->pair[i].key = EMPTY_PAIR;
    for (int64_t i = 0; i < n; i++)
        if (old[i].key != EMPTY_PAIR)
            *find_pair(t, old[i].key) = old[i];
}

/* a stands above b in the heap */
static bool above(const struct candidate *a, const struct candidate *b)
{
    return a->count != b->count ? a->count > b->count : a->key < b->key;
}

static void push(struct trainer *t, struct candidate x)
{
    int64_t i = (int64_t)(t->heap.bytes / sizeof x);
    buffer_add(&t->heap, &x, sizeof x);
    struct candidate *h = (struct candidate *)(void *)t->heap.data;
    for (; i > 0 && above(&x, &h[(i - 1) / 2]); i = (i - 1) / 2)
        h[i] = h[(i - 1) / 2];
    h[i] = x;
}

static struct candidate pop(struct trainer *t)
{
    struct candidate *h = (struct candidate *)(void *)t->heap.data;
    const struct candidate top = h[0];
    t->heap.bytes -= sizeof top;
    const int64_t n = (int64_t)(t->heap.bytes / sizeof top);
    const struct candidate x = h[n];
    int64_t i = 0;
    for (int64_t c = 1; c < n; c = 2 * i + 1) {
        c += c + 1 < n && above(&h[c + 1], &h[c]);
        if (above(&x, &h[c]))
            break;
        h[i] = h[c];
        i = c;
    }
    if (n)
        h[i] = x;
    return top;
}

static uint64_t key_of(int32_t left, int32_t right)
{
    return (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
}

/* Changes the count of a pair by `by`, noting the word where it grows. announce: into the heap. */
static void change(struct trainer *t, int32_t left, int32_t right, int64_t by, int32_t word, bool announce)
{
    if (2 * t->n_pairs >= t->n_pair_slots)
        grow_pairs(t);
    const uint64_t key = key_of(left, right);
    struct pair *p = find_pair(t, key);
    if (p->key == EMPTY_PAIR) {
        p->key = key;
        t->n_pairs++;
    }
    p->count += by;
    if (by > 0)
        buffer_add(&p->where, &word, sizeof word);
    if (announce && p->count > 0)
        push(t, (struct candidate){ p->count, key });
}

static void count_pairs(struct trainer *t)
{
    for (int64_t i = 0; i < t->n_words; i++) {
        struct word *w = &t->word[i];
        w->id = ARENA_NEW(t->arena, int32_t, w->bytes);
        w->n = w->bytes;
        for (int32_t k = 0; k < w->n; k++)
            w->id[k] = (unsigned char)w->text[k];
        for (int32_t k = 0; k + 1 < w->n; k++)
            change(t, w->id[k], w->id[k + 1], w->count, (int32_t)i, false);
    }
    for (int64_t i = 0; i < t->n_pair_slots; i++)
        if (t->pair[i].key != EMPTY_PAIR)
            push(t, (struct candidate){ t->pair[i].count, t->pair[i].key });
}

/* Replaces the pair in one word, left to right; the neighbours' pairs change. */
static void merge_word(struct trainer *t, int32_t index, int32_t left, int32_t right, int32_t id)
{
    struct word *w = &t->word[index];
    int32_t to = 0;
    for (int32_t from = 0; from < w->n; from++, to++) {
        if (from + 1 == w->n || w->id[from] != left || w->id[from + 1] != right) {
            w->id[to] = w->id[from];
            continue;
        }
        if (to > 0) {
            change(t, w->id[to - 1], left, -w->count, index, true);
            change(t, w->id[to - 1], id, w->count, index, true);
        }
        if (from + 2 < w->n) {
            change(t, right, w->id[from + 2], -w->count, index, true);
            change(t, id, w->id[from + 2], w->count, index, true);
        }
        w->id[to] = id;
        from++;
    }
    w->n = to;
}

static void merge_pair(struct trainer *t, uint64_t key)
{
    const int32_t left = (int32_t)(key >> 32), right = (int32_t)(uint32_t)key, id = BYTES + t->n_merges;
    struct pair *p = find_pair(t, key);
    struct buffer where = p->where; /* the table may move below */
    p->where = (struct buffer){ 0 };
    p->count = 0;
    t->left[t->n_merges] = left;
    t->right[t->n_merges++] = right;
    t->length[id] = t->length[left] + t->length[right];
    const int32_t *list = (const int32_t *)(void *)where.data;
    for (size_t i = 0; i < where.bytes / sizeof *list; i++)
        merge_word(t, list[i], left, right, id);
    find_pair(t, key)->count = 0;
    buffer_free(&where);
}

/* false: the text has no further pair that occurs twice. */
static bool merge_next(struct trainer *t)
{
    while (t->heap.bytes) {
        const struct candidate x = pop(t);
        const struct pair *p = find_pair(t, x.key);
        if (p->count != x.count || x.count < 2)
            continue;
        if (t->length[x.key >> 32] + t->length[x.key & UINT32_MAX] > MOST_BYTES)
            continue;
        merge_pair(t, x.key);
        return true;
    }
    return false;
}

/* --- files ------------------------------------------------------------------------------------------------- */

/* A token in the alphabet of byte-level BPE. */
static void add_entry(struct str *s, const struct trainer *t, int32_t id)
{
    char text[4];
    if (id >= BYTES) {
        add_entry(s, t, t->left[id - BYTES]);
        add_entry(s, t, t->right[id - BYTES]);
        return;
    }
    const int n = utf8_put(text, byte_level_character(id));
    if (text[0] == '"' || text[0] == '\\')
        str_add(s, "\\");
    str_add_bytes(s, text, (size_t)n);
}

static void add_model(struct str *s, const struct trainer *t)
{
    str_add(s, "  \"model\": {\"type\": \"BPE\", \"dropout\": null, \"unk_token\": null, "
               "\"continuing_subword_prefix\": null, "
               "\"end_of_word_suffix\": null, \"fuse_unk\": false, \"byte_fallback\": false, "
               "\"ignore_merges\": false,\n  \"vocab\": {");
    for (int32_t i = 0; i < BYTES + t->n_merges; i++) {
        str_add(s, i ? ",\n\"" : "\n\"");
        add_entry(s, t, i);
        str_addf(s, "\": %d", i);
    }
    str_add(s, "},\n  \"merges\": [");
    for (int32_t i = 0; i < t->n_merges; i++) {
        str_add(s, i ? ",\n\"" : "\n\"");
        add_entry(s, t, t->left[i]);
        str_add(s, " ");
        add_entry(s, t, t->right[i]);
        str_add(s, "\"");
    }
    str_add(s, "]}\n}\n");
}

static void add_tokenizer(struct str *s, const struct trainer *t)
{
    str_add(
        s,
        "{\n  \"version\": \"1.0\",\n  \"truncation\": null,\n  \"padding\": null,\n  \"added_tokens\": [\n");
    for (int i = 0; i < SPECIALS; i++)
        str_addf(s,
                 "    {\"id\": %d, \"content\": \"%s\", \"single_word\": false, \"lstrip\": false, "
                 "\"rstrip\": false, \"normalized\": false, "
                 "\"special\": true}%s\n",
                 BYTES + t->n_merges + i, special_name[i], i + 1 < SPECIALS ? "," : "");
    str_addf(s,
             "  ],\n  \"normalizer\": null,\n  \"pre_tokenizer\": {\"type\": \"Sequence\", "
             "\"pretokenizers\": [\n    {\"type\": \"Split\", \"pattern\": "
             "{\"Regex\": \"%s\"}, \"behavior\": \"Isolated\", \"invert\": false},\n",
             pattern);
    str_add(s, "    {\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"trim_offsets\": true, "
               "\"use_regex\": false}]},\n"
               "  \"post_processor\": null,\n  \"decoder\": {\"type\": \"ByteLevel\", \"add_prefix_space\": "
               "true, \"trim_offsets\": true, "
               "\"use_regex\": true},\n");
    add_model(s, t);
}

static bool write_files(const struct trainer *t, const char *dir, struct err *e)
{
    struct str s = str_new(t->arena, (size_t)1 << 30);
    const char *begin = special_name[0], *end = special_name[1];
    if (!file_mkdirs(dir, e))
        return false;
    add_tokenizer(&s, t);
    if (!file_write(arena_printf(t->arena, "%s/tokenizer.json", dir), s.text, s.bytes, e))
        return false;
    str_clear(&s);
    str_addf(
        &s,
        "{\n  \"add_bos_token\": true,\n  \"add_eos_token\": false,\n  \"bos_token\": \"%s\",\n  "
        "\"eos_token\": \"%s\",\n"
        "  \"clean_up_tokenization_spaces\": false,\n  \"tokenizer_class\": \"PreTrainedTokenizerFast\"\n}\n",
        begin, end);
    return file_write(arena_printf(t->arena, "%s/tokenizer_config.json", dir), s.text, s.bytes, e);
}

/* The tokenizer without merges: its pre-tokenizer cuts the training text as the finished one will. */
static struct bpe *open_base(struct trainer *t, const char *dir, struct err *e)
{
    const char *base = arena_printf(t->arena, "%s.tmp", dir);
    struct err ignored = { 0 };
    struct bpe *b = write_files(t, base, e) ? bpe_open(base, e) : NULL;
    file_remove_tree(base, &ignored);
    return b;
}

static bool train(struct trainer *t, const char *const *paths, int n_paths, int64_t vocab_size,
                  const char *key, const char *dir, struct err *e)
{
    const int64_t n_merges = vocab_size - BYTES - SPECIALS;
    struct bpe *base = open_base(t, dir, e);
    bool ok = base != NULL;
    for (int i = 0; ok && i < n_paths; i++)
        ok = count_file(t, base, paths[i], key, e);
    if (base)
        bpe_close(base);
    if (!ok)
        return false;
    grow_pairs(t);
    count_pairs(t);
    while (t->n_merges < n_merges && merge_next(t)) {
    }
    if (t->n_merges < n_merges)
        return err_set(e,
                       "the text gives no more than %d ids (no pair is left that occurs twice); choose "
                       "--vocab_size %d or more text",
                       BYTES + SPECIALS + t->n_merges, BYTES + SPECIALS + t->n_merges);
    return write_files(t, dir, e);
}

bool bpe_train(const char *const *paths, int n_paths, int64_t vocab_size, const char *text_key,
               const char *save_dir, struct err *e)
{
    struct trainer t = { .arena = arena_new("tokenizer training") };
    if (vocab_size < BYTES + SPECIALS || vocab_size > MOST_IDS) {
        arena_free(t.arena);
        return err_code(e, EXIT_USAGE, "--vocab_size %lld: expected %d to %d", (long long)vocab_size,
                        BYTES + SPECIALS, MOST_IDS);
    }
    t.left = ARENA_NEW(t.arena, int32_t, vocab_size);
    t.right = ARENA_NEW(t.arena, int32_t, vocab_size);
    t.length = ARENA_NEW(t.arena, int32_t, vocab_size);
    for (int i = 0; i < BYTES; i++)
        t.length[i] = 1;
    const bool ok = train(&t, paths, n_paths, vocab_size, text_key, save_dir, e);
    for (int64_t i = 0; i < t.n_pair_slots; i++)
        buffer_free(&t.pair[i].where);
    buffer_free(&t.heap);
    arena_free(t.arena);
    return ok;
}
