/* file.c - reading: maps, whole files, and streams that are decompressed by what they hold. */
#include "base/file.h"
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>

/* Opens for reading and fills *st; -1 with an error. A directory is refused here, where the path is known. */
static int open_to_read(const char *path, struct stat *st, struct err *e)
{
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        err_set(e, "%s: cannot open: %s", path, strerror(errno));
        return -1;
    }
    if (fstat(fd, st) == 0 && !S_ISDIR(st->st_mode))
        return fd;
    err_set(e, "%s: is a directory, expected a file", path);
    close(fd);
    return -1;
}

/* read() until `bytes` are there or the file ends; -1 with an error. */
static int64_t read_fully(int fd, void *data, size_t bytes, const char *path, struct err *e)
{
    size_t got = 0;
    while (got < bytes) {
        const ssize_t n = read(fd, (char *)data + got, bytes - got);
        if (n == 0)
            break;
        if (n > 0)
            got += (size_t)n;
        else if (errno != EINTR) {
            err_set(e, "%s: cannot read: %s", path, strerror(errno));
            return -1;
        }
    }
    return (int64_t)got;
}

bool file_map(struct arena *a, const char *path, struct map *m, struct err *e)
{
    struct stat st;
    *m = (struct map){ .path = arena_strdup(a, path) };
    const int fd = open_to_read(path, &st, e);
    if (fd < 0)
        return false;
    if (!S_ISREG(st.st_mode)) {
        close(fd);
        return err_set(e, "%s: not a regular file, cannot be mapped", path);
    }
    m->bytes = (size_t)st.st_size;
    void *data = m->bytes ? mmap(NULL, m->bytes, PROT_READ, MAP_SHARED, fd, 0) : NULL;
    const int error = errno;
    close(fd);
    if (data == MAP_FAILED)
        return err_set(e, "%s: cannot map %zu bytes: %s", path, m->bytes, strerror(error));
    m->data = data;
    return true;
}

void file_unmap(struct map *m)
{
    if (m->data)
        munmap((void *)(uintptr_t)m->data, m->bytes);
    m->data = NULL;
    m->bytes = 0;
}

void file_ahead(const void *mapped, size_t bytes)
{
    const uintptr_t page = 4096, begin = (uintptr_t)mapped / page * page;
    if (bytes)
        madvise((void *)begin, (uintptr_t)mapped + bytes - begin, MADV_WILLNEED);
}

/* Reads in growing buffers, so that a pipe works too and a file that grows meanwhile cannot overrun. */
static char *read_growing(struct arena *a, int fd, size_t capacity, size_t max_bytes, const char *path,
                          size_t *bytes, struct err *e)
{
    char *text = arena_alloc(a, capacity + 1);
    for (size_t used = 0;;) {
        const int64_t n = read_fully(fd, text + used, capacity - used, path, e);
        if (n < 0)
            return NULL;
        used += (size_t)n;
        if (used > max_bytes) {
            err_set(e, "%s: more than %zu bytes, the most allowed here", path, max_bytes);
            return NULL;
        }
        if (used < capacity) {
            text[used] = 0;
            *bytes = used;
            return text;
        }
        const size_t grown = capacity < max_bytes / 2 ? 2 * capacity : max_bytes + 1;
        char *larger = arena_alloc(a, grown + 1);
        memcpy(larger, text, used);
        text = larger;
        capacity = grown;
    }
}

char *file_read(struct arena *a, const char *path, size_t max_bytes, size_t *bytes, struct err *e)
{
    struct stat st;
    const int fd = open_to_read(path, &st, e);
    if (fd < 0)
        return NULL;
    if (max_bytes > SIZE_MAX / 8)
        max_bytes = SIZE_MAX / 8;
    const size_t known = S_ISREG(st.st_mode) ? (size_t)st.st_size : 0;
    char *text = NULL;
    if (known > max_bytes)
        err_set(e, "%s: %zu bytes, at most %zu are allowed here", path, known, max_bytes);
    else
        text = read_growing(a, fd, known ? known + 1 : 4096, max_bytes, path, bytes, e);
    close(fd);
    return text;
}

