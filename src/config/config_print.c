/* config_print.c - what people and files get to see of the table: help, effective configuration, documentation. */
#include "config/config.h"
#include "config/option.h"
#include <ctype.h>
#include <stdio.h>
#include <string.h>

/* Text from column `column` on, broken before column 100, but not inside the bracket that ends it. */
static void add_wrapped(struct str *s, const char *text, int column)
{
    const int width = 100 - column;
    for (;;) {
        int n = (int)strlen(text);
        if (n <= width)
            break;
        for (n = width; n > 0 && text[n] != ' '; n--)
            ;
        n = n > 0 ? n : width;
        const char *bracket = strrchr(text, '[');
        if (bracket && bracket > text && bracket - text < n)
            n = (int)(bracket - text) - 1;
        str_addf(s, "%.*s\n%*s", n, text, column, "");
        text += n;
        text += strspn(text, " ");
    }
    str_addf(s, "%s\n", text);
}

static const char *value_name(const struct option *o)
{
    static const char *const names[] = {
        [TEXT] = " TEXT", [INT] = " N",       [REAL] = " X",  [BOOL] = "",
        [PAIR] = " X,X",  [BYTES] = " BYTES", [CHOICE] = " ", [HEADING] = ""
    };
    return names[o->kind];
}

/* "default 4 sequences", "required", "off" ... */
static void add_default(struct str *s, const struct option *o)
{
    const char *text = o->default_text;
    if (o->kind == BOOL)
        str_add(s, strcmp(text, "true") ? "off" : "on");
    else if (text == option_required)
        str_add(s, "required");
    else if (!text || !*text)
        str_add(s, text ? "empty" : "none");
    else
        str_addf(s, "%s%s%s", text, o->kind != CHOICE && *o->unit ? " " : "",
                 o->kind == CHOICE ? "" : o->unit);
}

static void add_range(struct str *s, const struct option *o)
{
    if (o->kind == CHOICE)
        str_add(s, o->unit);
    else if (o->lo != 0 || o->hi != 0) {
        if (o->hi > 9e15)
            str_addf(s, "%.10g or more", o->lo);
        else
            str_addf(s, "%.10g to %.10g", o->lo, o->hi);
    }
}

static void add_option(struct str *s, const struct option *o)
{
    struct arena *a = arena_new("help");
    struct str text = str_new(a, 4096), flag = str_new(a, 256);
    str_addf(&flag, "  --%s%s%s", o->name, value_name(o), o->kind == CHOICE ? o->unit : "");
    str_add(&text, o->sentence);
    str_add(&text, " [");
    add_default(&text, o);
    str_add(&text, "]");
    if (flag.bytes > 32)
        str_addf(s, "%s\n%34s", flag.text, "");
    else
        str_addf(s, "%-34s", flag.text);
    add_wrapped(s, text.text, 34);
    arena_free(a);
}

/* The positional option stands in the usage line, in capitals. */
static void add_usage(struct str *s, const struct command *k)
{
    str_addf(s, "Usage: moec %s", k->name);
    if (k->positional) {
        const struct option *o = option_find(k, k->positional, strlen(k->positional));
        str_add(s, o->default_text == option_required ? " " : " [");
        for (const char *c = o->name; *c; c++)
            str_addf(s, "%c", toupper((unsigned char)*c));
        str_add(s, o->default_text == option_required ? "" : "]");
    }
    str_addf(s, " [--OPTION VALUE ...]\n%s\n", k->sentence);
}

void config_help(struct str *s, const char *command)
{
    const struct command *k = command_find(command);
    const char *heading = NULL;
    CHECK(k, "no command is called '%s'", command);
    add_usage(s, k);
    for (const struct option *o = options; o < options + N_OPTIONS; o++) {
        if (o->kind == HEADING)
            heading = o->name;
        if (!command_takes(k, o))
            continue;
        if (heading)
            str_addf(s, "\n%s\n", heading);
        heading = NULL;
        add_option(s, o);
    }
}

