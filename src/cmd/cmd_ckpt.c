/* cmd_ckpt.c - merge, export, verify. */
#include "ckpt/ckpt.h"
#include "cmd/cmd.h"
#include <stdio.h>

bool cmd_merge(struct arena *a, const struct config *c, struct err *e)
{
    const char *from = ckpt_find(a, c->ckpt_dir, e);
    if (!from || !ckpt_merge(from, c->output_fname, c->max_shard_size, e))
        return false;
    printf("merged %s into %s\n", from, c->output_fname);
    return true;
}

bool cmd_export(struct arena *a, const struct config *c, struct err *e)
{
    static const int dtypes[] = {
        [DTYPE_KEEP] = -1, [DTYPE_FLOAT32] = F32, [DTYPE_BFLOAT16] = BF16, [DTYPE_FLOAT16] = F16
    };
    const char *from = ckpt_find(a, c->ckpt_dir, e);
    if (!from || !ckpt_export(from, c->output, dtypes[c->dtype], c->max_shard_size, e))
        return false;
    printf("exported %s to %s\n", from, c->output);
    return true;
}

static void print_problem(const char *line)
{
    printf("%s\n", line);
}

bool cmd_verify(struct arena *a, const struct config *c, struct err *e)
{
    const char *dir = ckpt_find(a, c->path, e);
    if (!dir || !ckpt_verify(dir, print_problem, e))
        return false;
    printf("%s: complete, all checksums match\n", dir);
    return true;
}
