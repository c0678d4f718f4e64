/* prepare.c - see prepare.h. A reader thread cuts the input into jobs of about a megabyte, workers turn them into
 * ids, this thread writes them in order. */
#include "data/prepare.h"
#include "data/bpe.h"
#include "data/buffer.h"
#include "data/jobs.h"
#include "data/jsonl.h"
#include "data/text.h"
#include "data/token_file.h"
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
enum { JOB_BYTES = 1 << 20, MAX_JOB_DOCUMENTS = 4096 };

struct job_document {
    int64_t source, offset, line;
    size_t from, bytes;   /* in the job's text */
    int64_t first, n_ids; /* in the job's ids; n_ids -1 = skipped */
    int64_t text_bytes;   /* of the text without JSON */
    bool starts, ends;    /* of a long text file this may be a part */
};
struct job {
    struct buffer text, ids, scratch;
    struct job_document document[MAX_JOB_DOCUMENTS];
    int n_documents;
    bool jsonl;
    uint64_t disk_bytes;  /* read when the job was made, over all files */
    int64_t source_bytes; /* decompressed bytes of its source, known with its last job */
    struct err err;
};
struct preparation {
    const struct prepare_options *o;
    struct arena *arena;
    struct text_list files;
    struct bpe *bpe;
    struct jobs *jobs;
    struct token_file *out;
    struct token_file_totals totals;
    int64_t skipped;
    double start, last_line;
    bool terminal;
};

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void reset(struct job *j, bool jsonl)
{
    j->text.bytes = j->ids.bytes = 0;
    j->n_documents = 0;
    j->jsonl = jsonl;
    j->source_bytes = -1;
    j->err = (struct err){ 0 };
}

static size_t cut(const void *bpe, const char *text, size_t bytes, size_t most)
{
    return bpe_cut(bpe, text, bytes, most);
}

/* Fills a job from one source. false: the source has ended, or failed (job->err). *starts: a document starts next. */
static bool fill_job(struct job *j, struct text_reader *r, int64_t source, bool *starts)
{
    while (j->text.bytes < JOB_BYTES && j->n_documents < MAX_JOB_DOCUMENTS) {
        struct job_document *d = &j->document[j->n_documents];
        *d = (struct job_document){ .source = source, .from = j->text.bytes, .starts = *starts };
        const int got = text_next(r, &j->text, &d->offset, &d->line, &j->err);
        if (got <= 0)
            return false;
        *starts = d->ends = got == 1;
        d->bytes = j->text.bytes - d->from;
        j->n_documents++;
    }
    return true;
}

/* One source; false: the consumer has stopped, or an error went into the last job. */
static bool read_source(struct preparation *p, int64_t source, uint64_t *disk_bytes)
{
    const struct text_file *f = &p->files.file[source];
    struct err e = { 0 };
    struct text_reader *r = text_open(f, f->jsonl ? NULL : p->o->separator, &e);
    bool starts = true;
    if (r)
        text_divide(r, JOB_BYTES, cut, p->bpe);
    for (bool more = true; more;) {
        struct job *j = jobs_empty(p->jobs);
        if (!j) {
            text_close(r);
            return false;
        }
        reset(j, f->jsonl);
        j->err = e;
        more = r && fill_job(j, r, source, &starts);
        j->disk_bytes = *disk_bytes + (r ? text_consumed(r) : 0);
        if (!more && r)
            j->source_bytes = text_bytes(r);
        const bool failed = j->err.text[0] != 0;
        jobs_submit(p->jobs, j);
        if (failed) {
            text_close(r);
            return false;
        }
    }
    *disk_bytes += text_consumed(r);
    text_close(r);
    return true;
}

static void *reader(void *context)
{
    struct preparation *p = context;
    uint64_t disk_bytes = 0;
    for (int64_t i = 0; i < p->files.n; i++)
        if (!read_source(p, i, &disk_bytes))
            break;
    jobs_finish(p->jobs);
    return NULL;
}

struct worker {
    const struct preparation *p;
    struct bpe_encoder *encoder;
};