enum { STREAM_BYTES = 1 << 18 };
enum packing { PLAIN, GZIP, ZSTD };
struct stream {
    struct arena *arena;
    const char *path;
    int fd;
    enum packing packing;
    bool at_eof, in_member; /* of the file; of gzip data, or of a zstd frame */
    unsigned char *in;
    size_t in_at, in_bytes;
    uint64_t read_bytes;
    z_stream gzip;
    ZSTD_DStream *zstd;
};

/* Makes sure that the input buffer holds something, unless the file is at its end. */
static bool refill(struct stream *s, size_t at_least, struct err *e)
{
    const size_t left = s->in_bytes - s->in_at;
    if (s->at_eof || left >= at_least)
        return true;
    memmove(s->in, s->in + s->in_at, left);
    s->in_at = 0;
    s->in_bytes = left;
    while (s->in_bytes < at_least && !s->at_eof) {
        const ssize_t n = read(s->fd, s->in + s->in_bytes, STREAM_BYTES - s->in_bytes);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return err_set(e, "%s: cannot read: %s", s->path, strerror(errno));
        s->at_eof = n == 0;
        s->in_bytes += (size_t)n;
        s->read_bytes += (uint64_t)n;
    }
    return true;
}

static bool is_gzip(const unsigned char *p, size_t bytes)
{
    return bytes >= 2 && p[0] == 0x1f && p[1] == 0x8b;
}

static bool is_zstd(const unsigned char *p, size_t bytes)
{
    if (bytes < 4)
        return false;
    const bool frame = p[0] == 0x28 && p[1] == 0xb5 && p[2] == 0x2f && p[3] == 0xfd;
    const bool skippable = (p[0] & 0xf0) == 0x50 && p[1] == 0x2a && p[2] == 0x4d && p[3] == 0x18;
    return frame || skippable;
}

static bool start_unpacking(struct stream *s, struct err *e)
{
    if (!refill(s, 4, e))
        return false;
    if (is_gzip(s->in, s->in_bytes)) {
        s->packing = GZIP;
        s->in_member = true;
        if (inflateInit2(&s->gzip, 15 + 16) != Z_OK) /* 32 kB window, gzip headers only */
            die("zlib cannot start");
    } else if (is_zstd(s->in, s->in_bytes)) {
        s->packing = ZSTD;
        s->zstd = ZSTD_createDStream();
        if (!s->zstd)
            die("zstd cannot start");
    }
    return true;
}

struct stream *file_open(const char *path, struct err *e)
{
    struct stat st;
    const bool standard = !strcmp(path, "-");
    const int fd = standard ? STDIN_FILENO : open_to_read(path, &st, e);
    if (fd < 0)
        return NULL;
    struct arena *a = arena_new("stream");
    struct stream *s = ARENA_NEW(a, struct stream, 1);
    s->arena = a;
    s->path = standard ? "standard input" : arena_strdup(a, path);
    s->fd = fd;
    s->in = arena_alloc(a, STREAM_BYTES);
    if (start_unpacking(s, e))
        return s;
    file_close(s);
    return NULL;
}

void file_close(struct stream *s)
{
    if (!s)
        return;
    if (s->packing == GZIP)
        inflateEnd(&s->gzip);
    ZSTD_freeDStream(s->zstd);
    if (s->fd != STDIN_FILENO)
        close(s->fd);
    arena_free(s->arena);
}

uint64_t file_consumed(const struct stream *s)
{
    return s->read_bytes - (s->in_bytes - s->in_at);
}

