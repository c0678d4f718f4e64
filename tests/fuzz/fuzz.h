/* fuzz.h - what the fuzz targets share. An input that a reader takes must satisfy its contract, one that it
 * refuses must come with a text; the sanitizers find the rest. */
#pragma once
#include "base/arena.h"
#include "base/err.h"
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static inline void fuzz_expect(int condition, const char *what)
{
    if (condition)
        return;
    fprintf(stderr, "contract broken: %s\n", what);
    abort();
}

/* A reader's outcome and its error belong together. */
static inline void fuzz_outcome(int succeeded, const struct err *e)
{
    fuzz_expect(succeeded == (e->text[0] == 0),
                succeeded ? "success with an error text" : "failure without one");
    fuzz_expect(succeeded == (e->code == 0), "exit code");
    fuzz_expect(strchr(e->text, '\n') == NULL, "an error of one line");
}

/* The input as a 0-terminated text of its own, so that reading past its end is found. */
static inline char *fuzz_text(const uint8_t *data, size_t bytes)
{
    char *text = malloc(bytes + 1);
    fuzz_expect(text != NULL, "memory");
    memcpy(text, data, bytes);
    text[bytes] = 0;
    return text;
}

/* The input as a file: a path for readers that take one. Lives until fuzz_path_end. */
struct fuzz_path {
    int file;
    char path[64];
};
static inline struct fuzz_path fuzz_path(const uint8_t *data, size_t bytes)
{
    struct fuzz_path p = { .file = memfd_create("fuzz", 0) };
    fuzz_expect(p.file >= 0 && write(p.file, data, bytes) == (ssize_t)bytes, "memfd");
    snprintf(p.path, sizeof p.path, "/proc/self/fd/%d", p.file);
    return p;
}

static inline void fuzz_path_end(const struct fuzz_path *p)
{
    close(p->file);
}

/* A directory of this process, made once, for readers of directories; files are overwritten by every input. */
static inline const char *fuzz_directory(void)
{
    static char path[64];
    if (!path[0]) {
        snprintf(path, sizeof path, "%s/moec-fuzz-XXXXXX",
                 access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
        fuzz_expect(mkdtemp(path) != NULL, "mkdtemp");
    }
    return path;
}

static inline void fuzz_file(const char *name, const uint8_t *data, size_t bytes)
{
    char path[128];
    snprintf(path, sizeof path, "%s/%s", fuzz_directory(), name);
    FILE *f = fopen(path, "wb");
    fuzz_expect(f && fwrite(data, 1, bytes, f) == bytes && fclose(f) == 0, path);
}

/* Bytes up to the first 0, or all; *rest is what follows the 0. */
static inline size_t fuzz_part(const uint8_t *data, size_t bytes, size_t *rest)
{
    const uint8_t *zero = bytes ? memchr(data, 0, bytes) : NULL;
    const size_t n = zero ? (size_t)(zero - data) : bytes;
    *rest = zero ? n + 1 : bytes;
    return n;
}
