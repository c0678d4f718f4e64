/* dataset.h - prepared data: a directory with tokens.bin (int32, little endian, memory-mapped) and
 * dataset.json (readable; written last, so that an interrupted prepare never opens). doc/formats/dataset.md. */
#pragma once
#include "base/arena.h"
#include "base/err.h"
#include <stdint.h>
struct dataset {
    int64_t n_sequences, sequence_length, vocab_size; /* vocab_size: ids are below it */
    int64_t n_documents, n_bytes,
        n_tokens; /* of the whole text, the dropped tail included; n_bytes of UTF-8 */
    int32_t bos, eos;
    char fingerprint[17]; /* of tokens and meta data: what a checkpoint remembers */
    char tokenizer_fingerprint[17];
    const char *path, *tokenizer_dir;
    const int32_t *tokens; /* [n_sequences, sequence_length] */
};
/* Checks header, sizes and, unless quick, the checksum of all tokens (2 GB/s). */
bool dataset_open(struct arena *a, const char *path, bool quick, struct dataset *d, struct err *e);
void dataset_close(struct dataset *d);
/* Order of training samples of an epoch over n sequences: torch.randperm(n, seed + epoch). */
void dataset_order(int64_t seed, int64_t epoch, int64_t n, int64_t *order);
/* Prints what dataset.json says, for people (`moec inspect DATASET`). */
void dataset_print(const struct dataset *d);
/* Prints text, ids, source file and byte offset of one sequence to standard output (`moec inspect`). */
bool dataset_inspect(const char *path, int64_t sequence, struct err *e);
