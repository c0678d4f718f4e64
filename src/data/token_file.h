/* token_file.h - writing a dataset directory (doc/formats/dataset.md): everything goes to SAVE_PATH.tmp, which is
 * renamed when dataset.json, the last file, is on disk. */
#pragma once
#include "data/text.h"
struct token_file;
struct token_file_options {
    const char *save_path, *tokenizer_dir, *tokenizer_fingerprint;
    int64_t sequence_length, vocab_size;
    int32_t bos, eos;
    const struct text_list *files;
    bool overwrite;
};
struct token_file_totals {
    int64_t n_documents, text_bytes, n_tokens;
};
struct token_file *token_file_create(struct arena *a, const struct token_file_options *o,
                                     struct err *e); /* NULL on error */
/* A document: BOS, ids in one or more parts, EOS. */
bool token_file_begin(struct token_file *t, int64_t source, int64_t offset, struct err *e);
bool token_file_text(struct token_file *t, const int32_t *ids, int64_t n, int64_t text_bytes, struct err *e);
bool token_file_end(struct token_file *t, struct err *e);
void token_file_source_done(struct token_file *t,
                            int64_t bytes); /* decompressed bytes of the next source, in order */
struct token_file_totals token_file_so_far(const struct token_file *t);
bool token_file_publish(struct token_file *t, struct err *e); /* on error nothing is left */
void token_file_drop(struct token_file *t);
