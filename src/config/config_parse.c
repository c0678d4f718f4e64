/* config_parse.c - the command line: two passes, first for the config file, then for all flags, so that a flag wins
 * wherever it stands. */
#include "config/config.h"
#include "config/option.h"
#include <string.h>
#include <strings.h>
struct line { /* what is left of the command line */
    struct arena *arena;
    const struct command *command;
    int argc, next;
    char **argv;
    bool only_positional; /* after "--" */
    bool had_positional;
};

static bool is_flag(const char *word)
{
    return word[0] == '-' && word[1] == '-';
}

static bool unknown(const struct line *l, const char *name, size_t bytes, struct err *e)
{
    const char *typed = arena_strndup(l->arena, name, bytes), *command = l->command->name;
    if (option_find_anywhere(name, bytes))
        return err_code(e, EXIT_USAGE, "--%s: is an option, but not of 'moec %s' (see 'moec %s --help')",
                        typed, command, command);
    const char *near = option_nearest(l->arena, l->command, typed);
    if (near)
        return err_code(e, EXIT_USAGE, "--%s: unknown option of 'moec %s'; did you mean --%s?", typed,
                        command, near);
    return err_code(e, EXIT_USAGE, "--%s: unknown option of 'moec %s' (see 'moec %s --help')", typed, command,
                    command);
}

/* A boolean needs no value; it takes the next word only if that is true or false. */
static const char *bool_value(struct line *l)
{
    const char *word = l->next < l->argc ? l->argv[l->next] : "";
    if (strcasecmp(word, "true") != 0 && strcasecmp(word, "false") != 0)
        return "true";
    return l->argv[l->next++];
}

/* The word after the flag; for a pair without a comma the two words after it. NULL with an error. */
static const char *next_value(struct line *l, const struct option *o, struct err *e)
{
    if (o->kind == BOOL)
        return bool_value(l);
    if (l->next == l->argc || is_flag(l->argv[l->next])) {
        err_code(e, EXIT_USAGE, "--%s: a value is missing%s", o->name,
                 l->next < l->argc ? " (write --NAME=VALUE for one that begins with --)" : "");
        return NULL;
    }
    const char *value = l->argv[l->next++];
    if (o->kind == PAIR && !strchr(value, ',') && l->next < l->argc && !is_flag(l->argv[l->next]))
        return arena_printf(l->arena, "%s,%s", value, l->argv[l->next++]);
    return value;
}

/* An argument without a name. */
static const struct option *positional(struct line *l, const char *word, struct err *e)
{
    const char *name = l->command->positional;
    if (!name)
        err_code(e, EXIT_USAGE, "'%.80s': 'moec %s' takes options only, like --NAME VALUE", word,
                 l->command->name);
    else if (l->had_positional)
        err_code(e, EXIT_USAGE, "'%.80s': 'moec %s' takes one argument without a name", word,
                 l->command->name);
    else {
        l->had_positional = true;
        return option_find(l->command, name, strlen(name));
    }
    return NULL;
}

static const struct option *named(struct line *l, const char *word, const char **value, struct err *e)
{
    const char *equals = strchr(word, '=');
    const size_t bytes = equals ? (size_t)(equals - word) - 2 : strlen(word) - 2;
    const struct option *o = option_find(l->command, word + 2, bytes);
    if (!o) {
        unknown(l, word + 2, bytes, e);
        return NULL;
    }
    *value = equals ? equals + 1 : next_value(l, o, e);
    return *value ? o : NULL;
}

/* The option that the next word is about, and its value; NULL with an error. */
static const struct option *next_option(struct line *l, const char **value, struct err *e)
{
    const char *word = l->argv[l->next++];
    if (l->only_positional || word[0] != '-' || !word[1]) {
        *value = word;
        return positional(l, word, e);
    }
    if (!strcmp(word, "-h"))
        word = "--help";
    if (is_flag(word))
        return named(l, word, value, e);
    err_code(e, EXIT_USAGE, "%.80s: unknown option of 'moec %s'; options begin with --", word,
             l->command->name);
    return NULL;
}

/* First pass: --config and --help only. Second pass: all the others. */
static bool pass(struct line l, bool first, struct config *out, struct err *e)
{
    while (l.next < l.argc) {
        const char *value = NULL;
        if (!l.only_positional && !strcmp(l.argv[l.next], "--")) {
            l.only_positional = true;
            l.next++;
            continue;
        }
        const struct option *o = next_option(&l, &value, e);
        if (!o)
            return false;
        const bool is_config = !strcmp(o->name, "config"), early = is_config || !strcmp(o->name, "help");
        if (early != first)
            continue;
        if (!option_set(out, o, value, arena_printf(l.arena, "--%s", o->name), e))
            return false;
        option_mark(out, o);
        if (is_config && !config_read_file(l.arena, l.command, value, out, e))
            return false;
    }
    return true;
}

static bool check_required(const struct command *k, const struct config *c, struct err *e)
{
    for (const struct option *o = options; o < options + N_OPTIONS; o++) {
        if (!command_takes(k, o) || o->default_text != option_required || !option_is_none(c, o))
            continue;
        const bool by_place = k->positional && !strcmp(k->positional, o->name);
        return err_code(e, EXIT_USAGE, "%s%s: is missing, 'moec %s' needs it: %s", by_place ? "" : "--",
                        o->name, k->name, o->sentence);
    }
    return true;
}

/* Fields of other commands get defaults too; rows of this command come last, because they may differ. */
static void set_defaults(const struct command *k, struct config *c)
{
    memset(c, 0, sizeof *c);
    c->command = k->name;
    for (const struct option *o = options; o < options + N_OPTIONS; o++)
        if (o->kind != HEADING)
            option_default(c, o);
    for (const struct option *o = options; o < options + N_OPTIONS; o++)
        if (command_takes(k, o))
            option_default(c, o);
}

bool config_parse(struct arena *a, const char *command, int argc, char **argv, struct config *out,
                  struct err *e)
{
    const struct command *k = command_find(command);
    CHECK(k, "no command is called '%s'", command);
    const struct line line = { .arena = a, .command = k, .argc = argc, .argv = argv };
    set_defaults(k, out);
    if (!pass(line, true, out, e))
        return false;
    if (out->help)
        return true;
    return pass(line, false, out, e) && check_required(k, out, e);
}
