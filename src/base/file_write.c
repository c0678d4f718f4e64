/* file_write.c - atomic writing: everything goes to a temporary name, publishing is fsync and rename. */
#include "base/file.h"
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
enum { BUFFER_BYTES = 1 << 20 };
struct writer {
    struct arena *arena;
    char *path, *temporary;
    int fd;
    bool failed, shared; /* shared: the temporary name is the final one */
    char *buffer;
    size_t buffered;
    uint64_t written; /* sequential bytes handed to the system */
    uint64_t started; /* those that it was told to write to the disk */
};

static bool write_failed(struct writer *w, const char *what, struct err *e)
{
    w->failed = true;
    return err_code(e, EXIT_WORLD, "%s: cannot %s: %s", w->path, what, strerror(errno));
}

static struct writer *new_writer(const char *path)
{
    struct arena *a = arena_new("writer");
    struct writer *w = ARENA_NEW(a, struct writer, 1);
    signal(SIGXFSZ, SIG_IGN); /* a file size limit is then EFBIG, an error like a full disk */
    w->arena = a;
    w->path = arena_strdup(a, path);
    w->fd = -1;
    return w;
}

static struct writer *cannot_create(struct writer *w, struct err *e)
{
    const bool world = errno == ENOSPC || errno == EIO || errno == EDQUOT || errno == EROFS || errno == EFBIG;
    err_code(e, world ? EXIT_WORLD : EXIT_INPUT, "%s: cannot create: %s", w->path, strerror(errno));
    if (w->fd >= 0)
        close(w->fd);
    arena_free(w->arena);
    return NULL;
}

struct writer *file_create(const char *path, struct err *e)
{
    struct writer *w = new_writer(path);
    w->temporary = arena_printf(w->arena, "%s.tmp.%ld", path, (long)getpid());
    w->buffer = arena_alloc(w->arena, BUFFER_BYTES);
    unlink(w->temporary); /* of a killed process with the same number */
    w->fd = open(w->temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    return w->fd >= 0 ? w : cannot_create(w, e);
}

struct writer *file_share(const char *path, uint64_t bytes, struct err *e)
{
    struct writer *w = new_writer(path);
    w->shared = true;
    w->temporary = w->path;
    w->fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
    return w->fd >= 0 && ftruncate(w->fd, (off_t)bytes) == 0 ? w : cannot_create(w, e);
}

static bool write_at(struct writer *w, const char *data, size_t bytes, uint64_t offset, struct err *e)
{
    while (bytes > 0) {
        const ssize_t n = pwrite(w->fd, data, bytes, (off_t)offset);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0) {
            if (n == 0)
                errno = ENOSPC;
            return write_failed(w, "write", e);
        }
        data += n;
        bytes -= (size_t)n;
        offset += (uint64_t)n;
    }
    return true;
}

/* The disk begins early, so that the sync at the end finds little to do. A hint: failing is fine. */
static void begin_to_sync(struct writer *w)
{
    const uint64_t step = 32u << 20;
    if (w->written - w->started < step)
        return;
    sync_file_range(w->fd, (off_t)w->started, (off_t)(w->written - w->started), SYNC_FILE_RANGE_WRITE);
    w->started = w->written;
}

static bool flush_buffer(struct writer *w, struct err *e)
{
    if (!write_at(w, w->buffer, w->buffered, w->written, e))
        return false;
    w->written += w->buffered;
    w->buffered = 0;
    begin_to_sync(w);
    return true;
}

/* After a failure every call fails again, with a text if the caller's err is fresh. */
static bool usable(const struct writer *w, struct err *e)
{
    return !w->failed || err_code(e, EXIT_WORLD, "%s: an earlier write failed", w->path);
}

bool file_put(struct writer *w, const void *data, size_t bytes, struct err *e)
{
    if (!usable(w, e))
        return false;
    if (bytes > BUFFER_BYTES - w->buffered && !flush_buffer(w, e))
        return false;
    if (bytes >= BUFFER_BYTES) {
        if (!write_at(w, data, bytes, w->written, e))
            return false;
        w->written += bytes;
        begin_to_sync(w);
        return true;
    }
    if (bytes)
        memcpy(w->buffer + w->buffered, data, bytes);
    w->buffered += bytes;
    return true;
}

bool file_put_at(struct writer *w, const void *data, size_t bytes, int64_t offset, struct err *e)
{
    CHECK(offset >= 0, "offset %lld", (long long)offset);
    return usable(w, e) && flush_buffer(w, e) && write_at(w, data, bytes, (uint64_t)offset, e);
}

uint64_t file_offset(const struct writer *w)
{
    return w->written + w->buffered;
}

void file_drop(struct writer *w)
{
    if (!w)
        return;
    if (w->fd >= 0)
        close(w->fd);
    if (!w->shared)
        unlink(w->temporary);
    arena_free(w->arena);
}

static bool finish(struct writer *w, struct err *e)
{
    if (!usable(w, e) || !flush_buffer(w, e))
        return false;
    if (fsync(w->fd) != 0 && errno != EINVAL && errno != EROFS)
        return write_failed(w, "write to disk", e);
    const int closed = close(w->fd);
    w->fd = -1;
    if (closed != 0)
        return write_failed(w, "close", e);
    return file_rename(w->temporary, w->path, e);
}

bool file_publish(struct writer *w, struct err *e)
{
    const bool done = finish(w, e);
    if (done)
        arena_free(w->arena);
    else
        file_drop(w);
    return done;
}

bool file_write(const char *path, const void *data, size_t bytes, struct err *e)
{
    struct writer *w = file_create(path, e);
    if (!w)
        return false;
    if (file_put(w, data, bytes, e))
        return file_publish(w, e);
    file_drop(w);
    return false;
}

static bool copy_all(int fd, const char *from, struct writer *w, struct err *e)
{
    char *chunk = arena_alloc(w->arena, BUFFER_BYTES);
    for (;;) {
        const ssize_t n = read(fd, chunk, BUFFER_BYTES);
        if (n == 0)
            return true;
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return err_set(e, "%s: cannot read: %s", from, strerror(errno));
        if (!file_put(w, chunk, (size_t)n, e))
            return false;
    }
}

bool file_copy(const char *from, const char *to, struct err *e)
{
    const int fd = open(from, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return err_set(e, "%s: cannot open: %s", from, strerror(errno));
    struct writer *w = file_create(to, e);
    const bool copied = w && copy_all(fd, from, w, e);
    close(fd);
    if (copied)
        return file_publish(w, e);
    file_drop(w);
    return false;
}
