/* cmd.h - the commands. Each gets its parsed options and returns false with an err; main prints it. */
#pragma once
#include "config/config.h"
typedef bool command(struct arena *a, const struct config *c, struct err *e);
command cmd_prepare, cmd_tokenize, cmd_tokenizer_train, cmd_inspect, cmd_verify;           /* cmd_data.c */
command cmd_init, cmd_compile, cmd_simulate, cmd_train, cmd_eval, cmd_generate, cmd_check; /* cmd_model.c */
command cmd_bench_step, cmd_bench_ops, cmd_bench_grouped, cmd_profile;                     /* cmd_bench.c */
command cmd_merge, cmd_export, cmd_inspect_model, cmd_verify_model;                        /* cmd_ckpt.c */
/* cmd_model.c: finds the other ranks, and starts this one's threads: its share of the machine's cores, or --threads. */
bool cmd_start_ranks(const struct config *c, struct err *e);
