/* progress.c - what train prints for every step: a bar that is written anew over itself, or lines. */
#include "run/position.h"
#include "run/train.h"
#include <fcntl.h>
#include <math.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>
enum { MOST_CELLS = 24, FEWEST_CELLS = 8, NO_BAR = 3, MOST_COLUMNS = 200, USUAL_COLUMNS = 80 };

/* mpirun gives every rank a terminal of its own: what counts is where mpirun writes. */
static const char *output_path(char path[64])
{
    snprintf(path, 64, "/proc/%d/fd/1", (int)(comm_ranks() == 1 ? getpid() : getppid()));
    return path;
}

static bool output_is_terminal(void)
{
    char path[64], target[256];
    if (comm_ranks() == 1)
        return isatty(STDOUT_FILENO);
    const ssize_t n = readlink(output_path(path), target, sizeof target - 1);
    target[n > 0 ? n : 0] = 0;
    return strncmp(target, "/dev/pts/", 9) == 0 || strncmp(target, "/dev/tty", 8) == 0;
}

/* Of the terminal now: it can be resized. */
static int terminal_columns(void)
{
    char path[64];
    struct winsize w = { 0 };
    const int flags = O_RDONLY | O_NOCTTY | O_NONBLOCK | O_CLOEXEC;
    const int file = output_is_terminal() ? open(output_path(path), flags) : -1;
    if (file < 0)
        return USUAL_COLUMNS;
    const bool known = ioctl(file, TIOCGWINSZ, &w) == 0 && w.ws_col > 0;
    close(file);
    return !known ? USUAL_COLUMNS : w.ws_col < MOST_COLUMNS ? w.ws_col : MOST_COLUMNS;
}

void progress_open(struct run *r)
{
    const int choice = r->config->progress;
    const bool bar = choice == PROGRESS_AUTO ? output_is_terminal() : choice == PROGRESS_BAR;
    r->bar = bar && !r->config->json;
}

void progress_end_line(struct run *r)
{
    if (!r->in_bar)
        return;
    r->in_bar = false;
    printf("\n");
    fflush(stdout);
}

/* The numbers behind the bar; without the less important ones where there is no room for them and a bar. */
static void add_numbers(char *text, size_t bytes, const struct run *r, const struct step_report *s,
                        double rate, double mfu, bool all)
{
    char norm[80] = "", use[40] = "";
    if (all)
        snprintf(norm, sizeof norm, " norm %.3f lr %.2e", s->result.grad_norm, s->lr);
    if (all)
        snprintf(use, sizeof use, " MFU %.1f%%", 100 * mfu);
    snprintf(text, bytes, "%lld/%lld loss %.4f%s %.0f tok/s%s ETA %.0f s", (long long)r->position->step,
             (long long)r->total_steps, s->result.loss, norm, rate, use, r->eta_seconds);
}

/* The last column stays free, where a terminal would go on to the next line; blanks end what stood there. */
static void print_bar(struct run *r, const struct step_report *s, double rate, double mfu)
{
    char numbers[300], cells[MOST_CELLS + 1] = "";
    const int columns = terminal_columns() - 1;
    add_numbers(numbers, sizeof numbers, r, s, rate, mfu, true);
    if ((int)strlen(numbers) + FEWEST_CELLS + 3 > columns)
        add_numbers(numbers, sizeof numbers, r, s, rate, mfu, false);
    int n = columns - (int)strlen(numbers) - 3;
    n = n <= NO_BAR ? 0 : n < MOST_CELLS ? n : MOST_CELLS;
    for (int i = 0; i < n; i++)
        cells[i] = i < r->position->step * n / (r->total_steps > 0 ? r->total_steps : 1) ? '=' : ' ';
    char line[400];
    snprintf(line, sizeof line, n > 0 ? "[%s] %s" : "%s%s", cells, numbers);
    printf("\r%-*.*s", columns, columns, line);
    r->in_bar = true;
}