static bool encode_document(const struct worker *w, struct job *j, struct job_document *d, struct err *e)
{
    const struct text_file *f = &w->p->files.file[d->source];
    const char *text = j->text.data + d->from;
    size_t bytes = d->bytes;
    const int32_t *ids;
    if (j->jsonl) {
        char place[4200];
        snprintf(place, sizeof place, "%.4096s:%lld", f->path, (long long)d->line);
        j->scratch.bytes = 0;
        if (!jsonl_text(text, bytes, w->p->o->text_key, place, &j->scratch, e))
            return false;
        text = j->scratch.data;
        bytes = j->scratch.bytes;
    }
    d->n_ids = bpe_encode(w->encoder, bytes ? text : "", bytes, &ids, e);
    if (d->n_ids < 0)
        return false;
    d->first = (int64_t)(j->ids.bytes / sizeof *ids);
    d->text_bytes = (int64_t)bytes;
    if (d->n_ids)
        buffer_add(&j->ids, ids, (size_t)d->n_ids * sizeof *ids);
    return true;
}

static void work(void *job, void *worker)
{
    struct job *j = job;
    const struct worker *w = worker;
    for (int i = 0; i < j->n_documents; i++) {
        struct err e = { 0 };
        if (encode_document(w, j, &j->document[i], &e))
            continue;
        j->document[i].n_ids = -1;
        if (!j->jsonl || !w->p->o->skip_bad_lines) {
            j->n_documents =
                i; /* what stands before the error is written by nobody: the first error ends it all */
            j->err = e;
            return;
        }
    }
}

static void print_progress(struct preparation *p, uint64_t disk_bytes, bool last)
{
    const double t = now(), seconds = t - p->start, interval = p->terminal ? 0.2 : 10;
    if (!last && t - p->last_line < interval)
        return;
    if (last && (!p->terminal || p->last_line == p->start))
        return;
    p->last_line = t;
    const double rate = (double)p->totals.text_bytes / seconds,
                 done = (double)disk_bytes / (double)(p->files.disk_bytes > 0 ? p->files.disk_bytes : 1);
    fprintf(stderr, "%s", p->terminal ? "\r" : "");
    if (p->files.disk_bytes > 0)
        fprintf(stderr, "%5.1f %%  ", 100 * done);
    fprintf(stderr, "%.1f MB/s  %.2f M tokens/s", rate / 1e6, (double)p->totals.n_tokens / seconds / 1e6);
    if (p->files.disk_bytes > 0 && done > 0)
        fprintf(stderr, "  ETA %.0f s   ", seconds * (1 - done) / done);
    fprintf(stderr, "%s", p->terminal && !last ? "" : "\n");
}

static bool write_job(struct preparation *p, const struct job *j, struct err *e)
{
    if (j->err.text[0]) {
        *e = j->err;
        return false;
    }
    for (int i = 0; i < j->n_documents; i++) {
        const struct job_document *d = &j->document[i];
        if (d->n_ids < 0) {
            p->skipped++;
            continue;
        }
        const int32_t *ids = d->n_ids ? (const int32_t *)(const void *)j->ids.data + d->first : NULL;
        if ((d->starts && !token_file_begin(p->out, d->source, d->offset, e)) ||
            !token_file_text(p->out, ids, d->n_ids, d->text_bytes, e) ||
            (d->ends && !token_file_end(p->out, e)))
            return false;
    }
    p->totals = token_file_so_far(p->out);
    if (j->source_bytes >= 0 && j->n_documents >= 0)
        token_file_source_done(p->out, j->source_bytes);
    print_progress(p, j->disk_bytes, false);
    return true;
}

static bool write_all(struct preparation *p, struct err *e)
{
    struct job *j;
    bool ok = true;
    while (ok && (j = jobs_next(p->jobs))) {
        ok = write_job(p, j, e);
        jobs_release(p->jobs, j);
    }
    if (!ok)
        jobs_stop(p->jobs);
    return ok;
}

