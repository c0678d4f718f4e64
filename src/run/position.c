/* position.c - see position.h. */
#include "run/position.h"
#include "base/json.h"
#include "base/str.h"
#include <stdio.h>
#include <string.h>
enum { POSITION_VERSION = 1 };

char *position_write(struct arena *a, const struct position *p)
{
    struct str s = str_new(a, 1u << 16);
    str_addf(&s, "{\n  \"version\": %d,\n  \"step\": %lld,\n  \"epoch\": %lld,\n  \"sample\": %lld,\n",
             POSITION_VERSION, (long long)p->step, (long long)p->epoch, (long long)p->sample);
    str_addf(
        &s,
        "  \"tokens\": %lld,\n  \"seed\": %lld,\n  \"train_sequences\": %lld,\n  \"global_batch\": %lld,\n",
        (long long)p->tokens, (long long)p->seed, (long long)p->n_train, (long long)p->global_batch);
    str_addf(&s, "  \"dataset\": \"%s\",\n  \"model\": \"%s\",\n  \"plan\": \"%s\",\n", p->dataset, p->model,
             p->plan);
    str_addf(&s, "  \"loss\": %.17g,\n  \"best_eval\": %.17g,\n  \"best_step\": %lld\n}\n", p->loss + 0.0,
             p->best_eval + 0.0, (long long)p->best_step); /* 0 for -0, which JSON may read as an integer */
    return s.text;
}

static bool want_fingerprint(const struct json *j, const char *key, char out[17], struct err *e)
{
    const char *text;
    if (!json_want_string(j, json_root(j), key, &text, e))
        return false;
    if (strlen(text) != 16 || strspn(text, "0123456789abcdef") != 16)
        return json_err(j, json_root(j), key, e, "expected 16 hex digits, found \"%s\"", text);
    memcpy(out, text, 17);
    return true;
}

static bool read_position(const struct json *j, struct position *p, struct err *e)
{
    const jval r = json_root(j);
    return json_want_version(j, POSITION_VERSION, e) &&
           json_want_int(j, r, "step", 0, INT64_MAX, &p->step, e) &&
           json_want_int(j, r, "epoch", 0, INT64_MAX, &p->epoch, e) &&
           json_want_int(j, r, "sample", 0, INT64_MAX, &p->sample, e) &&
           json_want_int(j, r, "tokens", 0, INT64_MAX, &p->tokens, e) &&
           json_want_int(j, r, "seed", INT64_MIN, INT64_MAX, &p->seed, e) &&
           json_want_int(j, r, "train_sequences", 1, INT64_MAX, &p->n_train, e) &&
           json_want_int(j, r, "global_batch", 1, INT64_MAX, &p->global_batch, e) &&
           want_fingerprint(j, "dataset", p->dataset, e) && want_fingerprint(j, "model", p->model, e) &&
           want_fingerprint(j, "plan", p->plan, e) && json_want_number(j, r, "loss", &p->loss, e) &&
           json_want_number(j, r, "best_eval", &p->best_eval, e) &&
           json_want_int(j, r, "best_step", 0, INT64_MAX, &p->best_step, e);
}

bool position_parse(const char *text, const char *path, struct position *p, struct err *e)
{
    struct json *j = json_parse(text, strlen(text), path, e);
    if (!j)
        return false;
    *p = (struct position){ 0 };
    const bool ok = read_position(j, p, e);
    json_free(j);
    return ok;
}

bool position_matches(const struct position *saved, const struct position *now, const char *path,
                      struct err *e)
{
    if (strcmp(saved->dataset, now->dataset) != 0)
        return err_code(e, EXIT_MISMATCH, "%s: trained on dataset %s, but --dataset_path has fingerprint %s",
                        path, saved->dataset, now->dataset);
    if (strcmp(saved->model, now->model) != 0)
        return err_code(e, EXIT_MISMATCH,
                        "%s: holds model configuration %s, but --model_id has fingerprint %s", path,
                        saved->model, now->model);
    if (saved->n_train != now->n_train)
        return err_code(e, EXIT_MISMATCH,
                        "%s: trained on %lld sequences of the dataset, this run on %lld (--eval_sequences "
                        "changed): the order of "
                        "samples would differ",
                        path, (long long)saved->n_train, (long long)now->n_train);
    if (saved->seed != now->seed)
        return err_code(e, EXIT_MISMATCH, "%s: --seed was %lld, now %lld: the order of samples would differ",
                        path, (long long)saved->seed, (long long)now->seed);
    return true;
}