void config_overview(struct str *s)
{
    str_add(s, "Usage: moec COMMAND [--OPTION VALUE ...]\n\n");
    for (int i = 0; i < config_n_commands(); i++)
        str_addf(s, "  %-20s%s\n", config_command(i), command_find(config_command(i))->sentence);
    str_add(
        s,
        "\nmoec COMMAND --help prints the options of a command. In names of options - and _ are the same;\n"
        "--config FILE.json sets options from a file with the same names, flags win over it.\n");
}

/* `config` and `help` are not part of a configuration. */
static bool is_setting(const struct command *k, const struct option *o)
{
    return command_takes(k, o) && strcmp(o->name, "config") != 0 && strcmp(o->name, "help") != 0;
}

void config_print(struct str *s, const struct config *c)
{
    const struct command *k = command_find(c->command);
    for (const struct option *o = options; o < options + N_OPTIONS; o++) {
        if (!is_setting(k, o))
            continue;
        const bool usual = option_is_default(c, o);
        str_addf(s, "%s %-24s ", usual ? " " : "*", o->name);
        if (option_is_none(c, o))
            str_add(s, "none");
        else
            option_add_value(s, c, o, o->kind == TEXT);
        str_addf(s, "%s%s", o->kind != CHOICE && *o->unit ? " " : "", o->kind == CHOICE ? "" : o->unit);
        if (!usual && o->default_text != option_required) {
            str_add(s, "  (default ");
            add_default(s, o);
            str_add(s, ")");
        }
        str_add(s, "\n");
    }
}

void config_json(struct str *s, const struct config *c)
{
    const struct command *k = command_find(c->command);
    const char *comma = "";
    str_add(s, "{");
    for (const struct option *o = options; o < options + N_OPTIONS; o++) {
        if (!is_setting(k, o))
            continue;
        str_addf(s, "%s\"%s\": ", comma, o->name);
        option_add_value(s, c, o, true);
        comma = ", ";
    }
    str_add(s, "}");
}

/* '|' would end a cell of a table. */
static void add_cell(struct str *s, const char *text)
{
    for (; *text; text++)
        str_addf(s, *text == '|' ? "\\%c" : "%c", *text);
}

static void add_doc_row(struct str *s, const struct option *o)
{
    struct arena *a = arena_new("doc");
    struct str usual = str_new(a, 256), range = str_new(a, 256);
    add_default(&usual, o);
    add_range(&range, o);
    str_addf(s, "| `--%s` | ", o->name);
    add_cell(s, usual.text);
    str_add(s, " | ");
    add_cell(s, range.text);
    str_add(s, " | ");
    add_cell(s, o->sentence);
    str_add(s, " |\n");
    arena_free(a);
}

static void add_doc_command(struct str *s, const struct command *k)
{
    bool heads = false;
    str_addf(s, "\n## moec %s\n\n%s\n", k->name, k->sentence);
    if (k->positional)
        str_addf(s, "An argument without a name is `--%s`.\n", k->positional);
    for (const struct option *o = options; o < options + N_OPTIONS; o++) {
        if (!is_setting(k, o))
            continue;
        if (!heads)
            str_add(s, "\n| option | default | range | meaning |\n|---|---|---|---|\n");
        heads = true;
        add_doc_row(s, o);
    }
}

void config_doc(struct str *s)
{
    str_add(s,
            "# Options\n\n"
            "Generated from src/config/config.def by `moec help options > doc/options.md`; do not edit.\n\n"
            "Write `--name value` or `--name=value`; `-` and `_` in names are the same; a switch needs\n"
            "no value (`--name=false` turns it off). Every command takes `--help` and\n"
            "`--config FILE.json`, an object with the same names as keys; keys of other commands are\n"
            "skipped. A default gives way to the file, the file to a flag. Where the default is none, the\n"
            "word `none` gives it back. A wrong name, type or range is one line and exit code 2.\n");
    for (int i = 0; i < config_n_commands(); i++)
        add_doc_command(s, command_find(config_command(i)));
}
