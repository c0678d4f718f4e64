#include "graph/anno.h"
#include "base/err.h"
#include <ctype.h>
#include <string.h>
/* Reading position: in the annotation, or in the lists of attributes and saved arguments. */
struct cursor {
    const struct op *op;
    const char *what, *text, *at;
};

static void wrong(const struct cursor *u, const char *expected) __attribute__((noreturn));
static void wrong(const struct cursor *u, const char *expected)
{
    die("operator %s: %s \"%s\", column %d: expected %s", u->op->name, u->what, u->text,
        (int)(u->at - u->text) + 1, expected);
}

static void spaces(struct cursor *u)
{
    while (*u->at == ' ')
        u->at++;
}

static bool take(struct cursor *u, const char *token)
{
    spaces(u);
    const size_t bytes = strlen(token);
    if (strncmp(u->at, token, bytes) != 0)
        return false;
    u->at += bytes;
    return true;
}

static void want(struct cursor *u, const char *token)
{
    if (!take(u, token))
        wrong(u, token);
}

/* A letter, then letters, digits and '_'; at most capacity - 1 of them. */
static void word(struct cursor *u, char *out, size_t capacity)
{
    spaces(u);
    size_t n = 0;
    if (!isalpha((unsigned char)*u->at))
        wrong(u, "a name");
    while (isalnum((unsigned char)u->at[n]) || u->at[n] == '_')
        n++;
    if (n >= capacity)
        wrong(u, "a shorter name");
    memcpy(out, u->at, n);
    out[n] = 0;
    u->at += n;
}

static int find(const char *name, const char *table, int n, size_t row_bytes)
{
    for (int i = 0; i < n; i++)
        if (strcmp(name, table + (size_t)i * row_bytes) == 0)
            return i;
    return -1;
}

static int find_attr(const struct anno *a, const char *name)
{
    return find(name, a->attr[0], a->n_attrs, sizeof a->attr[0]);
}

/* A dimension letter with its suffix, which must be the same wherever the letter stands. */
static int letter(struct cursor *u, struct anno *a)
{
    char name[sizeof a->letter[0]];
    word(u, name, sizeof name);
    const enum dim_kind kind = *u->at == '+' ? DIM_REDUCE : *u->at == '^' ? DIM_WHOLE : DIM_SPLIT;
    const int known = find(name, a->letter[0], a->n_letters, sizeof a->letter[0]);
    if (known >= 0 && a->kind[known] != kind)
        wrong(u, "the suffix that the letter has before");
    if (kind != DIM_SPLIT)
        u->at++;
    if (known >= 0)
        return known;
    if (a->n_letters == OP_DIMS)
        wrong(u, "fewer letters (OP_DIMS)");
    memcpy(a->letter[a->n_letters], name, sizeof name);
    a->kind[a->n_letters] = kind;
    a->letter_attr[a->n_letters] = find_attr(a, name);
    return a->n_letters++;
}

static struct anno_dim dimension(struct cursor *u, struct anno *a)
{
    struct anno_dim d = { -1, -1, -1 };
    if (take(u, "1"))
        return d;
    if (take(u, "(")) {
        d.letter = letter(u, a);
        d.factor = letter(u, a);
        want(u, ")");
        return d;
    }
    d.letter = letter(u, a);
    if (*u->at == '(') {
        u->at++;
        d.rows_of = letter(u, a);
        want(u, ")");
    }
    return d;
}

static enum dtype dtype(struct cursor *u)
{
    if (take(u, "i32"))
        return I32;
    if (take(u, "f32"))
        return F32;
    if (take(u, "f64"))
        return F64;
    wrong(u, "i32, f32 or f64");
}

static bool at_end_of_argument(struct cursor *u)
{
    spaces(u);
    return !*u->at || *u->at == ',' || *u->at == '@' || strncmp(u->at, "->", 2) == 0;
}

