/* batches.c - see batches.h. */
#include "run/batches.h"
#include "plan/tree.h"
#include <string.h>

void batches_new(struct arena *a, const struct dataset *d, int64_t n_train, int64_t seed, int32_t ignored,
                 struct batches *b)
{
    *b = (struct batches){ .data = d, .n_train = n_train, .seed = seed, .epoch = -1, .ignored = ignored };
    b->order = ARENA_NEW(a, int64_t, n_train > 0 ? n_train : 1);
}

int64_t batches_sequence(struct batches *b, int64_t epoch, int64_t index)
{
    if (b->epoch != epoch) {
        dataset_order(b->seed, epoch, b->n_train, b->order);
        b->epoch = epoch;
    }
    return b->order[index];
}

int64_t batches_targets(const struct batches *b, int64_t sequence)
{
    const int64_t S = b->data->sequence_length;
    const int32_t *t = b->data->tokens + sequence * S;
    int64_t n = S - 1;
    for (int64_t s = 1; b->ignored >= 0 && s < S; s++)
        n -= t[s] == b->ignored;
    return n;
}

/* The label of a position is the next token; the last position has none. */
static void fill_sequence(const struct batches *b, int64_t sequence, int32_t *tokens, int32_t *labels)
{
    const int64_t S = b->data->sequence_length;
    const int32_t *t = b->data->tokens + (sequence < 0 ? 0 : sequence) * S;
    memcpy(tokens, t, (size_t)S * sizeof *tokens);
    for (int64_t s = 0; s < S; s++)
        labels[s] = sequence < 0 || s + 1 == S || t[s + 1] == b->ignored ? -1 : t[s + 1];
}

void batches_fill(struct batches *b, const struct plan *p, int64_t epoch, int64_t first, int64_t n,
                  int64_t micro, int rank, int32_t *tokens, int32_t *labels, int64_t *slot)
{
    const int64_t S = p->sequence;
    for (int64_t i = 0; i < p->micro_batch; i++) {
        const int64_t at = plan_sample(p, micro, plan_worker(p, rank), i);
        slot[i] = at < n ? at : -1;
        fill_sequence(b, at < n ? batches_sequence(b, epoch, first + at) : -1, tokens + i * S,
                      labels + i * S);
    }
}

void batches_fill_eval(const struct batches *b, const struct plan *p, int64_t begin, int64_t end,
                       int64_t block, int rank, int32_t *tokens, int32_t *labels, int64_t *slot)
{
    const int64_t S = p->sequence;
    for (int64_t i = 0; i < p->micro_batch; i++) {
        const int64_t at = begin + (block * plan_workers(p) + plan_worker(p, rank)) * p->micro_batch + i;
        slot[i] = at < end ? at - begin : -1;
        fill_sequence(b, at < end ? at : -1, tokens + i * S, labels + i * S);
    }
}
