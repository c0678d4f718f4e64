/* file_test.c - maps, atomic writes, full disks, compressed streams, directories. */
#include "base/arena.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/rng.h"
#include "tests/test.h"
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static const char *at(struct arena *a, const char *name)
{
    return arena_printf(a, "%s/%s", test_dir(), name);
}

static int64_t n_entries(struct arena *a, const char *dir)
{
    int64_t n = -1;
    struct err e = { 0 };
    return file_list(a, dir, &n, &e) ? n : -1;
}

TEST(file_write_read_map)
{
    struct arena *a = arena_new("test");
    struct err e = { 0 };
    struct map m;
    size_t bytes;
    const char *path = at(a, "plain");
    EXPECT(file_write(path, "hello\0x", 7, &e));
    EXPECT_INT(file_bytes(path), 7);
    const char *text = file_read(a, path, 7, &bytes, &e);
    EXPECT(text && bytes == 7 && !memcmp(text, "hello\0x", 8));
    EXPECT(file_map(a, path, &m, &e) && m.bytes == 7 && m.data[4] == 'o');
    EXPECT(file_write(path, "", 0, &e)); /* the old content stays mapped */
    EXPECT(m.data[0] == 'h');
    file_unmap(&m);
    EXPECT(file_map(a, path, &m, &e) && m.bytes == 0 && m.data == NULL);
    file_unmap(&m);
    text = file_read(a, path, 100, &bytes, &e);
    EXPECT(text && bytes == 0 && text[0] == 0);
    EXPECT_TEXT(e.text, "");
    arena_free(a);
}

TEST(file_read_errors)
{
    struct arena *a = arena_new("test");
    struct err e = { 0 };
    struct map m;
    size_t bytes;
    EXPECT(!file_read(a, "/none/x", 10, &bytes, &e));
    EXPECT_TEXT(e.text, "/none/x: cannot open: No such file or directory");
    EXPECT_INT(e.code, EXIT_INPUT);
    e = (struct err){ 0 };
    EXPECT(!file_read(a, "/tmp", 10, &bytes, &e));
    EXPECT_TEXT(e.text, "/tmp: is a directory, expected a file");
    e = (struct err){ 0 };
    EXPECT(!file_map(a, "/dev/zero", &m, &e));
    EXPECT_TEXT(e.text, "/dev/zero: not a regular file, cannot be mapped");
    e = (struct err){ 0 };
    EXPECT(!file_read(a, "/dev/zero", 100000, &bytes, &e));
    EXPECT_TEXT(e.text, "/dev/zero: more than 100000 bytes, the most allowed here");
    e = (struct err){ 0 };
    EXPECT(!file_open("/tmp", &e));
    EXPECT_TEXT(e.text, "/tmp: is a directory, expected a file");
    arena_free(a);
}

TEST(file_drop_leaves_the_old_file)
{
    struct arena *a = arena_new("test");
    struct err e = { 0 };
    const char *dir = at(a, "drop"), *path = at(a, "drop/file");
    size_t bytes;
    EXPECT(file_mkdirs(dir, &e) && file_write(path, "old", 3, &e));
    struct writer *w = file_create(path, &e);
    EXPECT(w && file_put(w, "new", 3, &e));
    EXPECT_INT(n_entries(a, dir), 2);
    file_drop(w);
    EXPECT_INT(n_entries(a, dir), 1);
    EXPECT_TEXT(file_read(a, path, 100, &bytes, &e), "old");
    file_drop(NULL);
    EXPECT(!file_create(at(a, "none/file"), &e));
    EXPECT(strstr(e.text, "none/file: cannot create: No such file or directory"));
    arena_free(a);
}

