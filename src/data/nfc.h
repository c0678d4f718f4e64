/* nfc.h - Unicode normalization form C. nfc.c is the only file that includes utf8proc.h. */
#pragma once
#include "data/buffer.h"
#include <stdbool.h>
#include <stdint.h>
/* Appends the normal form of valid UTF-8. */
void nfc_append(struct buffer *out, const char *text, size_t bytes);
/* Characters that are their own normal form and never combine with a neighbour before them; not all of those. */
bool nfc_is_plain(uint32_t c);
