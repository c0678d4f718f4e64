/* config_test.c - flags, config files, messages, printing; the committed page of options is the generated one. */
#include "base/file.h"
#include "base/json.h"
#include "config/config.h"
#include "config/option.h"
#include "tests/test.h"
#include <stdlib.h>

static struct arena *arena;
static struct err error;

/* Parses "--a b" split at blanks; "" as a word is written as ''. */
static bool parse(const char *command, const char *line, struct config *c)
{
    char *argv[64], *copy;
    int argc = 0;
    if (arena)
        arena_free(arena);
    arena = arena_new("test");
    copy = arena_strdup(arena, line);
    for (char *word = strtok(copy, " "); word; word = strtok(NULL, " "))
        argv[argc++] = strcmp(word, "''") ? word : word + 2;
    error = (struct err){ 0 };
    return config_parse(arena, command, argc, argv, c, &error);
}

#define TRAIN_LINE "--model_id m --dataset_path d "

TEST(config_defaults)
{
    struct config c;
    EXPECT(parse("train", TRAIN_LINE, &c));
    EXPECT_TEXT(error.text, "");
    EXPECT_TEXT(c.model_id, "m");
    EXPECT(c.lr == 1e-5 && c.min_lr == 0 && c.betas[0] == 0.9 && c.betas[1] == 0.95 && c.eps == 1e-8);
    EXPECT(c.clip_grad_norm == 1 && c.weight_decay == 0 && c.lr_schedule == LR_CONSTANT &&
           c.zero == ZERO_AUTO);
    EXPECT_INT(c.micro_batch_size, 4);
    EXPECT_INT(c.grad_accumulation_steps, 8);
    EXPECT_INT(c.warmup_steps, 10);
    EXPECT_INT(c.sequence_length, 0);
    EXPECT_INT(c.save_every, 1000);
    EXPECT(!c.json && !c.reproducible && c.run_mode == RUN_MODE_RUN && c.resume_path == NULL);
    EXPECT_TEXT(c.output_dir, "runs");
    EXPECT(config_given(&c, "model_id") && !config_given(&c, "lr"));
    EXPECT(parse("prepare", "--data_path_or_name - --tokenizer_path_or_name t --save_path s", &c));
    EXPECT_INT(c.sequence_length, 2048);
    EXPECT_TEXT(c.data_path_or_name, "-");
    EXPECT(parse("export", "--ckpt_dir a --output b", &c));
    EXPECT_INT(c.max_shard_size, 5000000000);
    EXPECT(c.dtype == DTYPE_KEEP);
}

/* Every default lies in its range (option_default CHECKs), every option of a command is known by its name, and
 * no two rows of one command have the same name. */
TEST(config_table_is_consistent)
{
    for (int i = 0; i < config_n_commands(); i++) {
        const struct command *k = command_find(config_command(i));
        EXPECT(!k->positional || option_find(k, k->positional, strlen(k->positional)));
        for (const struct option *o = options; o < options + N_OPTIONS; o++) {
            struct config c = { 0 };
            if (!command_takes(k, o))
                continue;
            option_default(&c, o);
            EXPECTF(option_find(k, o->name, strlen(o->name)) == o, "%s: two rows of %s", k->name, o->name);
            EXPECTF(o->sentence[strlen(o->sentence) - 1] == '.', "%s: no sentence", o->name);
            EXPECT(o->kind != CHOICE || *o->unit);
        }
    }
}

