/* parse.c - the command line: two passes, first for the config file, then for all flags, so that a flag wins
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
};

static bool is_flag(const char *word)
{
    return word[0] == '-' && word[1] == '-';
}

static bool unknown(const struct line *l, const char *name, size_t bytes, struct err *e)
{
    const char *typed = arena_strndup(l->arena, name, bytes), *command = l->command->name;
    if (option_find_anywhere(name, bytes))
        return err_code(e, EXIT_USAGE, "--%s: is an option, but not of 'moec %s' (see 'moec %s --help')", typed, command,
                        command);
    const char *near = option_nearest(l->arena, l->command, typed);
    if (near)
        return err_code(e, EXIT_USAGE, "--%s: unknown option of 'moec %s'; did you mean --%s?", typed, command, near);
    return err_code(e, EXIT_USAGE, "--%s: unknown option of 'moec %s' (see 'moec %s --help')", typed, command, command);
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

/* The next option and its value; *o = NULL at the end. */
static bool next_option(struct line *l, const struct option **o, const char **value, struct err *e)
{
    *o = NULL;
    if (l->next < l->argc && !strcmp(l->argv[l->next], "--") && !l->only_positional) {
        l->only_positional = true;
        l->next++;
    }
    if (l->next == l->argc)
        return true;
    const char *word = l->argv[l->next++];
    if (l->only_positional || word[0] != '-' || !word[1]) {
        const char *name = l->command->positional;
        if (!name)
            return err_code(e, EXIT_USAGE, "'%.80s': 'moec %s' takes options only, like --NAME VALUE", word,
                            l->command->name);
        *o = option_find(l->command, name, strlen(name));
        *value = word;
        return true;
    }
    if (!strcmp(word, "-h"))
        word = "--help";
    if (!is_flag(word))
        return err_code(e, EXIT_USAGE, "%.80s: unknown option of 'moec %s'; options begin with --", word,
                        l->command->name);
    const char *equals = strchr(word, '=');
    const size_t bytes = equals ? (size_t)(equals - word) - 2 : strlen(word) - 2;
    *o = option_find(l->command, word + 2, bytes);
    if (!*o)
        return unknown(l, word + 2, bytes, e);
    *value = equals ? equals + 1 : next_value(l, *o, e);
    return *value != NULL;
}

/* config_file: true = heed only --config and --help, false = all the others. */
static bool pass(struct line l, bool config_file, struct config *out, struct err *e)
{
    const struct option *o;
    const char *value, *positional = NULL;
    for (;;) {
        if (!next_option(&l, &o, &value, e))
            return false;
        if (!o)
            return true;
        if (config_file != (!strcmp(o->name, "config") || !strcmp(o->name, "help")))
            continue;
        const bool by_place = value == l.argv[l.next - 1] && (l.only_positional || !is_flag(l.argv[l.next - 2 < 0 ? 0 : l.next - 2]));
        (void)by_place;
        (void)positional;
        if (!option_set(out, o, value, arena_printf(l.arena, "--%s", o->name), e))
            return false;
        option_mark(out, o);
        if (o->kind == TEXT && !strcmp(o->name, "config") && !config_read_file(l.arena, l.command, value, out, e))
            return false;
    }
}