TEST(file_random_access)
{
    enum { N = 3000000 };
    struct arena *a = arena_new("test");
    struct err e = { 0 };
    const char *path = at(a, "random");
    char *want = arena_alloc(a, N);
    struct writer *w = file_create(path, &e);
    size_t bytes, used = 0;
    for (size_t i = 0; i < N; i++)
        want[i] = (char)rng_u64(1, 2, i);
    for (size_t n = 1; used < N; used += n, n = n * 7 % 1500007) { /* pieces below and above the buffer */
        n = n < N - used ? n : N - used;
        EXPECT(file_put(w, want + used, n, &e));
        EXPECT_INT(file_offset(w), used + n);
    }
    for (size_t i = 0; i < 5; i++)
        want[1000 + i] = "patch"[i];
    for (size_t i = 0; i < 3; i++)
        want[N - 3 + i] = "end"[i];
    EXPECT(file_put_at(w, "patch", 5, 1000, &e) && file_put_at(w, "end", 3, N - 3, &e));
    EXPECT(file_put(w, "more", 4, &e) && file_publish(w, &e));
    const char *text = file_read(a, path, N + 4, &bytes, &e);
    EXPECT(text && bytes == N + 4 && !memcmp(text, want, N) && !memcmp(text + N, "more", 4));
    arena_free(a);
}

static char *noise(struct arena *a, size_t bytes)
{
    char *x = arena_alloc(a, bytes + 8);
    for (size_t i = 0; i < bytes; i += 8)
        memcpy(x + i, &(uint64_t){ rng_u64(3, 4, i) }, 8);
    return x;
}

/* Whether the first page of a file stands in the page cache. */
static bool in_page_cache(const char *path)
{
    unsigned char resident = 1;
    const int fd = open(path, O_RDONLY);
    void *page = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0);
    EXPECT(fd >= 0 && page != MAP_FAILED && mincore(page, 4096, &resident) == 0);
    munmap(page, 4096);
    close(fd);
    return resident & 1;
}

/* Whether this file system writes past the page cache. */
static bool can_go_past(struct arena *a)
{
    const char *path = at(a, "probe");
    void *room = file_room(4096);
    const int fd = open(path, O_WRONLY | O_CREAT | O_DIRECT, 0666);
    const bool can = fd >= 0 && write(fd, room, 4096) == 4096 && !in_page_cache(path);
    if (fd >= 0)
        close(fd);
    file_room_free(room, 4096);
    return can;
}

/* Pieces last first, each from memory that begins `shift` bytes behind where it should. */
static bool put_pieces(const char *path, const char *data, size_t bytes, size_t piece_bytes, size_t shift,
                       struct err *e)
{
    const int64_t n = (int64_t)((bytes + piece_bytes - 1) / piece_bytes);
    char *room = file_room(piece_bytes + shift);
    struct writer *w = file_create_pieces(path, bytes, piece_bytes, e);
    bool put = w != NULL;
    for (int64_t i = n - 1; put && i >= 0; i--) {
        const size_t first = (size_t)i * piece_bytes;
        memcpy(room + shift, data + first, bytes - first < piece_bytes ? bytes - first : piece_bytes);
        put = file_put_piece(w, room + shift, i, e);
    }
    if (put)
        EXPECT_INT(file_offset(w), bytes);
    if (!put)
        file_drop(w);
    file_room_free(room, piece_bytes + shift);
    return put && file_publish(w, e);
}

static bool holds(const char *path, const char *want, size_t bytes)
{
    struct arena *a = arena_new("test");
    struct err e = { 0 };
    struct map m = { 0 };
    const bool same =
        file_map(a, path, &m, &e) && m.bytes == bytes && (bytes == 0 || !memcmp(m.data, want, bytes));
    file_unmap(&m);
    arena_free(a);
    return same;
}

TEST(file_pieces_of_odd_lengths)
{
    enum { B = FILE_BLOCK };
    static const size_t lengths[] = { 0,     1,         511,    B - 1,        B, B + 1, 2 * B - 1,
                                      2 * B, 3 * B + 5, 40 * B, 41 * B + 4095 };
    static const size_t pieces[] = { B, 3 * B, 1000 }; /* the last: through the page cache */
    struct arena *a = arena_new("test");
    struct err e = { 0 };
    const char *path = at(a, "pieces"), *data = noise(a, 42 * B);
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++)
        for (size_t k = 0; k < 3; k++)
            for (size_t shift = 0; shift < 2; shift++) { /* 1: disks refuse the place in memory after all */
                EXPECTF(put_pieces(path, data, lengths[i], pieces[k], shift, &e), "%s", e.text);
                EXPECTF(holds(path, data, lengths[i]), "%zu bytes in pieces of %zu", lengths[i], pieces[k]);
            }
    arena_free(a);
}

