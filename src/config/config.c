/* config.c - the table of options, the table of commands, look-ups. */
#include "config/config.h"
#include "config/option.h"
#include <ctype.h>
#include <stddef.h>
#include <string.h>
enum { /* one bit per row of `commands`, in its order */
       PREPARE = 1 << 0,
       TOKENIZE = 1 << 1,
       TOKENIZER_TRAIN = 1 << 2,
       INSPECT = 1 << 3,
       INIT = 1 << 4,
       COMPILE = 1 << 5,
       TRAIN = 1 << 6,
       EVAL = 1 << 7,
       GENERATE = 1 << 8,
       CHECK = 1 << 9,
       MERGE = 1 << 10,
       EXPORT = 1 << 11,
       VERIFY = 1 << 12,
       HELP = 1 << 13,
       VERSION = 1 << 14,
       BENCH_STEP = 1 << 15,
       BENCH_OPS = 1 << 16,
       BENCH_GROUPED = 1 << 17,
       SIMULATE = 1 << 18,
       PROFILE = 1 << 19,
       EVERY = (1 << 20) - 1,
       PLAN = COMPILE | TRAIN | SIMULATE,
       BENCH = BENCH_STEP | BENCH_OPS | BENCH_GROUPED,
       MODEL = PLAN | EVAL | GENERATE | CHECK | BENCH_STEP | BENCH_OPS | PROFILE
};
static const struct command commands[] = {
    { "prepare", "Tokenize text into a dataset of sequences.", NULL },
    { "tokenize", "Print the token ids of standard input, or with --decode the text of ids.", NULL },
    { "tokenizer train", "Make a byte-level BPE tokenizer from text.", NULL },
    { "inspect", "Describe a dataset, checkpoint or model, or print one sequence of a dataset.", "path" },
    { "init", "Write a model directory with random weights, from config.json.", NULL },
    { "compile", "Make the plan of a training run and print it with memory, time and alternatives.", NULL },
    { "train", "Train a model; start it with mpirun for several ranks.", NULL },
    { "eval", "Print the loss of a model on a dataset.", NULL },
    { "generate", "Continue a prompt.", NULL },
    { "check", "Compare logits, gradients and losses of a model with a reference.", "model_id" },
    { "merge", "Make one file set with optimizer state from a checkpoint.", NULL },
    { "export", "Make a Hugging Face model directory from a checkpoint.", NULL },
    { "verify", "Check structure and checksums of a checkpoint or dataset.", "path" },
    { "help", "Explain a command.", "topic" },
    { "version", "Print version, build and libraries.", NULL },
    { "bench step", "Time a training step of a model, by operator.", NULL },
    { "bench ops", "Time each operator of a model's training step by itself, beside its floor.", NULL },
    { "bench grouped-gemm", "Time the experts' products at the sizes of the nnScaler example.", NULL },
    { "simulate", "Run a step of a plan on a clock, for any number of ranks: time, memory, waiting, a trace.",
      NULL },
    { "profile", "Measure this machine for predictions: operators on all ranks at once, and their links.",
      NULL },
};
enum { N_COMMANDS = sizeof commands / sizeof *commands };
const char option_required[] = "required";
#define REQUIRED option_required
#define ANY      9007199254740992.0 /* 2^53: every integer up to here is exact in lo and hi */
const struct option options[N_OPTIONS] = {
#define GROUP(title) { .name = (title), .kind = HEADING },
#define OPTION(kind, name, default_text, lo, hi, unit, takers, sentence)                                     \
    { #name, kind, takers, default_text, lo, hi, unit, sentence, offsetof(struct config, name) },
#define OPTION_FOR(...) OPTION(__VA_ARGS__)
#include "config/config.def"
};

int config_n_commands(void)
{
    return N_COMMANDS;
}

const char *config_command(int i)
{
    return commands[i].name;
}

const struct command *command_find(const char *name)
{
    for (int i = 0; i < N_COMMANDS; i++)
        if (!strcmp(commands[i].name, name))
            return &commands[i];
    return NULL;
}

bool config_is_command(const char *command)
{
    return command_find(command) != NULL;
}

const char *config_nearest_command(const char *word)
{
    const char *names[N_COMMANDS];
    for (int i = 0; i < N_COMMANDS; i++)
        names[i] = commands[i].name;
    return str_nearest(word, names, N_COMMANDS);
}

bool command_takes(const struct command *k, const struct option *o)
{
    return o->kind != HEADING && (o->commands >> (k - commands) & 1);
}

static bool same_name(const char *name, const char *typed, size_t bytes)
{
    if (strlen(name) != bytes)
        return false;
    for (size_t i = 0; i < bytes; i++)
        if (name[i] != (typed[i] == '-' ? '_' : typed[i]))
            return false;
    return true;
}

const struct option *option_find(const struct command *k, const char *name, size_t bytes)
{
    for (const struct option *o = options; o < options + N_OPTIONS; o++)
        if (command_takes(k, o) && same_name(o->name, name, bytes))
            return o;
    return NULL;
}

const struct option *option_find_anywhere(const char *name, size_t bytes)
{
    for (const struct option *o = options; o < options + N_OPTIONS; o++)
        if (o->kind != HEADING && same_name(o->name, name, bytes))
            return o;
    return NULL;
}

const char *option_nearest(struct arena *a, const struct command *k, const char *name)
{
    const char *names[N_OPTIONS];
    int n = 0;
    char *lower = arena_strdup(a, name);
    for (char *c = lower; *c; c++)
        *c = (char)(*c == '-' ? '_' : tolower((unsigned char)*c));
    for (const struct option *o = options; o < options + N_OPTIONS; o++)
        if (command_takes(k, o))
            names[n++] = o->name;
    return str_nearest(lower, names, n);
}

bool config_given(const struct config *c, const char *name)
{
    CHECK(option_find_anywhere(name, strlen(name)), "no option is called '%s'", name);
    for (int i = 0; i < N_OPTIONS; i++)
        if (c->given[i] && !strcmp(options[i].name, name))
            return true;
    return false;
}

void option_mark(struct config *c, const struct option *o)
{
    c->given[o - options] = true;
}
