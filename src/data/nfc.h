/* nfc.h - Unicode normalization form C. nfc.c is the only file that includes utf8proc.h. */
#pragma once
#include "data/buffer.h"
/* Appends the normal form of valid UTF-8. */
void nfc_append(struct buffer *out, const char *text, size_t bytes);