TEST(file_pieces_go_past_the_page_cache)
{
    enum { P = FILE_PIECE };
    static const size_t lengths[] = { P - 1, P, P + 1, 2 * P + 4097 };
    struct arena *a = arena_new("test");
    struct err e = { 0 };
    const char *path = at(a, "large"), *data = noise(a, 3 * (size_t)P);
    const bool can = can_go_past(a);
    if (!can)
        test_skip("this file system does not write past the page cache");
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        EXPECTF(put_pieces(path, data, lengths[i], P, 0, &e), "%s", e.text);
        if (can)
            EXPECT_INT(in_page_cache(path), lengths[i] < P);
        EXPECTF(holds(path, data, lengths[i]), "%zu bytes", lengths[i]);
    }
    EXPECTF(put_pieces(path, data, P, P, 1, &e) && in_page_cache(path) && holds(path, data, P), "%s", e.text);
    EXPECTF(put_pieces("/dev/shm/moec-file-test", data, P + 1, P, 0, &e) || e.code == EXIT_INPUT, "%s",
            e.text);
    EXPECT(e.code || holds("/dev/shm/moec-file-test", data, P + 1));
    unlink("/dev/shm/moec-file-test");
    arena_free(a);
}

/* In a child with a limit on file sizes: each way to write 3 MB is an error, nothing is left, `old` stays. */
static int write_too_much(const char *dir, int way)
{
    struct arena *a = arena_new("test");
    struct err e = { 0 };
    const char *path = arena_printf(a, "%s/file", dir);
    char *data = arena_alloc(a, 3 << 20);
    setrlimit(RLIMIT_FSIZE, &(struct rlimit){ 1 << 20, 1 << 20 });
    struct writer *w = file_create(path, &e);
    bool written = w != NULL;
    if (way == 0)
        written = written && file_put(w, data, 3 << 20, &e);
    for (int i = 0; way == 1 && written && i < 3 << 10; i++)
        written = file_put(w, data, 1 << 10, &e);
    if (way == 2)
        written = written && file_put_at(w, data, 3 << 20, 100, &e);
    if (way == 3) {
        file_drop(w);
        return !file_create_pieces(path, 3 << 20, 1 << 20, &e) && e.code == EXIT_WORLD &&
                       strstr(e.text, "file: cannot write: File too large")
                   ? 0
                   : 13;
    }
    if (written)
        return 10;
    if (file_put(w, data, 1, &e) || file_publish(w, &e))
        return 11;
    return e.code == EXIT_WORLD && strstr(e.text, "file: cannot write: File too large") ? 0 : 12;
}

TEST(file_size_limit_is_an_error)
{
    struct arena *a = arena_new("test");
    struct err e = { 0 };
    const char *dir = at(a, "limit");
    size_t bytes;
    EXPECT(file_mkdirs(dir, &e) && file_write(at(a, "limit/file"), "old", 3, &e));
    for (int way = 0; way < 4; way++) {
        int status;
        fflush(NULL);
        const pid_t child = fork();
        if (child == 0)
            _exit(write_too_much(dir, way));
        waitpid(child, &status, 0);
        EXPECTF(WIFEXITED(status) && WEXITSTATUS(status) == 0, "way %d: status %x", way, (unsigned)status);
        EXPECT_INT(n_entries(a, dir), 1);
        EXPECT_TEXT(file_read(a, at(a, "limit/file"), 100, &bytes, &e), "old");
    }
    arena_free(a);
}

/* All bytes of a stream, read in pieces of odd sizes; -1 with the error. */
static int64_t drain(const char *path, char *out, size_t room, size_t piece, struct err *e)
{
    struct stream *s = file_open(path, e);
    int64_t total = 0, n = s ? 1 : -1;
    while (n > 0 && (size_t)total < room) {
        n = file_get(s, out + total, room - (size_t)total < piece ? room - (size_t)total : piece, e);
        total += n > 0 ? n : 0;
    }
    if (n == 0)
        EXPECT_INT(file_consumed(s), file_bytes(path));
    file_close(s);
    return n < 0 ? -1 : total;
}

