/* ckpt_impl.h - what the files of src/ckpt share; nothing else but their tests includes it. */
#pragma once
#include "base/file.h"
#include "ckpt/ckpt.h"
#include "ckpt/name_table.h"
#include "ckpt/safetensors.h"
enum { CHUNK = 1 << 16 }; /* elements converted at a time */
#define INDEX_NAME    "model.safetensors.index.json"
#define SINGLE_NAME   "model.safetensors"
#define MANIFEST_NAME "checkpoint.json"
#define STATE_NAME    "train_state.json"
static const size_t max_text_bytes = (size_t)1 << 30; /* of an index, a manifest, ... */

/* ckpt_order.c: n elements in held order and as they are. Both return how many from there on are neighbours in both. */
int64_t order_stored(const struct ckpt_order *o, int64_t n, int64_t held, int64_t *stored);
int64_t order_held(const struct ckpt_order *o, int64_t n, int64_t stored, int64_t *held);
bool order_fits(const struct ckpt_order *o, int64_t n);
struct ckpt_order order_of(const struct ckpt_job *job, int param);

/* ckpt_text.c: names and small files. */
enum state_kind { EXP_AVG, EXP_AVG_SQ, MASTER, STATE_KINDS };
struct state_name {
    const char *tensor;
    int64_t begin, end; /* end -1 = the whole tensor */
    enum state_kind kind;
    int skip;                /* of codes: elements of the first block before begin */
    struct ckpt_order order; /* in which begin and end count; slices 0 = as they are */
};
const char *state_name_print(struct arena *a, const struct state_name *s);
bool state_name_parse(struct arena *a, const char *text, struct state_name *out); /* false: none */
bool is_plain_name(const char *name);    /* of a file in the same directory: no '/', no leading '.' */
bool is_buffer(const char *tensor);      /* rotary inv_freq: in some model directories, never a parameter */
bool is_model_text(const char *name);    /* config.json, tokenizer files, ...: copied as bytes */
const char *base_name(const char *path); /* behind the last '/' */
const char *parent_of(struct arena *a, const char *path);       /* "." when there is none */
const char *without_slashes(struct arena *a, const char *path); /* no '/' at the end, unless it is the root */
const char *path_in(struct arena *a, const char *dir, const char *name);
const char *optimizer_file(struct arena *a, int64_t rank, int64_t n_ranks);
const char *sums_file(struct arena *a, int64_t rank);
const char *seals_file(struct arena *a, int64_t rank); /* of shared files */
/* config.json with another torch_dtype, every other byte as it was. text ends with a 0 not counted in *bytes. */
char *replace_torch_dtype(struct arena *a, const char *text, size_t *bytes, const char *path,
                          const char *dtype, struct err *e);

/* ckpt_manifest.c: checkpoint.json, and the sums that every rank leaves for rank 0 in the same form. */
struct manifest_file {
    const char *name;
    int64_t bytes;
    char hash[17];
};
struct manifest {
    int64_t n_ranks, n, capacity;
    struct manifest_file *file;
};
void manifest_add(struct arena *a, struct manifest *m, const char *name, uint64_t bytes, uint64_t hash);
bool manifest_add_file(struct arena *a, struct manifest *m, const char *dir, const char *name, struct err *e);
const struct manifest_file *manifest_find(const struct manifest *m, const char *name); /* NULL = absent */
bool manifest_parse(struct arena *a, const char *text, size_t bytes, const char *path, struct manifest *m,
                    struct err *e);
bool manifest_read(struct arena *a, const char *path, struct manifest *m, struct err *e);
bool manifest_write(const char *path, struct manifest *m, struct err *e); /* sorts by name */
bool manifest_check_file(struct arena *a, const char *dir, const struct manifest_file *f, bool with_hash,
                         struct err *e);

/* ckpt_shards.c: tensors cut into files, and the index of Hugging Face. */
struct shards {
    int64_t n;
    const char **name;
    int64_t *begin, *order; /* shard s holds tensors order[begin[s]] ... order[begin[s + 1] - 1] */
    int64_t *first;         /* of each owner; n_owners + 1 */
};
/* Tensors of one owner never share a file with those of another; owner NULL = one owner, 0. */
void shards_plan(struct arena *a, const struct safetensor *list, int64_t n, const int *owner, int n_owners,
                 int64_t max_shard_bytes, struct shards *out);
typedef bool put_tensor(void *context, int64_t tensor, struct safetensors_writer *w, struct err *e);
bool shards_write(struct arena *a, const char *dir, const struct safetensor *list, const struct shards *s,
                  int owner, put_tensor *put, void *context, struct manifest *m, struct err *e);
bool shards_write_one(struct arena *a, const char *dir, const struct safetensor *list, const struct shards *s,
                      int64_t shard, put_tensor *put, void *context, struct manifest *m, struct err *e);
bool shards_write_index(struct arena *a, const char *dir, const struct safetensor *list,
                        const struct shards *s, struct err *e);
struct index { /* model.safetensors.index.json: tensor -> file */
    int64_t n, n_files;
    const char **tensor, **file;
    int64_t *file_of; /* by tensor */
    struct name_table names;
};
bool index_parse(struct arena *a, const char *text, size_t bytes, const char *path, struct index *x,
                 struct err *e);