static void argument(struct cursor *u, struct anno *a, bool output)
{
    if (a->n_args == OP_ARGS)
        wrong(u, "fewer arguments (OP_ARGS)");
    struct anno_arg *g = &a->arg[a->n_args];
    char name[sizeof g->name];
    word(u, name, sizeof name);
    if (find(name, a->arg[0].name, a->n_args, sizeof a->arg[0]) >= 0)
        wrong(u, "a name that no other argument has");
    memcpy(g->name, name, sizeof name);
    a->n_args++;
    g->output = output;
    want(u, ":");
    while (!at_end_of_argument(u)) {
        if (g->n_dims == (int)(sizeof g->dim / sizeof g->dim[0]))
            wrong(u, "fewer dimensions");
        g->dim[g->n_dims++] = dimension(u, a);
    }
    if (g->n_dims == 0)
        wrong(u, "a dimension");
    g->model_float = !take(u, "@");
    g->dtype = g->model_float ? F32 : dtype(u);
}

static void arguments(struct cursor *u, struct anno *a, bool output)
{
    do
        argument(u, a, output);
    while (take(u, ","));
}

static void attributes(const struct op *op, struct anno *a)
{
    struct cursor u = { op, "attributes", op->attrs, op->attrs };
    if (!op->attrs)
        return;
    for (spaces(&u); *u.at; spaces(&u)) {
        if (a->n_attrs == OP_ATTRS)
            wrong(&u, "fewer attributes (OP_ATTRS)");
        word(&u, a->attr[a->n_attrs++], sizeof a->attr[0]);
    }
}

static void saved(const struct op *op, struct anno *a)
{
    struct cursor u = { op, "saved", op->saved, op->saved };
    char name[sizeof a->arg[0].name];
    if (!op->saved)
        return;
    for (spaces(&u); *u.at; spaces(&u)) {
        word(&u, name, sizeof name);
        const int i = find(name, a->arg[0].name, a->n_args, sizeof a->arg[0]);
        if (i < 0)
            wrong(&u, "the name of an argument before this column");
        a->saved |= 1u << i;
    }
}

/* Whether graph_check() can find the length of a letter: from an attribute or from a shape of an input;
 * `factors` says whether "(a h)" with a known h tells it, too. */
static bool has_length(const struct anno *a, int l, bool factors)
{
    if (a->letter_attr[l] >= 0)
        return true;
    for (int i = 0; i < a->n_inputs; i++)
        for (int k = 0; k < a->arg[i].n_dims; k++) {
            const struct anno_dim d = a->arg[i].dim[k];
            if (d.letter == l && (d.factor < 0 || (factors && has_length(a, d.factor, false))))
                return true;
        }
    return false;
}

void anno_parse(const struct op *op, struct anno *out)
{
    struct cursor u = { op, "annotation", op->anno, op->anno };
    memset(out, 0, sizeof *out);
    attributes(op, out);
    arguments(&u, out, false);
    out->n_inputs = out->n_args;
    want(&u, "->");
    arguments(&u, out, true);
    spaces(&u);
    if (*u.at)
        wrong(&u, "the end");
    for (int l = 0; l < out->n_letters; l++)
        if (!has_length(out, l, true))
            die("operator %s: annotation \"%s\": neither an input nor an attribute says how long '%s' is",
                op->name, op->anno, out->letter[l]);
    saved(op, out);
}

int64_t anno_elements(const struct anno *a, int arg, const int64_t *dim)
{
    int64_t n = 1;
    for (int k = 0; k < a->arg[arg].n_dims; k++) {
        const struct anno_dim d = a->arg[arg].dim[k];
        n *= d.letter < 0 ? 1 : dim[d.letter];
        n *= d.factor < 0 ? 1 : dim[d.factor];
    }
    return n;
}

double anno_attr(const struct anno *a, const double *attr, const char *name, double otherwise)
{
    for (int i = 0; i < a->n_attrs; i++)
        if (strcmp(a->attr[i], name) == 0)
            return attr[i];
    return otherwise;
}