static bool shell(struct arena *a, const char *command)
{
    return system(arena_printf(a, "cd '%s' && (%s) 2>/dev/null", test_dir(), command)) == 0;
}

/* A small disk, as mkfs makes it with `options`, in the folder `full`. */
static bool mount_disk(struct arena *a, const char *options)
{
    return shell(
        a,
        arena_printf(
            a, "mkdir -p full && truncate -s 16M disk && mkfs.ext4 -q -F %s disk && mount -o loop disk full",
            options));
}

/* Room is taken at once where the disk can, else it ends while pieces come. */
TEST(file_pieces_on_a_full_disk)
{
    static const char *const options[] = { "-O ^has_journal", "-O ^has_journal,^extent,^64bit" };
    struct arena *a = arena_new("test");
    const size_t bytes = 24 << 20, piece = 1 << 20;
    const char *data = noise(a, bytes), *path = at(a, "full/file");
    for (int i = 0; i < 2; i++) {
        struct err e = { 0 };
        if (!mount_disk(a, options[i])) {
            test_skip("mounting a small disk needs root and mkfs.ext4");
            break;
        }
        const int64_t n = n_entries(a, at(a, "full"));
        EXPECT(file_write(path, "old", 3, &e) && !put_pieces(path, data, bytes, piece, 0, &e));
        EXPECTF(e.code == EXIT_WORLD && strstr(e.text, "full/file: cannot write: No space left on device"),
                "%s", e.text);
        EXPECT_INT(n_entries(a, at(a, "full")), n + 1);
        EXPECT(holds(path, "old", 3));
        e = (struct err){ 0 };
        EXPECTF(put_pieces(path, data, 5 * piece + 1, piece, 0, &e) && holds(path, data, 5 * piece + 1), "%s",
                e.text);
        EXPECT(shell(a, "umount full"));
    }
    arena_free(a);
}

enum { TEXT_BYTES = 1 << 20 };

static char *make_text(struct arena *a)
{
    struct err e = { 0 };
    char *text = arena_alloc(a, TEXT_BYTES);
    for (size_t i = 0; i < TEXT_BYTES; i++)
        text[i] = (char)('a' + rng_u64(5, 6, i / 3) % 26);
    EXPECT(file_write(at(a, "t"), text, TEXT_BYTES, &e));
    return text;
}

TEST(file_streams_unpack_by_content)
{
    static const char *const commands[] = {
        "cat t > p",
        "gzip -c t > p",
        "head -c 99999 t | gzip > p; tail -c +100000 t | gzip -1 >> p",
        "gzip -c t > p; head -c 1000 /dev/zero >> p",
        "zstd -qc t > p",
        "head -c 99999 t | zstd -q > p; tail -c +100000 t | zstd -q >> p"
    };
    struct arena *a = arena_new("test");
    const char *want = make_text(a);
    char *got = arena_alloc(a, TEXT_BYTES + 10);
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++) {
        if (!shell(a, commands[i])) {
            test_skip("cannot run %s", commands[i]);
            continue;
        }
        for (size_t piece = 1000; piece < 10000000; piece *= 37) {
            struct err e = { 0 };
            const int64_t n = drain(at(a, "p"), got, TEXT_BYTES + 10, piece, &e);
            EXPECTF(n == TEXT_BYTES, "%s: %lld bytes: %s", commands[i], (long long)n, e.text);
            EXPECT(!memcmp(got, want, TEXT_BYTES));
        }
    }
    arena_free(a);
}

