/* bpe_added.c - finding added tokens in a text: leftmost, then longest, then their flags. */
#include "data/bpe_impl.h"

static size_t previous(const char *text, size_t at)
{
    do
        at--;
    while (((unsigned char)text[at] & 0xc0) == 0x80);
    return at;
}

static bool word_before(const struct bpe *t, const char *text, size_t at)
{
    return at > 0 && charset_has(t->word, utf8_get(text + previous(text, at)));
}

static bool word_at(const struct bpe *t, const char *text, size_t bytes, size_t at)
{
    return at < bytes && charset_has(t->word, utf8_get(text + at));
}

static size_t spaces_before(const struct bpe *t, const char *text, size_t at)
{
    while (at > 0 && charset_has(t->space, utf8_get(text + previous(text, at))))
        at = previous(text, at);
    return at;
}

static size_t spaces_behind(const struct bpe *t, const char *text, size_t bytes, size_t at)
{
    while (at < bytes && charset_has(t->space, utf8_get(text + at)))
        at += (size_t)utf8_bytes((unsigned char)text[at]);
    return at;
}

/* Next entry at or behind `from`: its place in *at, or NULL. */
static const struct added *find(const struct added_list *l, const char *text, size_t bytes, size_t from,
                                size_t *at)
{
    for (size_t i = from; i < bytes; i++) {
        if (!l->first[(unsigned char)text[i]])
            continue;
        const int32_t k = lexicon_longest(&l->lexicon, text + i, bytes - i);
        if (k >= 0) {
            *at = i;
            return l->item + l->lexicon.entry[k].value;
        }
    }
    return NULL;
}

/* Spaces that rstrip takes may be a token themselves; then both are found, as in the library, whose search goes on
 * behind the token, not behind the spaces. */
bool added_scan(const struct bpe *t, const struct added_list *l, const char *text, size_t bytes,
                const struct added_sink *sink, struct err *e)
{
    size_t done = 0, from = 0, at;
    const struct added *x;
    while (l->lexicon.n && (x = find(l, text, bytes, from, &at)) != NULL) {
        size_t start = at, stop = at + (size_t)x->bytes;
        from = stop;
        if (x->single_word && (word_before(t, text, start) || word_at(t, text, bytes, stop)))
            continue;
        if (x->lstrip) {
            start = spaces_before(t, text, start);
            start = start > done ? start : done;
        }
        if (x->rstrip)
            stop = spaces_behind(t, text, bytes, stop);
        if (start >= stop) /* lstrip, and all of it went to the token before */
            continue;
        if (done < start && !sink->text(sink->context, text + done, start - done, e))
            return false;
        sink->token(sink->context, x->id);
        done = stop;
    }
    return done == bytes || sink->text(sink->context, text + done, bytes - done, e);
}
