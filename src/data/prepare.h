/* prepare.h - text -> dataset: BOS + text + EOS of every document, concatenated, cut to the sequence length. The
 * bytes written do not depend on threads or on how the input was read. */
#pragma once
#include "base/arena.h"
#include "base/err.h"
#include <stdint.h>
struct prepare_options {
    const char *inputs, *tokenizer_dir, *save_path; /* inputs: as text_list_files */
    const char *text_key, *separator;               /* separator NULL = one document per file */
    int64_t sequence_length;
    int threads;
    bool skip_bad_lines, overwrite;
};
/* Progress on standard error, a summary on standard output. On error save_path is as it was. */
bool prepare(struct arena *a, const struct prepare_options *o, struct err *e);
