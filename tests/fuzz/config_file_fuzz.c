/* config_file_fuzz.c - the file of --config: the first byte chooses the command, the rest is the file. What was taken
 * can be printed, stored and read again. */
#include "config/config.h"
#include "tests/fuzz/fuzz.h"

static bool read_file(struct arena *a, const char *command, const uint8_t *data, size_t bytes,
                      struct config *c)
{
    struct err e = { 0 };
    const struct fuzz_path p = fuzz_path(data, bytes);
    char *words[2] = { arena_strdup(a, "--config"), arena_strdup(a, p.path) };
    const bool taken = config_parse(a, command, 2, words, c, &e);
    fuzz_outcome(taken, &e);
    fuzz_expect(taken || e.code == EXIT_USAGE, "a mistake in a config file is a usage error");
    fuzz_path_end(&p);
    return taken;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    if (bytes < 1)
        return 0;
    struct arena *a = arena_new("fuzz");
    const char *command = config_command(data[0] % config_n_commands());
    struct config c;
    if (read_file(a, command, data + 1, bytes - 1, &c)) {
        struct str s = str_new(a, 1u << 20);
        config_print(&s, &c);
        str_clear(&s);
        config_json(&s, &c);
        const size_t n = s.bytes;
        char *stored = arena_strdup(a, s.text);
        fuzz_expect(read_file(a, command, (const uint8_t *)stored, n, &c), "what was stored can be read");
        str_clear(&s);
        config_json(&s, &c);
        fuzz_expect(strcmp(s.text, stored) == 0, "and is the same");
    }
    arena_free(a);
    return 0;
}
