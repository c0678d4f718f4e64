/* rules.c - see rules.h. */
#include "plan/rules.h"
#include "plan/layout.h"
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool bad_rule(struct err *e, const char *word)
{
    return err_code(e, EXIT_USAGE,
                    "--constraint: at \"%.40s\", expected NAME: ep=N, width=on|off, tensor=N|off, "
                    "recompute=on|off; NAME: ...",
                    word);
}

/* The word before the next of `ends`, without spaces around it; *at goes to the end. */
static bool next_word(const char **at, const char *ends, char *out, size_t bytes)
{
    while (isspace((unsigned char)**at))
        ++*at;
    const char *begin = *at, *end = begin + strcspn(begin, ends);
    *at = end;
    while (end > begin && isspace((unsigned char)end[-1]))
        end--;
    if (end == begin || (size_t)(end - begin) >= bytes)
        return false;
    memcpy(out, begin, (size_t)(end - begin));
    out[end - begin] = 0;
    return true;
}

static bool degree(const char *text, int *out)
{
    char *end;
    const long n = strtol(text, &end, 10);
    *out = (int)n;
    return isdigit((unsigned char)*text) && *end == 0 && n >= 1 && n <= 65536;
}

static bool set(struct rule *r, const char *word)
{
    if (strncmp(word, "ep=", 3) == 0)
        return degree(word + 3, &r->expert);
    if (strcmp(word, "tensor=off") == 0)
        return (r->tensor = 1);
    if (strncmp(word, "tensor=", 7) == 0)
        return degree(word + 7, &r->tensor);
    if (strcmp(word, "width=on") == 0)
        return (r->width = SPLIT_ON);
    if (strcmp(word, "width=off") == 0)
        return (r->width = SPLIT_OFF);
    if (strncmp(word, "recompute=", 10) != 0)
        return false;
    r->recompute = strcmp(word + 10, "on") == 0;
    return r->recompute || strcmp(word + 10, "off") == 0;
}

bool rules_parse(const char *text, struct rules *out, struct err *e)
{
    *out = (struct rules){ 0 };
    for (const char *at = text; at && *at;) {
        char word[64];
        const char *begin = at;
        struct rule *r = &out->rule[out->n];
        if (out->n == RULES)
            return err_code(e, EXIT_USAGE, "--constraint: expected at most %d rules", RULES);
        *r = (struct rule){ .recompute = -1 };
        if (!next_word(&at, ":;,", r->name, sizeof r->name) || *at != ':')
            return bad_rule(e, begin);
        do {
            begin = ++at;
            if (!next_word(&at, ",;", word, sizeof word) || !set(r, word))
                return bad_rule(e, begin);
        } while (*at == ',');
        out->n++;
        at += *at == ';';
    }
    return true;
}

static bool matches(const struct rule *r, const struct graph *g, int node)
{
    return strstr(g->nodes[node].name, r->name) != NULL;
}

static bool fix(const struct rule *r, const char *what, int wanted, int *degree_of_all, struct err *e)
{
    if (wanted && *degree_of_all && *degree_of_all != wanted)
        return err_code(e, EXIT_USAGE, "--constraint \"%s\": %s %d, but %d is asked for elsewhere", r->name,
                        what, wanted, *degree_of_all);
    *degree_of_all = wanted ? wanted : *degree_of_all;
    return true;
}

static bool apply(const struct rule *r, const struct graph *g, const struct node_split *split,
                  struct plan_limits *l, struct err *e)
{
    bool known = false, experts = false;
    for (int i = 0; i < g->n_nodes; i++) {
        known = known || matches(r, g, i);
        experts = experts || (matches(r, g, i) && split[i].expert >= 0);
    }
    if (!known)
        return err_code(e, EXIT_USAGE, "--constraint: no operator of the model has \"%s\" in its name",
                        r->name);
    if ((r->expert || r->width) && !experts)
        return err_code(e, EXIT_USAGE,
                        "--constraint \"%s: %s\": no operator of that name is split by experts", r->name,
                        r->expert ? "ep" : "width");
    if (r->width && l->widths && r->width != l->widths)
        return err_code(e, EXIT_USAGE, "--constraint \"%s: width\": the contrary is asked for elsewhere",
                        r->name);
    l->widths = r->width ? r->width : l->widths;
    if (r->recompute >= 0 && l->recompute >= 0)
        return err_code(e, EXIT_USAGE, "--constraint \"%s: recompute\": --recompute %d fixes it for all",
                        r->name, l->recompute);
    return fix(r, "ep", r->expert, &l->expert_parallel, e) &&
           fix(r, "tensor", r->tensor, &l->tensor_parallel, e);
}

bool rules_apply(const struct rules *r, const struct graph *g, struct plan_limits *l, struct err *e)
{
    struct arena *a = arena_new("rules");
    struct node_split *split = ARENA_NEW(a, struct node_split, g->n_nodes);
    bool ok = true;
    layout_split(a, g, split);
    for (int i = 0; i < r->n && ok; i++)
        ok = apply(&r->rule[i], g, split, l, e);
    arena_free(a);
    return ok;
}

bool rules_recompute(const struct rules *r, const struct graph *g, const int *place, int *least, int *most,
                     struct err *e)
{
    *least = 0;
    for (int k = 0; k < r->n; k++)
        for (int i = 0; i < g->n_nodes; i++) {
            if (r->rule[k].recompute < 0 || place[i] == 0 || !matches(&r->rule[k], g, i))
                continue;
            if (r->rule[k].recompute && place[i] > *least)
                *least = place[i];
            if (!r->rule[k].recompute && place[i] <= *most)
                *most = place[i] - 1;
        }
    return *least <= *most ||
           err_code(
               e, EXIT_USAGE,
               "--constraint: operators are repeated in a fixed order, cheapest kind first; what is on needs "
               "%d of them, what is off allows %d",
               *least, *most);
}
