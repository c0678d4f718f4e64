/* file_write.c - atomic writing: everything goes to a temporary name, publishing is fsync and rename. */
#include "base/file.h"
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
enum { BUFFER_BYTES = 1 << 20, HUGE_BYTES = 2 << 20 /* of a page */ };
struct writer {
    struct arena *arena;
    char *path, *temporary;
    int fd, direct;             /* direct: of the same file, past the page cache; -1 = none */
    bool shared;                /* the temporary name is the final one */
    atomic_bool failed;         /* threads put pieces */
    atomic_bool no_more_direct; /* a write there failed */
    size_t piece_bytes;
    char *buffer;
    size_t buffered;
    uint64_t written; /* sequential bytes handed to the system */
    uint64_t started; /* those that it was told to write to the disk */
};

static bool write_failed(struct writer *w, const char *what, struct err *e)
{
    atomic_store(&w->failed, true);
    return err_code(e, EXIT_WORLD, "%s: cannot %s: %s", w->path, what, strerror(errno));
}

static struct writer *new_writer(const char *path)
{
    struct arena *a = arena_new("writer");
    struct writer *w = ARENA_NEW(a, struct writer, 1);
    signal(SIGXFSZ, SIG_IGN); /* a file size limit is then EFBIG, an error like a full disk */
    w->arena = a;
    w->path = arena_strdup(a, path);
    w->fd = w->direct = -1;
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

static bool open_temporary(struct writer *w)
{
    w->temporary = arena_printf(w->arena, "%s.tmp.%ld", w->path, (long)getpid());
    unlink(w->temporary); /* of a killed process with the same number */
    w->fd = open(w->temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    return w->fd >= 0;
}

struct writer *file_create(const char *path, struct err *e)
{
    struct writer *w = new_writer(path);
    w->buffer = arena_alloc(w->arena, BUFFER_BYTES);
    return open_temporary(w) ? w : cannot_create(w, e);
}

/* Room for the whole file, where the file system can promise it. */
static bool reserve(struct writer *w, uint64_t bytes, struct err *e)
{
    int failed;
    do
        failed = fallocate(w->fd, 0, 0, (off_t)bytes);
    while (failed && errno == EINTR);
    return !failed || (errno != ENOSPC && errno != EDQUOT && errno != EFBIG && errno != EIO) ||
           write_failed(w, "write", e);
}

struct writer *file_create_pieces(const char *path, uint64_t bytes, size_t piece_bytes, struct err *e)
{
    struct writer *w = new_writer(path);
    w->piece_bytes = piece_bytes;
    w->written = w->started = bytes;
    if (!open_temporary(w))
        return cannot_create(w, e);
    if (bytes < piece_bytes)
        return w;
    if (piece_bytes % FILE_BLOCK == 0)
        w->direct = open(w->temporary, O_WRONLY | O_CLOEXEC | O_DIRECT);
    if (reserve(w, bytes, e))
        return w;
    file_drop(w);
    return NULL;
}

static size_t whole_huge(size_t bytes)
{
    return (bytes + HUGE_BYTES - 1) / HUGE_BYTES * HUGE_BYTES;
}

/* Not from an arena: malloc gives what was freed again, in the small pages that it has. */
void *file_room(size_t bytes)
{
    const size_t most = whole_huge(bytes);
    char *block = mmap(NULL, most + HUGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (block == MAP_FAILED)
        die("out of memory: a file's buffer of %zu bytes", bytes);
    char *room = block + HUGE_BYTES - (uintptr_t)block % HUGE_BYTES;
    munmap(block, (size_t)(room - block));
    if (room < block + HUGE_BYTES)
        munmap(room + most, (size_t)(block + HUGE_BYTES - room));
    madvise(room, most, MADV_HUGEPAGE); /* a hint: failing is fine */
    return room;
}

void file_room_free(void *room, size_t bytes)
{
    if (room)
        munmap(room, whole_huge(bytes));
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
    return !atomic_load(&w->failed) || err_code(e, EXIT_WORLD, "%s: an earlier write failed", w->path);
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

/* As many whole blocks as go past the page cache. What fails is for the way through it, which succeeds or says why not. */
static size_t write_blocks(struct writer *w, const char *data, size_t bytes, uint64_t offset)
{
    size_t done = 0;
    while (bytes - done >= FILE_BLOCK && w->direct >= 0 && !atomic_load(&w->no_more_direct)) {
        const size_t blocks = (bytes - done) / FILE_BLOCK * FILE_BLOCK;
        const ssize_t n = pwrite(w->direct, data + done, blocks, (off_t)(offset + done));
        if (n > 0)
            done += (size_t)n;
        else if (n == 0 || errno != EINTR)
            atomic_store(&w->no_more_direct, true);
    }
    return done;
}

bool file_put_piece(struct writer *w, const void *data, int64_t piece, struct err *e)
{
    const uint64_t at = (uint64_t)piece * w->piece_bytes;
    CHECK(piece >= 0 && at < w->written, "piece %lld of %llu bytes", (long long)piece,
          (unsigned long long)w->written);
    const size_t bytes = w->written - at < w->piece_bytes ? (size_t)(w->written - at) : w->piece_bytes;
    if (!usable(w, e))
        return false;
    const size_t done = write_blocks(w, data, bytes, at), left = bytes - done;
    if (!write_at(w, (const char *)data + done, left, at + done, e))
        return false;
    if (left >= FILE_BLOCK) /* the disk begins early: see begin_to_sync */
        sync_file_range(w->fd, (off_t)(at + done), (off_t)left, SYNC_FILE_RANGE_WRITE);
    return true;
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
    if (w->direct >= 0)
        close(w->direct);
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
    const int closed = close(w->fd) | (w->direct >= 0 ? close(w->direct) : 0);
    w->fd = w->direct = -1;
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
