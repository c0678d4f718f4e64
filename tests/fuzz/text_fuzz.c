/* text_fuzz.c - documents from files, plain or compressed: the first byte chooses .txt, .txt with separator, .jsonl. */
#include "data/text.h"
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    if (bytes < 1)
        return 0;
    struct err e = { 0 };
    struct buffer out = { 0 };
    const struct fuzz_path p = fuzz_path(data + 1, bytes - 1);
    const struct text_file f = { p.path, data[0] % 3 == 2, (int64_t)bytes - 1 };
    struct text_reader *r = text_open(&f, data[0] % 3 == 1 ? "---" : NULL, &e);
    fuzz_outcome(r != NULL, &e);
    int64_t offset = 0, line, before = -1;
    int got = r ? 1 : 0;
    while (got == 1 && out.bytes < 1 << 22) {
        got = text_next(r, &out, &offset, &line, &e);
        fuzz_expect(got != 1 || (offset > before && line >= 1), "places ascend");
        before = got == 1 ? offset : before;
    }
    fuzz_outcome(r && got != -1, &e);
    text_close(r);
    buffer_free(&out);
    fuzz_path_end(&p);
    return 0;
}
