/* main.c - moec: finds the command, parses its options, runs it, prints the one line of an error. */
#include "base/arena.h"
#include "base/blas.h"
#include "cmd/cmd.h"
#include "device/comm.h"
#include "version.h"
#include <stdio.h>
#include <string.h>
#define MOEC_VERSION "0.1.0"

static const struct {
    const char *name;
    command *run;
} commands[] = {
    { "prepare", cmd_prepare },
    { "tokenize", cmd_tokenize },
    { "tokenizer train", cmd_tokenizer_train },
    { "inspect", cmd_inspect },
    { "init", cmd_init },
    { "compile", cmd_compile },
    { "simulate", cmd_simulate },
    { "train", cmd_train },
    { "eval", cmd_eval },
    { "generate", cmd_generate },
    { "check", cmd_check },
    { "merge", cmd_merge },
    { "export", cmd_export },
    { "verify", cmd_verify },
    { "profile", cmd_profile },
    { "bench step", cmd_bench_step },
    { "bench ops", cmd_bench_ops },
    { "bench grouped-gemm", cmd_bench_grouped },
};

static int print_version(void)
{
    printf("moec %s (%s)\ndevices: cpu (float32, %s)\nmessages: %s\n", MOEC_VERSION, MOEC_COMMIT, blas_name(),
           comm_library());
    return 0;
}

static int print_help(struct arena *a, const char *topic)
{
    struct str s = str_new(a, 1u << 20);
    if (!topic)
        config_overview(&s);
    else if (strcmp(topic, "options") == 0)
        config_doc(&s);
    else
        config_help(&s, topic);
    fputs(s.text, stdout);
    return 0;
}

static int report(const struct err *e)
{
    if (comm_rank() == 0)
        fprintf(stderr, "moec: %s\n", e->text);
    return e->code ? e->code : EXIT_WORLD;
}

static int unknown(const char *word)
{
    const char *near = config_nearest_command(word);
    fprintf(stderr, "moec: unknown command '%s'%s%s%s; `moec help` lists them\n", word,
            near ? ", did you mean '" : "", near ? near : "", near ? "'" : "");
    return EXIT_USAGE;
}

static int run(struct arena *a, const char *name, int argc, char **argv)
{
    struct config c;
    struct err e = { 0 };
    if (!config_parse(a, name, argc, argv, &c, &e))
        return report(&e);
    if (c.help)
        return print_help(a, name);
    if (strcmp(name, "version") == 0)
        return print_version();
    if (strcmp(name, "help") == 0)
        return c.topic && strcmp(c.topic, "options") != 0 && !config_is_command(c.topic)
                   ? unknown(c.topic)
                   : print_help(a, c.topic);
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++)
        if (strcmp(commands[i].name, name) == 0)
            return commands[i].run(a, &c, &e) ? 0 : report(&e);
    return unknown(name);
}

/* "tokenizer train" is one command of two words. */
static const char *command_name(struct arena *a, int argc, char **argv, int *words)
{
    *words = 2;
    if (argc > 2) {
        const char *two = arena_printf(a, "%s %s", argv[1], argv[2]);
        if (config_is_command(two)) {
            *words = 3;
            return two;
        }
    }
    return argv[1];
}

int main(int argc, char **argv)
{
    struct arena *a = arena_new("run");
    int words, code;
    if (argc < 2 || strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0) {
        code = print_help(a, NULL);
    } else if (strcmp(argv[1], "--version") == 0) {
        code = print_version();
    } else {
        const char *name = command_name(a, argc, argv, &words);
        code = config_is_command(name) ? run(a, name, argc - words, argv + words) : unknown(argv[1]);
    }
    if (fflush(stdout) != 0 && code == 0) {
        perror("moec: standard output");
        code = EXIT_WORLD;
    }
    comm_stop();
    arena_free(a);
    return code;
}
