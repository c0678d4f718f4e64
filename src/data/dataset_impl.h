/* dataset_impl.h - inside data/: what prepare writes and dataset reads. */
#pragma once
#include <stdint.h>
enum { DATASET_VERSION = 1 };
struct document {   /* documents.bin, one per document, little endian */
    int64_t source; /* index into "sources" */
    int64_t offset; /* byte in the decompressed source */
    int64_t token;  /* index of its BOS in the token stream */
};
_Static_assert(sizeof(struct document) == 24, "the file format");