static int64_t get_plain(struct stream *s, void *data, size_t bytes, struct err *e)
{
    if (!refill(s, 1, e))
        return -1;
    const size_t left = s->in_bytes - s->in_at, n = left < bytes ? left : bytes;
    memcpy(data, s->in + s->in_at, n);
    s->in_at += n;
    return (int64_t)n;
}

/* Between gzip members: another one, zeros of padding to the end of the file, or an error. */
static bool next_member(struct stream *s, struct err *e)
{
    if (!refill(s, 2, e))
        return false;
    if (is_gzip(s->in + s->in_at, s->in_bytes - s->in_at)) {
        s->in_member = true;
        inflateReset(&s->gzip);
        return true;
    }
    while (s->in_at < s->in_bytes && s->in[s->in_at] == 0) {
        s->in_at++;
        if (!refill(s, 1, e))
            return false;
    }
    return s->in_at == s->in_bytes || err_set(e, "%s: byte %llu: expected the end or another gzip member",
                                              s->path, (unsigned long long)file_consumed(s));
}

static bool inflate_some(struct stream *s, struct err *e)
{
    s->gzip.next_in = s->in + s->in_at;
    s->gzip.avail_in = (unsigned)(s->in_bytes - s->in_at);
    const unsigned room = s->gzip.avail_out;
    const int result = inflate(&s->gzip, Z_NO_FLUSH);
    s->in_at = s->in_bytes - s->gzip.avail_in;
    if (result == Z_STREAM_END)
        s->in_member = false;
    else if (result != Z_OK && result != Z_BUF_ERROR)
        return err_set(e, "%s: byte %llu: broken gzip data: %s", s->path,
                       (unsigned long long)file_consumed(s), s->gzip.msg ? s->gzip.msg : "unknown error");
    else if (s->at_eof && s->in_at == s->in_bytes && s->gzip.avail_out == room)
        return err_set(e, "%s: byte %llu: gzip data ends too early", s->path,
                       (unsigned long long)file_consumed(s));
    return true;
}

static int64_t get_gzip(struct stream *s, void *data, size_t bytes, struct err *e)
{
    const unsigned room = bytes < 1u << 30 ? (unsigned)bytes : 1u << 30;
    s->gzip.next_out = data;
    s->gzip.avail_out = room;
    while (s->gzip.avail_out == room) {
        if (!s->in_member && !next_member(s, e))
            return -1;
        if (!s->in_member)
            return 0;
        if (!refill(s, 1, e) || !inflate_some(s, e))
            return -1;
    }
    return (int64_t)(room - s->gzip.avail_out);
}

static int64_t get_zstd(struct stream *s, void *data, size_t bytes, struct err *e)
{
    ZSTD_outBuffer out = { data, bytes, 0 };
    while (out.pos == 0) {
        if (!refill(s, 1, e))
            return -1;
        ZSTD_inBuffer in = { s->in, s->in_bytes, s->in_at };
        if (in.pos == in.size && !s->in_member)
            return 0;
        const size_t result = ZSTD_decompressStream(s->zstd, &out, &in);
        const bool stuck = s->at_eof && in.pos == in.size && out.pos == 0;
        s->in_at = in.pos;
        s->in_member = result != 0;
        if (ZSTD_isError(result))
            return err_set(e, "%s: byte %llu: broken zstd data: %s", s->path,
                           (unsigned long long)file_consumed(s), ZSTD_getErrorName(result)),
                   -1;
        if (stuck && s->in_member)
            return err_set(e, "%s: byte %llu: zstd data ends too early", s->path,
                           (unsigned long long)file_consumed(s)),
                   -1;
    }
    return (int64_t)out.pos;
}

int64_t file_get(struct stream *s, void *data, size_t bytes, struct err *e)
{
    if (bytes == 0)
        return 0;
    return s->packing == GZIP   ? get_gzip(s, data, bytes, e)
           : s->packing == ZSTD ? get_zstd(s, data, bytes, e)
                                : get_plain(s, data, bytes, e);
}
