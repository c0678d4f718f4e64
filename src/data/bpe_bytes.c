/* bpe_bytes.c - the 256 characters that stand for bytes in vocabularies of byte-level BPE: printable Latin-1
 * stands for itself, the other bytes follow from U+0100 on in ascending order. */
#include "data/bpe_impl.h"

static bool stands_for_itself(int b)
{
    return (b >= 0x21 && b <= 0x7e) || (b >= 0xa1 && b <= 0xac) || (b >= 0xae && b <= 0xff);
}

uint32_t byte_level_character(int byte)
{
    uint32_t next = 0x100;
    if (stands_for_itself(byte))
        return (uint32_t)byte;
    for (int b = 0; b < byte; b++)
        next += !stands_for_itself(b);
    return next;
}

int byte_level_byte(uint32_t c)
{
    static const unsigned char moved[] = {
        /* 0x100 to 0x143 */
        0,    1,    2,    3,    4,    5,    6,    7,    8,    9,    10,   11,   12,   13,   14,   15,   16,
        17,   18,   19,   20,   21,   22,   23,   24,   25,   26,   27,   28,   29,   30,   31,   32,   0x7f,
        0x80, 0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8a, 0x8b, 0x8c, 0x8d, 0x8e, 0x8f, 0x90,
        0x91, 0x92, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99, 0x9a, 0x9b, 0x9c, 0x9d, 0x9e, 0x9f, 0xa0, 0xad
    };
    if (c < 0x100)
        return stands_for_itself((int)c) ? (int)c : -1;
    return c - 0x100 < sizeof moved ? moved[c - 0x100] : -1;
}

bool byte_level_decode(char *out, int32_t *n, const char *text, size_t bytes)
{
    *n = 0;
    for (size_t i = 0; i < bytes; i += (size_t)utf8_bytes((unsigned char)text[i])) {
        const int b = byte_level_byte(utf8_get(text + i));
        if (b < 0)
            return false;
        out[(*n)++] = (char)b;
    }
    return true;
}