/* Threads, jobs and encoders around write_all. */
static bool run_pipeline(struct preparation *p, struct err *e)
{
    const int n_workers = p->o->threads, n_slots = 3 * n_workers + 1;
    void **slots = ARENA_NEW(p->arena, void *, n_slots), **workers = ARENA_NEW(p->arena, void *, n_workers);
    pthread_t thread;
    for (int i = 0; i < n_slots; i++)
        slots[i] = ARENA_NEW(p->arena, struct job, 1);
    for (int i = 0; i < n_workers; i++) {
        struct worker *w = ARENA_NEW(p->arena, struct worker, 1);
        *w = (struct worker){ p, bpe_encoder_new(p->bpe) };
        workers[i] = w;
    }
    p->jobs = jobs_new(n_slots, slots, n_workers, workers, work);
    if (pthread_create(&thread, NULL, reader, p) != 0)
        die("cannot start the reader thread");
    const bool ok = write_all(p, e);
    pthread_join(thread, NULL);
    jobs_free(p->jobs);
    for (int i = 0; i < n_workers; i++)
        bpe_encoder_free(((struct worker *)workers[i])->encoder);
    for (int i = 0; i < n_slots; i++) {
        struct job *j = slots[i];
        buffer_free(&j->text);
        buffer_free(&j->ids);
        buffer_free(&j->scratch);
    }
    return ok;
}

static void print_summary(const struct preparation *p)
{
    const struct token_file_totals *t = &p->totals;
    const double seconds = now() - p->start;
    const int64_t S = p->o->sequence_length, n = t->n_tokens / S;
    printf("%s: %lld documents, %lld bytes of text, %lld tokens with BOS and EOS, %.3f bytes per token\n",
           p->o->save_path, (long long)t->n_documents, (long long)t->text_bytes, (long long)t->n_tokens,
           t->n_tokens ? (double)t->text_bytes / (double)t->n_tokens : 0);
    printf("%lld sequences of %lld; the last %lld tokens of the corpus fill no whole sequence and are left "
           "out\n",
           (long long)n, (long long)S, (long long)t->n_tokens - n * S);
    if (p->skipped)
        printf("%lld lines could not be read and were skipped\n", (long long)p->skipped);
    printf("%.2f s, %.1f MB/s, %.2f M tokens/s with %d threads\n", seconds,
           (double)t->text_bytes / seconds / 1e6, (double)t->n_tokens / seconds / 1e6, p->o->threads);
}

static bool prepare_with(struct preparation *p, struct err *e)
{
    const struct token_file_options o = {
        .save_path = p->o->save_path,
        .tokenizer_dir = p->o->tokenizer_dir,
        .tokenizer_fingerprint = bpe_fingerprint(p->bpe),
        .sequence_length = p->o->sequence_length,
        .vocab_size = bpe_vocab_size(p->bpe),
        .bos = bpe_bos(p->bpe),
        .eos = bpe_eos(p->bpe),
        .files = &p->files,
        .overwrite = p->o->overwrite,
    };
    if (o.bos < 0 || o.eos < 0)
        return err_set(e,
                       "%s: no %s token: documents could not be told apart; name bos_token and eos_token in "
                       "tokenizer_config.json",
                       p->o->tokenizer_dir, o.bos < 0 ? "BOS" : "EOS");
    p->out = token_file_create(p->arena, &o, e);
    if (!p->out)
        return false;
    if (!run_pipeline(p, e)) {
        token_file_drop(p->out);
        return false;
    }
    print_progress(p, (uint64_t)(p->files.disk_bytes > 0 ? p->files.disk_bytes : 0), true);
    p->totals = token_file_so_far(p->out);
    return token_file_publish(p->out, e);
}

bool prepare(struct arena *a, const struct prepare_options *o, struct err *e)
{
    struct preparation p = { .o = o, .arena = a, .terminal = isatty(STDERR_FILENO) };
    if (!text_list_files(a, o->inputs, &p.files, e))
        return false;
    p.bpe = bpe_open(o->tokenizer_dir, e);
    if (!p.bpe)
        return false;
    p.start = p.last_line = now();
    const bool ok = prepare_with(&p, e);
    bpe_close(p.bpe);
    if (ok)
        print_summary(&p);
    return ok;
}