TEST(file_streams_refuse_broken_data)
{
    static const char *const cases[][2] = {
        { "gzip -c t | head -c 100000 > p", "gzip data ends too early" },
        { "gzip -c t | head -c 5 > p", "gzip data ends too early" },
        { "gzip -c t > p; echo junk >> p", "expected the end or another gzip member" },
        { "gzip -c t > p; printf '\\001\\002' | dd of=p bs=1 seek=100000 conv=notrunc", "broken gzip data" },
        { "zstd -qc t | head -c 100000 > p", "zstd data ends too early" },
        { "zstd -qc t | head -c 6 > p", "zstd data ends too early" },
        { "zstd -qc t > p; echo junk >> p", "broken zstd data" },
        { "zstd -qc t > p; head -c 100 /dev/zero | dd of=p bs=1 seek=100000 conv=notrunc",
          "broken zstd data" },
    };
    struct arena *a = arena_new("test");
    char *got = arena_alloc(a, TEXT_BYTES + 10);
    make_text(a);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct err e = { 0 };
        if (!shell(a, cases[i][0])) {
            test_skip("cannot run %s", cases[i][0]);
            continue;
        }
        const int64_t n = drain(at(a, "p"), got, TEXT_BYTES + 10, 70000, &e);
        EXPECTF(n == -1 && strstr(e.text, cases[i][1]), "%s: %lld bytes, '%s'", cases[i][0], (long long)n,
                e.text);
    }
    arena_free(a);
}

TEST(file_streams_read_standard_input)
{
    struct arena *a = arena_new("test");
    struct err e = { 0 };
    char got[100];
    EXPECT(shell(a, "printf 'one two' | gzip > stdin.gz; : > empty"));
    const int kept = dup(STDIN_FILENO), fd = open(at(a, "stdin.gz"), O_RDONLY);
    dup2(fd, STDIN_FILENO);
    struct stream *s = file_open("-", &e);
    EXPECT(s && file_get(s, got, 3, &e) == 3 && file_get(s, got + 3, 90, &e) == 4 &&
           file_get(s, got, 9, &e) == 0);
    EXPECT(!memcmp(got, "one two", 7));
    file_close(s);
    dup2(kept, STDIN_FILENO);
    close(kept);
    close(fd);
    EXPECT_INT(drain(at(a, "empty"), got, 10, 10, &e), 0);
    arena_free(a);
}

TEST(file_directories)
{
    struct arena *a = arena_new("test");
    struct err e = { 0 };
    int64_t n;
    EXPECT(file_mkdirs(at(a, "d/e//f/"), &e) && file_is_dir(at(a, "d/e/f")) && file_mkdirs(at(a, "d"), &e));
    EXPECT(file_write(at(a, "d/b"), "b", 1, &e) && file_write(at(a, "d/\xc3\xa9"), "", 0, &e));
    EXPECT(file_write(at(a, "d/A"), "", 0, &e) && file_write(at(a, "d/e/f/x"), "", 0, &e));
    char **names = file_list(a, at(a, "d"), &n, &e);
    EXPECT_INT(n, 4);
    EXPECT(names && !strcmp(names[0], "A") && !strcmp(names[1], "b") && !strcmp(names[2], "e") &&
           !strcmp(names[3], "\xc3\xa9"));
    EXPECT(file_symlink("b", at(a, "d/last"), &e) && file_symlink("A", at(a, "d/last"), &e));
    EXPECT_INT(file_bytes(at(a, "d/last")), 0);
    EXPECT(file_copy(at(a, "d/b"), at(a, "d/copy"), &e) && file_bytes(at(a, "d/copy")) == 1);
    EXPECT(file_rename(at(a, "d/copy"), at(a, "d/moved"), &e) && !file_exists(at(a, "d/copy")));
    EXPECT(file_mkdirs(at(a, "out"), &e) && file_write(at(a, "out/kept"), "", 0, &e));
    EXPECT(file_symlink(at(a, "t"), at(a, "d/outside"), &e) && file_write(at(a, "t"), "t", 1, &e));
    EXPECT(file_symlink(at(a, "out"), at(a, "d/out"), &e));
    EXPECT(file_remove_tree(at(a, "d"), &e) && !file_exists(at(a, "d")) && file_remove_tree(at(a, "d"), &e));
    EXPECT(file_exists(at(a, "t")) && file_exists(at(a, "out/kept"))); /* links are removed, not followed */
    EXPECT_TEXT(e.text, "");
    EXPECT(!file_mkdirs(at(a, "t/sub"), &e) && strstr(e.text, "cannot create the directory"));
    EXPECT(!file_list(a, at(a, "none"), &n, &e) && file_bytes(at(a, "none")) == -1);
    arena_free(a);
}
