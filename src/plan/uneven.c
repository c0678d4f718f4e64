/* uneven.c - see uneven.h. */
#include "plan/uneven.h"
#include <math.h>

/* x with Phi(-x) = p, p up to 1/2 (Abramowitz and Stegun, 26.2.23). */
static double normal_above(double p)
{
    const double t = sqrt(-2 * log(p));
    return t - (2.515517 + 0.802853 * t + 0.010328 * t * t) /
                   (1 + 1.432788 * t + 0.189269 * t * t + 0.001308 * t * t * t);
}

/* Of n normal numbers, in deviations. */
static double largest_of(double n)
{
    return normal_above(1 - pow(0.5264, 1 / n));
}

double uneven_ranks(double load, int64_t n_experts, int n_ranks)
{
    if (load <= 1 || n_ranks < 2 || n_experts < 2)
        return 1;
    const double deviation = (load - 1) / largest_of((double)n_experts); /* of an expert, in means */
    return 1 + deviation * sqrt(n_ranks / (double)n_experts) * largest_of(n_ranks);
}
