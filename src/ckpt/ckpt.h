/* ckpt.h - checkpoints. A checkpoint is a Hugging Face directory (config.json, model-*.safetensors + index,
 * tokenizer files) with, beside it, optimizer-RRRRR-of-NNNNN.safetensors (F32 "TENSOR.exp_avg",
 * "TENSOR.exp_avg_sq", "TENSOR.master" where the stored weight is not F32; U8 where moments are 8-bit codes), train_state.json (position and
 * fingerprints) and checkpoint.json, the manifest: version, every file with bytes and XXH3, written last.
 * Nothing here communicates: every rank writes its own files, and its bytes of those that hold tensors which no rank has
 * whole; the caller puts barriers between the calls. */
#pragma once
#include "base/arena.h"
#include "base/err.h"
#include "graph/param.h"
#include <stdint.h>
/* The order in which ranks hold the elements of a parameter. slices > 1: seen as [outer, slices, run], it is held as
 * [slices, outer, run]; the pieces of such a parameter are whole tensors, each a multiple of slices * run. 0 or 1: as it is. */
struct ckpt_order {
    int64_t slices, run;
};
struct ckpt_range { /* elements [begin, end) of parameter `param`, in held order */
    int param;
    int64_t begin, end;
    int skip; /* of states, where moments are codes: elements of the first block that lie before `begin` */
};
struct ckpt_holding { /* what one rank holds; ascending */
    int n_weights, n_states;
    struct ckpt_range *weights; /* replicas on several ranks are normal */
    struct ckpt_range
        *states; /* over all ranks: disjoint, covering every parameter; each in one range of weights */
};
/* Elements [at, at + n) of this rank's own range `index` - of .weights, or of .states for the other parts - as floats:
 * where they lie, or at the beginning of `room`, which has space for 3 CKPT_PIECE of them; n is at most CKPT_PIECE.
 * Several threads call it, each with a room of its own. */
enum ckpt_part { CKPT_WEIGHT, CKPT_EXP_AVG, CKPT_EXP_AVG_SQ, CKPT_MASTER };
enum { CKPT_PIECE = 1 << 20, CKPT_ROOM = 3 * CKPT_PIECE * 4 /* bytes */, CKPT_THREADS = 8 };
typedef const float *ckpt_source(void *context, enum ckpt_part part, int64_t index, int64_t at, int64_t n,
                                 float *room);
/* 8-bit moments: a code per element, and a float (finite, not negative) per block of CKPT_BLOCK elements. Codes of
 * elements [at, at + n) of range `index`, or the floats of its blocks [at, at + n); n is at most CKPT_PIECE. */
enum { CKPT_BLOCK = 256 };
typedef void ckpt_code_source(void *context, enum ckpt_part part, int64_t index, int64_t at, int64_t n,
                              unsigned char *codes);
typedef void ckpt_scale_source(void *context, enum ckpt_part part, int64_t index, int64_t at, int64_t n,
                               float *scales);
struct ckpt_job {          /* the same on all ranks, except `context` */
    const char *directory; /* final name, .../step-00000010; the temporary one is derived from it */
    const struct param_list *params;
    int n_ranks;
    const struct ckpt_holding *holding; /* of every rank */
    const struct ckpt_order *order;     /* by parameter; NULL = all as they are */
    const enum dtype
        *stored;           /* dtype in the files, by parameter; the source's, or config.json's torch_dtype */
    const char *model_dir; /* config.json and tokenizer files are copied from here as bytes */
    const char *train_state; /* JSON text */
    int64_t max_shard_bytes;
    ckpt_source *read;            /* of the rank's own data */
    ckpt_code_source *read_codes; /* both NULL: moments are read as floats */
    ckpt_scale_source *read_scales;
    int n_threads; /* that write for this rank at the same time, at most CKPT_THREADS; 0 = 1 */
    size_t
        piece_bytes; /* that one writes at a time; 0 = FILE_PIECE of base/file.h. Files do not depend on it */
    void *room[CKPT_THREADS]; /* CKPT_ROOM bytes each for the source; NULL = allocated while it writes */
    void *context;
};
/* 1. rank 0: removes leftovers, makes the temporary directory. 2. all: ckpt_write. 3. where ckpt_has_shared, all:
 * ckpt_seal, which hashes the files that several ranks wrote together. 4. rank 0: ckpt_publish
 * (index, manifest, fsync, rename, then "last" in the parent moved to it, then all but keep_last removed;
 * keep_last 0 keeps all; a checkpoint that another file names is never removed half). */
