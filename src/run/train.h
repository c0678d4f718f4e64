/* train.h - the training loop of one run: plan, steps, evaluation, checkpoints, resume. A run lives in
 * <output_dir>/<name>/: config.json of the options, plan.json, metrics.jsonl, checkpoints/step-NNNNNNNN, last. */
#pragma once
#include "config/config.h"
#include "run/setup.h"
#include "run/step.h"
#include <stdio.h>
struct measured { /* steps after the first one of this start */
    int64_t n_steps;
    double seconds, class_seconds[COST_CLASSES]; /* sums */
    double expert_load;                          /* a sum: of a step, the mean of the layers' */
};
struct run {
    struct arena *arena;
    const struct config *config;
    struct setup setup;
    struct dataset data, eval_data; /* the same unless --eval_dataset_path */
    struct plan plan;
    char plan_hash[17];
    struct engine engine;
    struct batches batches, eval_batches;
    struct stepper stepper;
    struct position *position;
    const char *directory, *resumed_from; /* NULL = started anew */
    const char *how;                      /* where the weights came from */
    int64_t eval_begin, eval_end, total_steps, steps_per_epoch;
    double flops_per_token, bytes_per_token; /* bytes of text per token of the evaluated data */
    struct ckpt_holding *holdings;
    enum dtype *stored;
    struct saver *saver;
    FILE *metrics;
    bool bar, in_bar; /* progress bar instead of one line per step; its line has no end yet */
    double eta_seconds;
    struct measured measured;
    int64_t outside_bytes[2]; /* exec_outside() at the start, after the first step (0 = not yet) */
};
/* Limits for the planner from the options; ranks: those of the run (0: --runtime_ngpus or this MPI run's). */
bool train_limits(const struct config *c, struct plan_limits *l, struct err *e);
/* The plan of a run: read from --plan, or searched. The same text on every rank. */
bool train_plan(const struct setup *s, const struct config *c, int64_t sequence, struct plan *out,
                struct search_result *found, struct err *e);
/* Collective. Errors of input are found on rank 0 before anything is written; false comes with the same err on
 * all ranks. What only one rank can see stops all of them at once (die_err). */
bool train_run(struct arena *a, const struct config *c, struct err *e);

/* run_dir.c: what a run writes. Collective except run_log. */
const char *run_directory(const struct run *r);        /* <output_dir>/<name>, local */
bool run_open_directory(struct run *r, struct err *e); /* rank 0; refuses another run's directory */
bool run_open_metrics(struct run *r, struct err *e);   /* after run_resume: continues the file */
bool run_resume(struct run *r, struct err *e);         /* weights, moments and position from resumed_from */
struct step_report {
    struct step_result result;
    double lr, seconds, eval_loss; /* eval_loss < 0: none at this step */
    double save_wait,
        save_write; /* seconds, since the last report: waiting for checkpoints; writing those published */
    double times[COST_CLASSES];
    int64_t rounds;
    int64_t sent_copies, sent_rows; /* exec.h */
};
void run_log(struct run *r, const struct step_report *s); /* rank 0: terminal line and metrics.jsonl */

/* progress.c: what rank 0 prints for a step; nothing on other ranks, which are never in a bar. */
void progress_open(struct run *r); /* chooses bar or lines */
void progress_print(struct run *r, const struct step_report *s, double tokens_per_s, double mfu);
void progress_compare(struct run *r);  /* at the end, collective: predicted and measured times of a step */
void progress_end_line(struct run *r); /* before anything else is printed */
