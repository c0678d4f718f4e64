/* optim.c - see optim.h. */
#include "run/optim.h"
#include "config/config.h"
#include <math.h>

double optim_lr(const struct lr_options *o, int64_t step)
{
    if (step < o->warmup_steps)
        return o->lr * (double)step / (double)o->warmup_steps;
    if (o->schedule == LR_CONSTANT || o->total_steps <= o->warmup_steps)
        return o->lr;
    double done = (double)(step - o->warmup_steps) / (double)(o->total_steps - o->warmup_steps);
    done = done > 1 ? 1 : done;
    const double left = o->schedule == LR_LINEAR ? 1 - done : 0.5 * (1 + cos(3.14159265358979323846 * done));
    return o->min_lr + (o->lr - o->min_lr) * left;
}
