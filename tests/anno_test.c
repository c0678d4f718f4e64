/* The annotation language: what a record means, and that a mistake in one is found with its place. */
#include "graph/anno.h"
#include "graph/registry.h"
#include "tests/test.h"
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

static struct anno parsed(const char *anno, const char *attrs, const char *saved)
{
    const struct op op = { .name = "test", .anno = anno, .attrs = attrs, .saved = saved };
    struct anno a;
    anno_parse(&op, &a);
    return a;
}

TEST(names_letters_and_kinds)
{
    const struct anno a =
        parsed("x: n k+, w: m k+, g: h^ 1 @f32 -> y: n m, top: n @i32, s: 1 @f64", 0, "x w top");
    EXPECT_INT(a.n_args, 6);
    EXPECT_INT(a.n_inputs, 3);
    EXPECT_INT(a.n_letters, 4);
    EXPECT_TEXT(a.letter[0], "n");
    EXPECT_TEXT(a.letter[1], "k");
    EXPECT_TEXT(a.letter[2], "m");
    EXPECT_TEXT(a.letter[3], "h");
    EXPECT(a.kind[0] == DIM_SPLIT && a.kind[1] == DIM_REDUCE && a.kind[2] == DIM_SPLIT &&
           a.kind[3] == DIM_WHOLE);
    EXPECT_TEXT(a.arg[4].name, "top");
    EXPECT(a.arg[0].model_float && !a.arg[2].model_float && !a.arg[4].model_float);
    EXPECT(a.arg[2].dtype == F32 && a.arg[4].dtype == I32 && a.arg[5].dtype == F64);
    EXPECT(!a.arg[2].output && a.arg[3].output);
    EXPECT_INT(a.arg[2].n_dims, 2);
    EXPECT_INT(a.arg[2].dim[1].letter, -1);
    EXPECT_INT(a.saved, 1 | 2 | 16);
    EXPECT_INT(anno_elements(&a, 1, (const int64_t[OP_DIMS]){ 2, 3, 5, 7 }), 15);
    EXPECT_INT(anno_elements(&a, 2, (const int64_t[OP_DIMS]){ 2, 3, 5, 7 }), 7);
    EXPECT_INT(anno_elements(&a, 5, (const int64_t[OP_DIMS]){ 2, 3, 5, 7 }), 1);
}

TEST(factors_rows_and_attributes)
{
    const struct anno a =
        parsed("x: b (a h^), end: e s^ @i32, xs:r(e) h^->y: b  ( a  h^ ) , top: b c^", "alpha h c", 0);
    EXPECT_INT(a.n_letters, 7);
    EXPECT_INT(a.n_attrs, 3);
    EXPECT_TEXT(a.attr[1], "h");
    EXPECT_TEXT(a.letter[1], "a");
    EXPECT_INT(a.arg[0].dim[1].letter, 1);
    EXPECT_INT(a.arg[0].dim[1].factor, 2);
    EXPECT_INT(a.arg[0].dim[0].factor, -1);
    EXPECT_INT(a.arg[2].dim[0].letter, 5);
    EXPECT_INT(a.arg[2].dim[0].rows_of, 3);
    EXPECT_INT(a.arg[2].dim[1].rows_of, -1);
    EXPECT_INT(a.letter_attr[2], 1);
    EXPECT_INT(a.letter_attr[6], 2);
    EXPECT_INT(a.letter_attr[0], -1);
    EXPECT_INT(a.saved, 0);
    EXPECT_INT(anno_elements(&a, 0, (const int64_t[OP_DIMS]){ 2, 3, 5 }), 30);
}

/* What a parse in a child process says before it dies. */
static void complaint(const char *anno, const char *attrs, const char *saved, char *text, size_t bytes)
{
    int ends[2], status;
    memset(text, 0, bytes);
    if (pipe(ends) != 0)
        abort();
    const pid_t child = fork();
    if (child == 0) {
        dup2(ends[1], STDERR_FILENO);
        parsed(anno, attrs, saved);
        _exit(0);
    }
    close(ends[1]);
    for (size_t n = 0; n < bytes - 1;) {
        const ssize_t more = read(ends[0], text + n, bytes - 1 - n);
        if (more <= 0)
            break;
        n += (size_t)more;
    }
    close(ends[0]);
    waitpid(child, &status, 0);
    EXPECTF(status != 0, "\"%s\" was accepted", anno);
}

TEST(mistakes_are_found_with_their_place)
{
    static const struct {
        const char *anno, *attrs, *saved, *says;
    } bad[] = {
        { "x: n", 0, 0, "column 5: expected ->" },
        { "x n -> y: n", 0, 0, "column 3: expected :" },
        { "x: -> y: n", 0, 0, "column 4: expected a dimension" },
        { "x: n -> y: m", 0, 0, "neither an input nor an attribute says how long 'm' is" },
        { "x: (a h) -> y: a", 0, 0, "how long 'a' is" },
        { "x: (a a) -> y: a", 0, 0, "how long 'a' is" },
        { "x: n+ -> y: n", 0, 0, "the suffix that the letter has before" },
        { "x: n @f16 -> y: n", 0, 0, "column 7: expected i32, f32 or f64" },
        { "x: n -> x: n", 0, 0, "a name that no other argument has" },
        { "x: n -> y: n z", 0, 0, "how long 'z' is" },
        { "x: n -> y: n -> z: n", 0, 0, "expected the end" },
        { "x: n * -> y: n", 0, 0, "column 6: expected a name" },
        { "x: (n h -> y: n", "h", 0, "expected )" },
        { "x: r(e -> y: r", 0, 0, "expected )" },
        { "x: abcdefghijklmnop -> y: n", 0, 0, "a shorter name" },
        { "a_long_name_of_arg: n -> y: n", 0, 0, "a shorter name" },
        { "x: n n n n n n n -> y: n", 0, 0, "fewer dimensions" },
        { "x: a b c d e f, y: g h i j k -> z: a", 0, 0, "fewer letters" },
        { "a: n, b: n, c: n, d: n, e: n, f: n, g: n, h: n, i: n, j: n, k: n, l: n -> m: n", 0, 0,
          "fewer arguments" },
        { "x: n -> y: n", "a b c d e f g h i", 0, "fewer attributes" },
        { "x: n -> y: n", 0, "x z", "the name of an argument before this column" },
    };
    char text[512];
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        complaint(bad[i].anno, bad[i].attrs, bad[i].saved, text, sizeof text);
        EXPECTF(strstr(text, bad[i].says) && strstr(text, "operator test"), "\"%s\": \"%s\", expected \"%s\"",
                bad[i].anno, text, bad[i].says);
    }
}

/* Every record parses, and rows r(e) come with the argument that says where they end. */
TEST(records_parse)
{
    for (int i = 0; i < registry_n_ops; i++) {
        struct anno a;
        anno_parse(registry_ops[i], &a);
        EXPECT(a.n_inputs > 0 && a.n_args > a.n_inputs);
    }
}
