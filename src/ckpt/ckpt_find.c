/* ckpt_find.c - from what people type to a directory. Nothing is ever downloaded. */
#include "ckpt/ckpt_impl.h"
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *environment(const char *name)
{
    const char *value = getenv(name);
    return value && value[0] ? value : NULL;
}

/* The rules of huggingface_hub. */
static const char *cache_directory(struct arena *a)
{
    const char *hub = environment("HF_HUB_CACHE"), *home = environment("HF_HOME"),
               *cache = environment("XDG_CACHE_HOME");
    if (hub)
        return hub;
    if (home)
        return path_in(a, home, "hub");
    if (cache)
        return path_in(a, cache, "huggingface/hub");
    return path_in(a, environment("HOME") ? environment("HOME") : ".", ".cache/huggingface/hub");
}

/* "name" or "org/name", of letters, digits, '-', '_' and '.', no part beginning with '.'. */
static bool is_model_id(const char *id)
{
    static const char allowed[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.";
    const char *slash = strchr(id, '/');
    const size_t n = strspn(id, allowed), m = slash ? strspn(slash + 1, allowed) : 0;
    if (n == 0 || id[0] == '.')
        return false;
    return slash ? id + n == slash && m > 0 && slash[1] != '.' && slash[1 + m] == 0 : id[n] == 0;
}

/* models--org--name */
static const char *cache_entry(struct arena *a, const char *id)
{
    const char *slash = strchr(id, '/');
    return slash ? arena_printf(a, "models--%.*s--%s", (int)(slash - id), id, slash + 1)
                 : arena_printf(a, "models--%s", id);
}

/* The commit that refs/main names; without it the only snapshot there is; NULL = none. */
static const char *find_snapshot(struct arena *a, const char *entry)
{
    int64_t n = 0;
    size_t bytes;
    struct err ignored = { 0 };
    const char *snapshots = path_in(a, entry, "snapshots"), *main_ref = path_in(a, entry, "refs/main");
    char *commit = file_exists(main_ref) ? file_read(a, main_ref, 4096, &bytes, &ignored) : NULL;
    if (commit) {
        commit[strcspn(commit, " \t\r\n")] = 0;
        return is_plain_name(commit) ? path_in(a, snapshots, commit) : NULL;
    }
    char **names = file_is_dir(snapshots) ? file_list(a, snapshots, &n, &ignored) : NULL;
    return names && n == 1 ? path_in(a, snapshots, names[0]) : NULL;
}

char *ckpt_find_model(struct arena *a, const char *model_id, struct err *e)
{
    if (file_is_dir(model_id))
        return arena_strdup(a, model_id);
    if (!is_model_id(model_id)) {
        err_set(e, "%s: no such directory, and not an id of the form org/name", model_id);
        return NULL;
    }
    const char *cache = cache_directory(a);
    const char *snapshot = find_snapshot(a, path_in(a, cache, cache_entry(a, model_id)));
    if (snapshot && file_exists(path_in(a, snapshot, "config.json")))
        return arena_strdup(a, snapshot);
    err_set(e,
            "%s: no such directory, and not %s in %s; nothing is downloaded here, get it with: "
            "huggingface-cli download %s",
            model_id, snapshot ? "complete" : "found", cache, model_id);
    return NULL;
}

static bool is_checkpoint(struct arena *a, const char *dir)
{
    return file_exists(path_in(a, dir, MANIFEST_NAME));
}

/* Follows one symbolic link, so that the name stays that checkpoint when "last" moves on. */
static char *follow(struct arena *a, const char *dir)
{
    char target[4096];
    const ssize_t n = readlink(dir, target, sizeof target - 1);
    if (n <= 0)
        return arena_strdup(a, dir);
    const char *name = arena_strndup(a, target, (size_t)n);
    return name[0] == '/' ? arena_strdup(a, name) : arena_strdup(a, path_in(a, parent_of(a, dir), name));
}

/* A killed first save may have left a complete checkpoint before "last" was there: the newest complete one. */
static const char *newest_in(struct arena *a, const char *dir)
{
    int64_t n = 0;
    struct err ignored = { 0 };
    const char *newest = NULL;
    char **names = file_list(a, dir, &n, &ignored);
    for (int64_t i = 0; names && i < n; i++)
        if (!strncmp(names[i], "step-", 5) && !strstr(names[i], ".tmp") &&
            is_checkpoint(a, path_in(a, dir, names[i])) && (!newest || name_compare(names[i], newest) > 0))
            newest = names[i];
    return newest;
}

static char *find_below(struct arena *a, const char *dir)
{
    const char *last = path_in(a, dir, "last");
    if (is_checkpoint(a, last))
        return follow(a, last);
    const char *newest = newest_in(a, dir);
    return newest ? arena_strdup(a, path_in(a, dir, newest)) : NULL;
}

char *ckpt_find(struct arena *a, const char *dir, struct err *e)
{
    const char *plain = without_slashes(a, dir), *below = path_in(a, plain, "checkpoints");
    if (is_checkpoint(a, plain) || file_exists(path_in(a, plain, INDEX_NAME)) ||
        file_exists(path_in(a, plain, SINGLE_NAME)))
        return follow(a, plain);
    char *found = find_below(a, plain);
    if (!found)
        found = find_below(a, below);
    if (!found && !strcmp(base_name(plain), "last")) /* a broken or missing link */
        found = find_below(a, parent_of(a, plain));
    if (!found && file_is_dir(plain))
        err_set(e, "%s: no complete checkpoint here, expected %s in it, in last/ or in checkpoints/last/",
                plain, MANIFEST_NAME);
    else if (!found)
        err_set(e, "%s: no such directory, expected a checkpoint or a run", plain);
    return found;
}
