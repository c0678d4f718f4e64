/* options_fuzz.c - the command line and the config file. The first byte chooses the command, 0 bytes divide
 * words; a first byte over 127 gives all the rest as a config file. */
#include "config/config.h"
#include "tests/fuzz/fuzz.h"

static void parse(struct arena *a, const char *command, int n, char **words)
{
    struct config c;
    struct err e = { 0 };
    struct str s = str_new(a, 1u << 20);
    const bool taken = config_parse(a, command, n, words, &c, &e);
    fuzz_outcome(taken, &e);
    fuzz_expect(taken || e.code == EXIT_USAGE, "a mistake on the command line is a usage error");
    if (!taken || c.help)
        return;
    config_print(&s, &c);
    str_clear(&s);
    config_json(&s, &c);
}

static int split(char *text, size_t bytes, char **words, int most)
{
    int n = 0;
    for (size_t at = 0; at < bytes && n < most; at += strlen(text + at) + 1)
        words[n++] = text + at;
    return n;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    if (bytes < 1)
        return 0;
    struct arena *a = arena_new("fuzz");
    const char *command = config_command(data[0] % config_n_commands());
    char *text = fuzz_text(data + 1, bytes - 1), *words[64];
    if (data[0] < 128) {
        parse(a, command, split(text, bytes - 1, words, 64), words);
    } else {
        const struct fuzz_path p = fuzz_path(data + 1, bytes - 1);
        words[0] = arena_strdup(a, "--config");
        words[1] = arena_strdup(a, p.path);
        parse(a, command, 2, words);
        fuzz_path_end(&p);
    }
    free(text);
    arena_free(a);
    return 0;
}