bool ckpt_begin(const struct ckpt_job *job, struct err *e);
bool ckpt_write(const struct ckpt_job *job, int rank, struct err *e);
bool ckpt_has_shared(const struct ckpt_job *job); /* the same on all ranks */
bool ckpt_seal(const struct ckpt_job *job, int rank, struct err *e);
/* Calls the sources for all that ckpt_write will ask them, with room NULL; what they return is not looked at. */
void ckpt_visit(const struct ckpt_job *job, int rank);
bool ckpt_publish(const struct ckpt_job *job, int keep_last, struct err *e);
int64_t
ckpt_bytes(const char *directory); /* of the files that its manifest lists; 0 where it cannot be read */
/* The weights of a job of one rank, which holds every parameter whole, as a clean Hugging Face directory. */
bool ckpt_write_model(const struct ckpt_job *job, struct err *e);

/* Reading a model directory: any Hugging Face directory with safetensors (index or single file), a
 * checkpoint, or config.json alone (then n_tensors = 0). Unknown, missing, overlapping or mis-shaped tensors
 * are errors that name them. */
struct ckpt;
struct ckpt *ckpt_open(struct arena *a, const char *dir, struct err *e); /* NULL on error */
void ckpt_close(struct ckpt *c);
int64_t ckpt_n_tensors(const struct ckpt *c);
const char *ckpt_train_state(const struct ckpt *c); /* NULL when it is not a checkpoint */
/* Every piece of every parameter is there with its shape and nothing else is (except rotary inv_freq buffers). */
bool ckpt_match(const struct ckpt *c, const struct param_list *params, struct err *e);
enum dtype ckpt_stored(const struct ckpt *c, const struct param *p); /* dtype of its first piece */
/* Elements [begin, end) of a parameter as float; a non-finite value is an error that names tensor and index. */
bool ckpt_read_weight(const struct ckpt *c, const struct param *p, int64_t begin, int64_t end, float *out,
                      struct err *e);
/* Optimizer state of the same range; exact float32 weight into `weight`. From any number of ranks. */
/* Each may be NULL. */
bool ckpt_read_state(const struct ckpt *c, const struct param *p, int64_t begin, int64_t end, float *weight,
                     float *exp_avg, float *exp_avg_sq, struct err *e);
/* 8-bit moments in a checkpoint. ckpt_read_state needs the values of the 256 codes of either moment. */
bool ckpt_has_codes(const struct ckpt *c);
void ckpt_set_values(struct ckpt *c, const float *exp_avg, const float *exp_avg_sq); /* kept, not copied */
/* Codes of elements [begin, end) in this order (NULL: as they are) and the floats of their blocks of CKPT_BLOCK counted
 * from `begin`. A block whose elements are not all codes under one float has -1 and undefined codes: it is to be made
 * from ckpt_read_state. */
bool ckpt_read_codes(const struct ckpt *c, const struct param *p, const struct ckpt_order *order,
                     int64_t begin, int64_t end, enum ckpt_part part, unsigned char *codes, float *scales,
                     struct err *e);
/* Manifest, sizes, checksums of all files, headers, finite values; one line per problem through `report`. */
bool ckpt_verify(const char *dir, void (*report)(const char *line), struct err *e);

/* Directory named by --model_id: a directory, or org/name in the Hugging Face cache (HF_HUB_CACHE, HF_HOME,
 * ~/.cache/huggingface/hub; refs/main, snapshots). Never downloads; the error says how to get it. NULL on error. */
char *ckpt_find_model(struct arena *a, const char *model_id, struct err *e);
/* --ckpt_dir given by people: a checkpoint, a run directory, its checkpoints/ folder, or "last". NULL on error. */
char *ckpt_find(struct arena *a, const char *dir, struct err *e);
/* One consolidated file set with optimizer state (same format, ranks = 1); clean Hugging Face directory.
 * dtype < 0 keeps the stored dtypes. Memory is bounded by one tensor. */
bool ckpt_merge(const char *from, const char *to, int64_t max_shard_bytes, struct err *e);
bool ckpt_export(const char *from, const char *to, int dtype, int64_t max_shard_bytes, struct err *e);
