/* bpe.h - byte-level BPE, read literally from tokenizer.json; the only file that includes PCRE2.
 * A tokenizer is immutable after bpe_open; encoders hold the scratch memory of one thread. */
#pragma once
#include "base/arena.h"
#include "base/err.h"
#include <stdint.h>
struct bpe;
struct bpe *bpe_open(const char *dir,
                     struct err *e); /* DIR/tokenizer.json or the file itself; NULL on error */
void bpe_close(struct bpe *t);
int64_t bpe_vocab_size(const struct bpe *t);                  /* largest id + 1, added tokens included */
int32_t bpe_token_id(const struct bpe *t, const char *token); /* -1 */
int32_t bpe_bos(const struct bpe *t); /* from tokenizer_config.json / special tokens; -1 = none */
int32_t bpe_eos(const struct bpe *t);
const char *bpe_fingerprint(const struct bpe *t); /* 16 hex digits of what determines the ids */
struct bpe_encoder;
struct bpe_encoder *bpe_encoder_new(const struct bpe *t);
void bpe_encoder_free(struct bpe_encoder *x);
/* Ids of a text of any bytes (no BOS or EOS added). *ids lives until the next call. Returns the count or -1. */
int64_t bpe_encode(struct bpe_encoder *x, const char *text, size_t bytes, const int32_t **ids, struct err *e);
/* Largest place <= most, 0 < place < bytes, at which the text can be divided so that the ids of both parts, one
 * after the other, are the ids of the whole; 0 = none was found. Linear in what it looks at. */
size_t bpe_cut(const struct bpe *t, const char *text, size_t bytes, size_t most);
int32_t bpe_token_bytes(const struct bpe *t, int32_t id); /* bytes of text an id stands for; 0 = no such id */
bool bpe_is_special(const struct bpe *t, int32_t id);
const char *bpe_decoder_problem(const struct bpe *t); /* NULL: bpe_decode says what the library says */
/* Bytes of ids; special tokens printed unless skip_special. Returned text lives in the arena, 0-terminated. */
char *bpe_decode(const struct bpe *t, struct arena *a, const int32_t *ids, int64_t n, bool skip_special,
                 size_t *bytes);
/* `moec tokenizer train`: a byte-level BPE of vocab_size ids (256 bytes, merges, BOS, EOS) from text files (as
 * text.h; text_key of .jsonl); writes tokenizer.json and tokenizer_config.json into save_dir. Deterministic. */
bool bpe_train(const char *const *paths, int n_paths, int64_t vocab_size, const char *text_key,
               const char *save_dir, struct err *e);
