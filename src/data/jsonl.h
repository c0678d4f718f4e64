/* jsonl.h - the text of one JSONL line, without building a tree. */
#pragma once
#include "base/err.h"
#include "data/buffer.h"
/* Appends the string under `key` (last one wins, as in Python) to out. `place` ("file:line") begins the message
 * of an error; the JSON library words it. */
bool jsonl_text(const char *line, size_t bytes, const char *key, const char *place, struct buffer *out,
                struct err *e);
/* The scanner alone: false where it does not accept the line; out is then as before. For the differential test. */
bool jsonl_scan(const char *line, size_t bytes, const char *key, struct buffer *out);
