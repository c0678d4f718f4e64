/* rope.c - frequencies of rotary positions, and the two ways to stretch them over longer contexts. */
#include "model/model_config.h"
#include <math.h>

static const double two_pi = 6.283185307179586476925286766559;

double model_yarn_mscale(double factor, double mscale)
{
    return factor <= 1 ? 1 : 0.1 * mscale * log(factor) + 1;
}

/* Dimension whose wavelength fits `rotations` times into the original context. */
static double yarn_dim(const struct model_config *m, double rotations)
{
    return (double)m->rope_width * log((double)m->rope.original_positions / (rotations * two_pi)) /
           (2 * log(m->rope_theta));
}

/* Pairs that turn less than low_factor times in the original context turn `factor` times slower, those of more than
 * high_factor turns stay, those between are mixed. */
static void stretch_llama3(const struct rope_scaling *r, double *inv_freq, int64_t half)
{
    for (int64_t i = 0; i < half; i++) {
        const double turns = (double)r->original_positions * inv_freq[i] / two_pi;
        const double kept = fmin(fmax((turns - r->low_factor) / (r->high_factor - r->low_factor), 0), 1);
        inv_freq[i] *= kept + (1 - kept) / r->factor;
    }
}

static void stretch_yarn(const struct model_config *m, double *inv_freq, int64_t half)
{
    const double low = fmax(floor(yarn_dim(m, m->rope.beta_fast)), 0);
    double high = fmin(ceil(yarn_dim(m, m->rope.beta_slow)), (double)m->rope_width - 1);
    if (low == high)
        high += 0.001;
    for (int64_t i = 0; i < half; i++) {
        const double ramp = fmin(fmax(((double)i - low) / (high - low), 0), 1);
        inv_freq[i] *= (1 - ramp) + ramp / m->rope.factor;
    }
}

void model_rope_frequencies(const struct model_config *m, double *inv_freq, double *multiplier)
{
    const int64_t half = m->rope_width / 2;
    *multiplier = 1;
    for (int64_t i = 0; i < half; i++)
        inv_freq[i] = pow(m->rope_theta, -2.0 * (double)i / (double)m->rope_width);
    if (m->rope.factor == 0)
        return;
    if (m->rope.low_factor > 0) {
        stretch_llama3(&m->rope, inv_freq, half);
        return;
    }
    *multiplier = model_yarn_mscale(m->rope.factor, m->rope.mscale) /
                  model_yarn_mscale(m->rope.factor, m->rope.mscale_all_dim);
    stretch_yarn(m, inv_freq, half);
}
