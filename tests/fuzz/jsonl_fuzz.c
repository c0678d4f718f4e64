/* jsonl_fuzz.c - lines of JSONL, differential: whatever the key scanner accepts, the JSON library accepts with the
 * same text; whatever it leaves alone, the library decides. */
#include "base/json.h"
#include "data/jsonl.h"
#include "tests/fuzz/fuzz.h"

static void library_agrees(const char *line, size_t bytes, const struct buffer *scanned)
{
    struct err e = { 0 };
    size_t n;
    struct json *j = json_parse(line, bytes, "line", &e);
    if (!j) { /* base/json.h refuses a key that comes twice; JSONL takes the last one */
        fuzz_expect(strstr(e.text, "twice") || strstr(e.text, "duplicate"), e.text);
        return;
    }
    const jval v = json_get(json_root(j), "text");
    fuzz_expect(json_type(v) == JSON_STRING, "the key is a string");
    const char *text = json_string(v, &n);
    fuzz_expect(n == scanned->bytes && (n == 0 || memcmp(text, scanned->data, n) == 0),
                "scanner and library give the same text");
    json_free(j);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    struct err e = { 0 };
    struct buffer scanned = { 0 }, out = { 0 };
    char *line = fuzz_text(data, bytes);
    const bool quick = jsonl_scan(line, bytes, "text", &scanned),
               taken = jsonl_text(line, bytes, "text", "f:1", &out, &e);
    fuzz_outcome(taken, &e);
    fuzz_expect(!quick || taken, "what the scanner accepts is accepted");
    if (quick) {
        fuzz_expect(scanned.bytes == out.bytes &&
                        (out.bytes == 0 || memcmp(scanned.data, out.data, out.bytes) == 0),
                    "the same text");
        library_agrees(line, bytes, &scanned);
    }
    buffer_free(&scanned);
    buffer_free(&out);
    free(line);
    return 0;
}
