/* jobs.h - a pipeline: one producer cuts work into jobs, workers run them in any order, one consumer takes them back
 * in the order of production. At most n_slots jobs exist at once, so memory is bounded. */
#pragma once
#include <stdbool.h>
#include <stdint.h>
struct jobs;
typedef void jobs_work(void *job, void *worker);
struct jobs *jobs_new(int n_slots, void *const *slots, int n_workers, void *const *workers, jobs_work *f);
void *jobs_empty(struct jobs *j); /* producer: an unused job; waits for the consumer. NULL: stopped */
void jobs_submit(struct jobs *j, void *job);
void jobs_finish(struct jobs *j); /* producer: no more */
void *jobs_next(struct jobs *j);  /* consumer: the next finished job in order; NULL at the end */
void jobs_release(struct jobs *j, void *job);
void jobs_stop(struct jobs *j); /* consumer: give up; jobs_empty and jobs_next return NULL */
void jobs_free(struct jobs *j); /* joins the workers; the producer must have ended */
