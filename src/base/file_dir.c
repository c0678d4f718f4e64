/* file_dir.c - directories, renaming, symbolic links. */
#include "base/file.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

bool file_exists(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0;
}

bool file_is_dir(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

int64_t file_bytes(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 ? (int64_t)st.st_size : -1;
}

/* Errors of the machine end with EXIT_WORLD, those of a path that somebody typed with EXIT_INPUT. */
static bool path_failed(const char *path, const char *what, struct err *e)
{
    const bool world = errno == ENOSPC || errno == EIO || errno == EDQUOT || errno == EROFS;
    return err_code(e, world ? EXIT_WORLD : EXIT_INPUT, "%s: cannot %s: %s", path, what, strerror(errno));
}

static bool make_one(const char *path, struct err *e)
{
    if (mkdir(path, 0777) == 0 || (errno == EEXIST && file_is_dir(path)))
        return true;
    return path_failed(path, "create the directory", e);
}

bool file_mkdirs(const char *path, struct err *e)
{
    struct arena *a = arena_new("path");
    char *copy = arena_strdup(a, path);
    bool made = true;
    for (char *slash = copy; made && *slash && (slash = strchr(slash + 1, '/')) != NULL;) {
        *slash = 0;
        made = make_one(copy, e);
        *slash = '/';
    }
    made = made && make_one(copy, e);
    arena_free(a);
    return made;
}

bool file_sync_dir(const char *path, struct err *e)
{
    const int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return path_failed(path, "open the directory", e);
    /* some file systems cannot sync a directory and say so; their renames are as durable as they get */
    const bool synced = fsync(fd) == 0 || errno == EINVAL || errno == EROFS;
    if (!synced)
        path_failed(path, "write the directory to disk", e);
    close(fd);
    return synced;
}

static bool sync_parent(const char *path, struct err *e)
{
    struct arena *a = arena_new("path");
    char *copy = arena_strdup(a, path), *slash = strrchr(copy, '/');
    if (slash)
        slash[slash == copy] = 0;
    const bool synced = file_sync_dir(slash ? copy : ".", e);
    arena_free(a);
    return synced;
}

static int remove_one(const char *path, const struct stat *st, int kind, struct FTW *level)
{
    (void)st;
    (void)kind;
    (void)level;
    return remove(path) == 0 || errno == ENOENT ? 0 : errno;
}

bool file_remove_tree(const char *path, struct err *e)
{
    struct stat st;
    if (lstat(path, &st) != 0 && errno == ENOENT)
        return true;
    const int failed = nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    if (failed == 0)
        return true;
    if (failed > 0)
        errno = failed;
    return path_failed(path, "remove", e);
}

bool file_rename(const char *from, const char *to, struct err *e)
{
    if (rename(from, to) != 0)
        return path_failed(to, "rename to this name", e);
    return sync_parent(to, e);
}

bool file_symlink(const char *target, const char *path, struct err *e)
{
    struct arena *a = arena_new("path");
    const char *temporary = arena_printf(a, "%s.tmp.%ld", path, (long)getpid());
    unlink(temporary);
    bool made = symlink(target, temporary) == 0 || path_failed(path, "make a symbolic link", e);
    made = made && file_rename(temporary, path, e);
    if (!made)
        unlink(temporary);
    arena_free(a);
    return made;
}

static int by_bytes(const void *x, const void *y)
{
    return strcmp(*(char *const *)x, *(char *const *)y);
}

static bool is_dot(const char *name)
{
    return !strcmp(name, ".") || !strcmp(name, "..");
}

char **file_list(struct arena *a, const char *dir, int64_t *n, struct err *e)
{
    const struct dirent *entry;
    int64_t capacity = 64;
    DIR *d = opendir(dir);
    if (!d) {
        err_set(e, "%s: cannot open the directory: %s", dir, strerror(errno));
        return NULL;
    }
    char **names = ARENA_NEW(a, char *, capacity);
    *n = 0;
    while (errno = 0, (entry = readdir(d)) != NULL) {
        if (is_dot(entry->d_name))
            continue;
        if (*n == capacity) {
            char **more = ARENA_NEW(a, char *, 2 * capacity);
            memcpy(more, names, (size_t)capacity * sizeof *names);
            names = more;
            capacity *= 2;
        }
        names[(*n)++] = arena_strdup(a, entry->d_name);
    }
    const int error = errno;
    closedir(d);
    if (error) {
        err_set(e, "%s: cannot read the directory: %s", dir, strerror(error));
        return NULL;
    }
    qsort(names, (size_t)*n, sizeof *names, by_bytes);
    return names;
}