/* Floats stored as t; a value that is not finite, or not in t, is an error naming tensor and element. */
bool put_floats(struct safetensors_writer *w, const char *tensor, const float *x, int64_t first, int64_t n,
                enum dtype t, struct err *e);
/* Copies the files of is_model_text(), except `skip` (may be NULL), and notes them in m (may be NULL). */
bool copy_model_texts(struct arena *a, const char *from, const char *to, const char *skip, struct manifest *m,
                      struct err *e);

/* ckpt_assign.c: which rank writes what: a pure function of the job. */
struct part {
    int param, piece;
};
struct stored_tensor {
    int n_parts;
    struct part *part;       /* ascending, covering the tensor */
    struct ckpt_order order; /* in which ranks hold it */
    bool shared;             /* no rank holds it whole */
};
struct segment { /* elements [begin, end) of tensor in held order, from the rank's state `from` at `offset` */
    int64_t tensor, begin, end;
    int from;
    int64_t offset;
};
struct assignment {
    int64_t n;
    struct safetensor *list; /* by name_compare() */
    struct stored_tensor *tensor;
    struct shards shards; /* owner = rank; n_ranks = shared */
};
void assignment_make(struct arena *a, const struct ckpt_job *job, struct assignment *out);
int64_t segments_make(struct arena *a, const struct ckpt_job *job, const struct assignment *x, int rank,
                      struct segment **out);
void assignment_check_states(const struct ckpt_job *job); /* CHECKs that they are disjoint and complete */
/* The range of param that holds element; NULL = none. Ranges ascend. */
const struct ckpt_range *range_at(const struct ckpt_range *ranges, int n, int param, int64_t element);

/* ckpt_shared.c: files that several ranks write together: each the elements whose states it has. */
struct mine { /* what writing needs */
    const struct ckpt_job *job;
    const struct assignment *x;
    int rank;
    float *room; /* CKPT_ROOM bytes; NULL while it only visits */
};
/* ckpt_write.c. The tensor's elements in order, from the ranges that the rank holds. */
put_tensor weight_put; /* context: struct mine */
struct content {       /* of a file that the rank writes alone */
    const char *name;
    int64_t n;
    struct safetensor *list;
    const int64_t *order;              /* of a shard of the model: which tensors */
    const struct optimizer *optimizer; /* of the other file */
};
struct content *contents_make(struct arena *a, const struct mine *m, int64_t *n);
/* Bytes [from, to) of tensor i, and what else whole elements have, to where they belong in a piece; NULL only visits. */
bool content_put(const struct mine *m, const struct content *c, int64_t i, uint64_t from, uint64_t to,
                 struct safetensors_writer *w, struct err *e);

/* ckpt_shared.c */
int64_t shared_count(const struct ckpt_job *job, const struct assignment *x);
bool shared_write(struct arena *a, const struct mine *m, const char *dir, int64_t i,
                  struct err *e); /* the i-th */
void shared_visit(struct arena *a, const struct mine *m);

/* ckpt_publish.c */
const char *temporary_name(struct arena *a, const char *directory);

/* ckpt_open.c */
struct state_range { /* elements [begin, end) of one tensor's optimizer state, in `order` */
    int64_t tensor, begin, end;
    enum state_kind kind;
    int skip;                /* of codes, as in the name */
    struct ckpt_order order; /* the same for all of a kind of a tensor */
    const struct safetensor
        *data; /* F32; or U8: the codes, then the floats of the blocks, at any alignment */
};
/* Blocks that n elements touch, `skip` elements of the first being others'. */
static inline int64_t blocks_of(int skip, int64_t n)
{
    return n ? (skip + n + CKPT_BLOCK - 1) / CKPT_BLOCK : 0;
}
struct ckpt {
    struct arena *arena;
    const char *dir;
    int64_t n_files, n_model_files;
    struct safetensors **file; /* of the model, then of the optimizer */
    int64_t n;
    const struct safetensor **tensor; /* by name_compare() */
    struct name_table names;
    int64_t n_states;
    struct state_range *state;       /* by tensor, kind, begin */
    const struct manifest *manifest; /* NULL = not a checkpoint */
    const char *train_state;
    const float *values[2]; /* of codes; NULL = not told */
};
const struct safetensor *ckpt_tensor(const struct ckpt *c, const char *name); /* NULL = absent */
bool ckpt_index_states(struct ckpt *c, struct err *e);                        /* ckpt_state.c */
/* The first float of blocks that is negative or not finite is an error that names it. ckpt_codes.c */
bool state_check_scales(const struct state_range *s, struct err *e);
/* Elements [at, at + n) of the range as floats. */
bool state_floats(const struct ckpt *c, const struct state_range *s, int64_t at, int64_t n, float *out,
                  struct err *e);
/* The range that holds `element` (in the order of the ranges) of a kind of state; CHECKs that there is one. */
const struct state_range *ckpt_state_at(const struct ckpt *c, int64_t tensor, enum state_kind kind,
                                        int64_t element);
struct state_run { /* elements [at, at + n) of a range: neighbours in the tensor too */
    const struct state_range *range;
    int64_t at, n;
};
/* From `element` of the tensor on, at most `most`. */
struct state_run ckpt_state_run(const struct ckpt *c, int64_t tensor, enum state_kind kind, int64_t element,
                                int64_t most);
