/* option.h - rows of the option table, for the files of config/ only. */
#pragma once
#include "config/config.h"
enum kind { TEXT, INT, REAL, BOOL, PAIR, BYTES, CHOICE, HEADING };
struct option {
    const char *name; /* or the title of a heading */
    enum kind kind;
    unsigned commands; /* bits of config.c */
    const char *default_text;
    double lo, hi;
    const char *unit, *sentence;
    size_t offset; /* in struct config */
};
struct command {
    const char *name, *sentence, *positional; /* the option that an argument without name sets, or NULL */
};
extern const struct option options[N_OPTIONS];
extern const char option_required[];                  /* default_text of required options points here */
const struct command *command_find(const char *name); /* NULL when there is none */
bool command_takes(const struct command *k, const struct option *o);
/* NULL when the command has no such option; `bytes` of name count, - and _ are equal. */
const struct option *option_find(const struct command *k, const char *name, size_t bytes);
/* Likewise in any command, for messages. */
const struct option *option_find_anywhere(const char *name, size_t bytes);
const char *option_nearest(struct arena *a, const struct command *k, const char *name);
void option_default(struct config *c, const struct option *o); /* sets the field, not `given` */
/* Sets the field from text; `what` names the option in the message ("--lr" or "x.json:3: lr"). */
bool option_set(struct config *c, const struct option *o, const char *text, const char *what, struct err *e);
void option_mark(struct config *c, const struct option *o); /* given */
bool option_is_none(const struct config *c, const struct option *o);
/* Value as one would type it; `json` = as JSON. Nothing is added for a TEXT that is none, unless json. */
void option_add_value(struct str *s, const struct config *c, const struct option *o, bool json);
bool option_is_default(const struct config *c, const struct option *o);
/* Flags of the file named by --config; keys of other commands are skipped. */
bool config_read_file(struct arena *a, const struct command *k, const char *path, struct config *out,
                      struct err *e);