TEST(config_flags)
{
    struct config c;
    EXPECT(parse("train",
                 TRAIN_LINE "--lr=3e-4 --micro-batch-size 2 --lr-schedule cosine --betas 0.8,0.9 --json "
                            "--reproducible=false --compat_nnscaler true --name '' --zero=1 --plan-ngpus=4 "
                            "--device cpu --clip_grad_norm 0 --resume_path last --lr 2e-4",
                 &c));
    EXPECT_TEXT(error.text, "");
    EXPECT(c.lr == 2e-4 && c.lr_schedule == LR_COSINE && c.betas[0] == 0.8 && c.betas[1] == 0.9 && c.json);
    EXPECT(!c.reproducible && c.compat_nnscaler && c.zero == ZERO_OFF + 1 && c.device == DEVICE_CPU);
    EXPECT_INT(c.micro_batch_size, 2);
    EXPECT_INT(c.plan_ngpus, 4);
    EXPECT_TEXT(c.name, "");
    EXPECT_TEXT(c.resume_path, "last");
    EXPECT(config_given(&c, "lr") && config_given(&c, "reproducible") && !config_given(&c, "eps"));
    EXPECT(parse("train", TRAIN_LINE "--betas 0.7 0.8 --run_mode compile", &c));
    EXPECT(c.betas[0] == 0.7 && c.betas[1] == 0.8 && c.run_mode == RUN_MODE_COMPILE);
    EXPECT(parse("inspect", "dir --sequence 17", &c));
    EXPECT_TEXT(c.path, "dir");
    EXPECT_INT(c.sequence, 17);
    EXPECT(parse("check", "--reference r -- --odd", &c));
    EXPECT_TEXT(c.model_id, "--odd");
    EXPECT(parse("generate", "--model_id m --prompt=--x", &c));
    EXPECT_TEXT(c.prompt, "--x");
    EXPECT(parse("merge", "--ckpt_dir a --output_fname b --max_shard_size 1.5MiB", &c));
    EXPECT_INT(c.max_shard_size, 1572864);
    EXPECT(parse("merge", "--ckpt_dir a --output_fname b --max_shard_size 123456", &c));
    EXPECT_INT(c.max_shard_size, 123456);
    EXPECT(parse("train", "--lr 5 --help", &c) && c.help);
    EXPECT(parse("train", TRAIN_LINE "--resume_path none --name none", &c) && c.resume_path == NULL);
    EXPECT_TEXT(c.name, "none"); /* its default is not none */
    EXPECT(parse("version", "-h", &c) && c.help);
    EXPECT(parse("tokenizer train", "--data_path_or_name a,b --save_path s", &c));
    EXPECT_INT(c.vocab_size, 4096);
}

