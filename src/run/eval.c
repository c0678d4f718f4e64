/* eval.c - see eval.h. */
#include "run/eval.h"
#include "base/blas.h"
#include <math.h>
#include <stdio.h>

static bool open_inputs(struct arena *a, const struct config *c, struct setup *s, struct dataset *d,
                        struct err *e)
{
    if (!setup_open(a, c, s, e) || !dataset_open(a, c->dataset_path, comm_rank() != 0, d, e))
        return false;
    if (d->vocab_size > s->model.vocab)
        return err_code(e, EXIT_MISMATCH, "%s: token ids up to %lld, but vocab_size of %s is %lld",
                        c->dataset_path, (long long)d->vocab_size - 1, s->model_dir,
                        (long long)s->model.vocab);
    return d->n_sequences > 0 || err_set(e, "%s: no sequences", c->dataset_path);
}

static void print_result(const struct config *c, const struct dataset *d, double loss, int64_t targets,
                         double seconds, const char *how)
{
    const double bits = loss / log(2.0), per_byte = bits * (double)d->n_tokens / (double)d->n_bytes;
    if (c->json)
        printf("{\"loss\": %.17g, \"bits_per_token\": %.9g, \"bits_per_byte\": %.9g, \"perplexity\": %.9g, "
               "\"targets\": %lld, \"seconds\": %.3f}\n",
               loss, bits, per_byte, exp(loss), (long long)targets, seconds);
    else
        printf("%s\nloss %.6f nats/token | %.4f bits/token | %.4f bits/byte | perplexity %.2f | %lld targets "
               "| %.0f tokens/s\n",
               how, loss, bits, per_byte, exp(loss), (long long)targets, (double)targets / seconds);
}

bool eval_run(struct arena *a, const struct config *c, struct err *e)
{
    struct setup s;
    struct dataset d;
    struct plan p;
    struct engine x;
    struct batches b;
    struct stepper stepper;
    const char *how;
    int64_t targets;
    blas_warm_up();
    if (!open_inputs(a, c, &s, &d, e))
        return comm_ranks() == 1 ? false : (die_err(e), false);
    if (!setup_connect(&s, c, NULL, e))
        return false;
    comm_timeout(c->collective_timeout);
    const int64_t n =
        c->eval_sequences && c->eval_sequences < d.n_sequences ? c->eval_sequences : d.n_sequences;
    setup_small_plan(&s, c->micro_batch_size, d.sequence_length, &p);
    p.n_ranks = p.unit_ranks = comm_ranks();
    p.global_batch = p.micro_batch * p.n_ranks;
    engine_build(&s, &p, false, false, NULL, &x);
    if (!engine_load(&s, &x, c->init, c->seed, NULL, &how, e)) {
        exec_free(&x.exec);
        return comm_ranks() == 1 ? false : (die_err(e), false);
    }
    batches_new(a, &d, 0, 0, -1, &b);
    step_new(a, &x, &b, n, &stepper);
    const double start = exec_now(),
                 loss = step_evaluate(&stepper, d.n_sequences - n, d.n_sequences, &targets);
    if (comm_rank() == 0)
        print_result(c, &d, loss, targets, exec_now() - start, how);
    exec_free(&x.exec);
    return true;
}