static void print_step(const struct run *r, const struct step_report *s, double rate, double mfu)
{
    const int64_t step = r->position->step;
    if (step % r->config->log_every != 0 && step != r->total_steps && step != 1)
        return;
    printf(
        "step %lld/%lld | loss %.6f | bits/token %.4f | aux %.6f | grad norm %.4f | lr %.3e | tokens %lld | "
        "tok/s %.0f | MFU %.2f%% | expert load max/mean %.2f | rounds %lld | dropped 0 | ETA %.0f s\n",
        (long long)step, (long long)r->total_steps, s->result.loss, s->result.loss / log(2.0), s->result.aux,
        s->result.grad_norm, s->lr, (long long)r->position->tokens, rate, 100 * mfu,
        step_worst_load_ratio(&r->stepper), (long long)s->rounds, r->eta_seconds);
}

void progress_print(struct run *r, const struct step_report *s, double tokens_per_s, double mfu)
{
    if (r->bar)
        print_bar(r, s, tokens_per_s, mfu);
    else
        print_step(r, s, tokens_per_s, mfu);
    if (s->eval_loss >= 0) {
        progress_end_line(r);
        printf("eval after step %lld | loss %.6f nats/token | %.4f bits/byte\n", (long long)r->position->step,
               s->eval_loss, s->eval_loss / log(2.0) / r->bytes_per_token);
    }
    fflush(stdout);
}

static void compare(const char *name, double predicted_us, double measured_s)
{
    printf("  %-9s %10.1f ms %10.1f ms", name, predicted_us / 1e3, 1e3 * measured_s);
    if (measured_s > 1e-4)
        printf(" %+7.1f %%", 100 * (predicted_us / 1e6 / measured_s - 1));
    printf("\n");
}

/* The rank that computes longest, for which predictions are made. Gives all ranks its sums, and what they leave of its steps. */
static int slowest_rank(double sums[COST_CLASSES + 1])
{
    const double mine = sums[COST_COMPUTE], most = comm_max(mine);
    const int rank = comm_ranks() - (int)comm_max(mine >= most ? comm_ranks() - comm_rank() : 0);
    for (int i = 0; i <= COST_CLASSES && rank != comm_rank(); i++)
        sums[i] = 0;
    comm_sum_doubles(sums, COST_CLASSES + 1);
    for (int i = 0; i < COST_CLASSES; i++)
        sums[COST_CLASSES] -= sums[i];
    return rank;
}

void progress_compare(struct run *r)
{
    const struct plan_cost *p = &r->plan.cost;
    const struct measured *m = &r->measured;
    const double n = (double)m->n_steps;
    double each[COST_CLASSES + 1];
    char whose[64] = "";
    memcpy(each, m->class_seconds, sizeof m->class_seconds);
    each[COST_CLASSES] = m->seconds;
    const int rank = m->n_steps ? slowest_rank(each) : 0;
    if (comm_rank() != 0 || r->config->json || m->n_steps == 0)
        return;
    if (comm_ranks() > 1)
        snprintf(whose, sizeof whose, "; of the rank that computes longest, here %d", rank);
    const double rest = each[COST_CLASSES];
    printf("predicted and measured time of a step (mean of %lld after the first%s):\n", (long long)m->n_steps,
           whose);
    compare("step", p->step_us, m->seconds / n);
    compare("compute", p->compute_us, each[COST_COMPUTE] / n);
    compare("exchange", p->exchange_us + p->bubble_us, each[COST_EXCHANGE] / n);
    compare("reduce", p->reduce_us, each[COST_REDUCE] / n);
    compare("optimizer", p->optimizer_us, each[COST_OPTIMIZER] / n);
    if (rest > 0.01 * m->seconds)
        compare("rest", 0, rest / n);
    if (r->plan.expert_parallel > 1)
        printf(
            "  experts: the fullest of a layer had %.2f times the mean of rows (--expert_load %.2f predicts "
            "with it)\n",
            m->expert_load / n, m->expert_load / n);
    if (r->plan.stages > 1)
        printf("  exchange with the bubble of the pipeline: waiting for the other stages\n");
    if (rest > 0.01 * m->seconds)
        printf("  rest: reading batches%s\n",
               r->plan.n_ranks > 1 ? ", waiting for other ranks at the end of a step" : "");
}