TEST(config_wrong_flags)
{
    static const char *const cases[][3] = {
        { "train", "--max_step 5", "--max_step: unknown option of 'moec train'; did you mean --max_steps?" },
        { "train", "--Max-Steps=5",
          "--Max-Steps: unknown option of 'moec train'; did you mean --max_steps?" },
        { "train", "--zzzzzzzzz 5", "--zzzzzzzzz: unknown option of 'moec train' (see 'moec train --help')" },
        { "prepare", "--lr 5", "--lr: is an option, but not of 'moec prepare' (see 'moec prepare --help')" },
        { "train", "--lr", "--lr: a value is missing" },
        { "train", "--lr --seed 5",
          "--lr: a value is missing (write --NAME=VALUE for one that begins with --)" },
        { "train", "--lr 5x", "--lr: '5x' is not a number" },
        { "train", "--lr nan", "--lr: 'nan' is not a number" },
        { "train", "--lr=", "--lr: '' is not a number" },
        { "train", "--lr 1e999", "--lr: 1e999 is out of range, expected 0 to 1000" },
        { "train", "--lr -1", "--lr: -1 is out of range, expected 0 to 1000" },
        { "train", "--seed 1.5", "--seed: '1.5' is not an integer" },
        { "train", "--seed 0x10", "--seed: '0x10' is not an integer" },
        { "train", "--seed 99999999999999999999",
          "--seed: 99999999999999999999 is out of range, expected 0 to 2147483647" },
        { "train", "--seed 2147483648", "--seed: 2147483648 is out of range, expected 0 to 2147483647" },
        { "train", "--max_steps -1", "--max_steps: -1 is out of range, expected at least 0" },
        { "train", "--micro_batch_size 0", "--micro_batch_size: 0 is out of range, expected 1 to 65536" },
        { "train", "--json=maybe", "--json: 'maybe' is not true or false" },
        { "train", "--zero 4", "--zero: '4' is not one of auto|0|1|2|3" },
        { "train", "--zero aut", "--zero: 'aut' is not one of auto|0|1|2|3" },
        { "train", "--betas 0.9", "--betas: '0.9' is not two numbers with a comma between them" },
        { "train", "--betas 0.9,0.95,1", "--betas: '0.95,1' is not a number" },
        { "train", "--betas 0.9 1", "--betas: 1 is out of range, expected 0 to 0.9999999" },
        { "train", "-lr 5", "-lr: unknown option of 'moec train'; options begin with --" },
        { "train", "stray", "'stray': 'moec train' takes options only, like --NAME VALUE" },
        { "inspect", "a b", "'b': 'moec inspect' takes one argument without a name" },
        { "inspect", "",
          "path: is missing, 'moec inspect' needs it: Dataset, checkpoint or model directory." },
        { "train", "--model_id m",
          "--dataset_path: is missing, 'moec train' needs it: Directory written by prepare." },
        { "export", "--max_shard_size 5XB",
          "--max_shard_size: '5XB' is not a number of bytes like 5GB or 500MB" },
        { "export", "--max_shard_size 9e9TB",
          "--max_shard_size: '9e9TB' is not a number of bytes like 5GB or 500MB" },
        { "export", "--max_shard_size 99999999TB",
          "--max_shard_size: 99999999TB is out of range, expected at least 1000" },
        { "train", "--config /none/c.json", "/none/c.json: cannot open: No such file or directory" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct config c;
        EXPECTF(!parse(cases[i][0], cases[i][1], &c), "accepted %s", cases[i][1]);
        EXPECT_TEXT(error.text, cases[i][2]);
        EXPECT_INT(error.code, EXIT_USAGE);
    }
}

static bool parse_with_file(const char *text, const char *flags, struct config *c)
{
    char path[100], line[400];
    snprintf(path, sizeof path, "%s/c.json", test_dir());
    error = (struct err){ 0 };
    EXPECT(file_write(path, text, strlen(text), &error));
    snprintf(line, sizeof line, "%s --config %s", flags, path);
    return parse("train", line, c);
}

TEST(config_files)
{
    struct config c;
    EXPECT(parse_with_file(
        "{\"model_id\": \"f\", \"lr\": 1, \"micro-batch-size\": 7, \"betas\": [0.1, 0.2], \"json\": true,\n"
        " \"zero\": 0, \"plan\": null, \"sequence\": 3, \"lr_schedule\": \"linear\", \"eps\": 1e-6}",
        "--dataset_path d --eps 1e-7", &c));
    EXPECT_TEXT(error.text, "");
    EXPECT_TEXT(c.model_id, "f");
    EXPECT(c.lr == 1 && c.betas[0] == 0.1 && c.json && c.zero == ZERO_OFF && c.plan == NULL);
    EXPECT(c.lr_schedule == LR_LINEAR && c.eps == 1e-7); /* the flag wins, though the file is named later */
    EXPECT_INT(c.micro_batch_size, 7);
    EXPECT(config_given(&c, "lr") && !config_given(&c, "plan"));
}

TEST(config_wrong_files)
{
    static const char *const cases[][2] = {
        { "{\n \"lr\": \"fast\"}", "c.json:2: lr: expected a number, found string" },
        { "{\n\n \"seed\": 1.5}", "c.json:3: seed: expected an integer, found real number" },
        { "{\"seed\": -1}", "c.json:1: seed: value: -1 is out of range, expected 0 to 2147483647" },
        { "{\"json\": 1}", "c.json:1: json: expected true or false, found integer" },
        { "{\"betas\": [1, 2, 3]}", "c.json:1: betas: expected an array of two numbers, found array" },
        { "{\"name\": \"a\\u0000b\"}", "c.json:1: name: expected a string, found string" },
        { "{\"zero\": 4}", "c.json:1: zero: value: '4' is not one of auto|0|1|2|3" },
        { "{\"seed\": 1,\n\"learn_rate\": 1}", "c.json:2: learn_rate: unknown option" },
        { "{\"max_step\": 1}", "c.json:1: max_step: unknown option; did you mean max_steps?" },
        { "{\"config\": \"x\"}", "c.json:1: config: belongs to the command line only" },
        { "[1]", "c.json:1: expected an object of options, found array" },
        { "{\"seed\": 1, \"seed\": 2}",
          "c.json:1: column 18: not JSON: duplicate object key near '\"seed\"'" },
        { "", "c.json:1: empty file, expected JSON" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct config c;
        EXPECTF(!parse_with_file(cases[i][0], TRAIN_LINE, &c), "accepted %s", cases[i][0]);
        const char *from = strstr(error.text, "c.json");
        EXPECT_TEXT(from ? from : error.text, cases[i][1]);
        EXPECT_INT(error.code, EXIT_USAGE);
    }
}

/* The stored configuration, used as a config file, gives the same configuration. */
TEST(config_json_reads_back)
{
    struct config c, again;
    struct arena *a = arena_new("test");
    struct str first = str_new(a, 100000), second = str_new(a, 100000);
    EXPECT(parse("train", TRAIN_LINE "--name a\"b\\ --betas 0.1,0.3 --lr 0.1 --eps 1e-300 --zero 1", &c) ==
           false);
    EXPECT(parse("train", TRAIN_LINE "--name a\"b\\ --betas 0.1,0.3 --lr 0.1 --eps 3e-10 --zero 1", &c));
    config_json(&first, &c);
    EXPECT(parse_with_file(first.text, "", &again));
    EXPECT_TEXT(error.text, "");
    config_json(&second, &again);
    EXPECT_TEXT(second.text, first.text);
    EXPECT(strstr(first.text, "\"betas\": [0.1, 0.3]") && strstr(first.text, "\"name\": \"a\\\"b\\\\\""));
    EXPECT(strstr(first.text, "\"plan\": null") && strstr(first.text, "\"zero\": \"1\""));
    arena_free(a);
}

TEST(config_print_marks_changes)
{
    struct config c;
    struct arena *a = arena_new("test");
    struct str s = str_new(a, 100000);
    EXPECT(parse("train", TRAIN_LINE "--lr 0.1 --seed 0", &c));
    config_print(&s, &c);
    EXPECT(strstr(s.text, "* lr                       0.1  (default 1e-5)\n"));
    EXPECT(strstr(s.text, "\n  seed                     0\n"));
    EXPECT(strstr(s.text, "* model_id                 \"m\"\n"));
    EXPECT(strstr(s.text, "\n  micro_batch_size         4 sequences\n"));
    EXPECT(strstr(s.text, "\n  plan                     none\n"));
    EXPECT(!strstr(s.text, "vocab_size") && !strstr(s.text, "config"));
    arena_free(a);
}

TEST(config_help_lists_what_the_command_takes)
{
    struct arena *a = arena_new("test");
    for (int i = 0; i < config_n_commands(); i++) {
        struct str s = str_new(a, 100000);
        config_help(&s, config_command(i));
        for (const struct option *o = options; o < options + N_OPTIONS; o++)
            if (o->kind != HEADING && option_find(command_find(config_command(i)), o->name, strlen(o->name)))
                EXPECT(strstr(s.text, arena_printf(a, "--%s", o->name)) != NULL);
        for (const char *line = s.text; *line; line += strcspn(line, "\n") + 1)
            EXPECTF(strcspn(line, "\n") <= 100, "too wide: %.110s", line);
    }
    struct str s = str_new(a, 100000);
    config_help(&s, "train");
    EXPECT(!strncmp(s.text, "Usage: moec train [--OPTION", 27));
    EXPECT(strstr(s.text, "\nTraining\n"));
    EXPECT(strstr(s.text, "Learning rate after warm-up. [1e-5]\n") && strstr(s.text, "[required]") &&
           !strstr(s.text, "--prompt"));
    str_clear(&s);
    config_help(&s, "inspect");
    EXPECT(!strncmp(s.text, "Usage: moec inspect PATH [--OPTION", 34));
    EXPECT(config_is_command("tokenizer train") && !config_is_command("tokenizer"));
    EXPECT_TEXT(config_nearest_command("trian"), "train");
    arena_free(a);
}

TEST(config_page_is_up_to_date)
{
    struct arena *a = arena_new("test");
    struct str s = str_new(a, 1000000);
    struct err e = { 0 };
    size_t bytes;
    config_doc(&s);
    const char *page = file_read(a, "doc/options.md", 1000000, &bytes, &e);
    EXPECTF(page && !strcmp(page, s.text),
            "doc/options.md is not what config.def says (%s): moec help options > it",
            page ? "differs" : e.text);
    arena_free(a);
    arena_free(arena);
    arena = NULL;
}
