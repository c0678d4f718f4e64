/* config.h - the options of one command, from defaults, then a config file, then flags. The table of all
 * options is config.def; `-` and `_` in names are the same. Errors are one line with err.code EXIT_USAGE. */
#pragma once
#include "base/arena.h"
#include "base/err.h"
#include "base/str.h"
#include <stdint.h>
/* The words of CHOICE options, in the order of config.def. */
enum { INIT_AUTO, INIT_RANDOM, INIT_PRETRAINED };
enum { GRAPHS_AUTO, GRAPHS_ON, GRAPHS_OFF };
enum { OVERLAP_AUTO, OVERLAP_ON, OVERLAP_ROUNDS, OVERLAP_OFF };
enum { EXPLAIN_QUICK, EXPLAIN_FULL };
enum { DEVICE_AUTO, DEVICE_CPU, DEVICE_CUDA };
/* comm: enum comm_way of device/comm.h; master, moments: 0 = auto, then 1 + the enums of base/num.h;
 * split_vocabulary, split_experts: enum split_choice, keep_rows: enum keep_choice of plan/plan.h */
enum { GRADIENT_AUTO, GRADIENT_FP32, GRADIENT_BF16 };
enum { ROUTING_UNIFORM, ROUTING_ZIPF, ROUTING_ONE };
enum { RUN_MODE_RUN, RUN_MODE_COMPILE };
enum { ZERO_AUTO, ZERO_OFF }; /* then the levels */
enum { LR_CONSTANT, LR_COSINE, LR_LINEAR };
enum { PROGRESS_AUTO, PROGRESS_BAR, PROGRESS_LINES };
enum { DTYPE_KEEP, DTYPE_FLOAT32, DTYPE_BFLOAT16, DTYPE_FLOAT16 };

#define FIELD_TEXT(name)   const char *name; /* NULL = none */
#define FIELD_INT(name)    int64_t name;
#define FIELD_REAL(name)   double name;
#define FIELD_BOOL(name)   bool name;
#define FIELD_PAIR(name)   double name[2];
#define FIELD_BYTES(name)  int64_t name;
#define FIELD_CHOICE(name) int name;
#define ROW_JOIN(line)     OPTION_ROW_##line
#define ROW(line)          ROW_JOIN(line)
enum { /* counts the rows */
#define GROUP(...)      ROW(__LINE__),
#define OPTION(...)     ROW(__LINE__),
#define OPTION_FOR(...) ROW(__LINE__),
#include "config/config.def"
       N_OPTIONS
};
/* NOLINTNEXTLINE(clang-analyzer-optin.performance.Padding): the order is that of the table */
struct config {
#define OPTION(kind, name, ...) FIELD_##kind(name)
#include "config/config.def"
    const char *command;
    bool given[N_OPTIONS]; /* by row of the table: set by a flag or by a config file */
};
/* command: "train", "tokenizer train", ...; argv: what follows it. Texts live in the arena or in argv. With
 * --help (or -h) only out->help is sure. Required options are checked. */
bool config_parse(struct arena *a, const char *command, int argc, char **argv, struct config *out,
                  struct err *e);
bool config_given(const struct config *c, const char *name); /* by flag or config file */

int config_n_commands(void);
const char *config_command(int i);                    /* name */
bool config_is_command(const char *command);          /* "tokenizer train" is one, "tokenizer" is not */
const char *config_nearest_command(const char *word); /* NULL when none is near */

void config_overview(struct str *s);                      /* `moec help`: the commands */
void config_help(struct str *s, const char *command);     /* usage, options in groups, defaults, units */
void config_print(struct str *s, const struct config *c); /* a line per option; * = not the default */
void config_json(struct str *s, const struct config *c);  /* one object; --config reads it back */
void config_doc(struct str *s);                           /* doc/options.md */
