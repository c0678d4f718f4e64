/* bench_products.c - which algorithms dense products were given on CUDA (cuda/products.h). */
#include "device/device.h"
#include "run/bench.h"
#include <stdio.h>

enum { MOST = 1024 };
static struct product list[MOST];

static int read_list(void)
{
    const int n = cuda_products ? cuda_products(list, MOST) : 0;
    return n < MOST ? n : MOST;
}

void bench_products_print(void)
{
    const int n = read_list();
    int compared = 0, changed = 0;
    double first_us = 0, fastest_us = 0;
    for (int i = 0; i < n; i++) {
        compared += list[i].same > 1;
        changed += list[i].chosen > 0;
        first_us += (double)list[i].calls * list[i].first_us;
        fastest_us += (double)list[i].calls * list[i].fastest_us;
    }
    if (n)
        printf("%d shapes of dense products: for %d there was a choice with the same bits, for %d another "
               "algorithm than the library's first is faster (%.1f %% of the time of the %d)\n",
               n, compared, changed, first_us > 0 ? 100 * (1 - fastest_us / first_us) : 0, compared);
}

void bench_products_json(void)
{
    const int n = read_list();
    printf("\"products\": [");
    for (int i = 0; i < n; i++) {
        const struct product *p = &list[i];
        printf("%s{\"m\": %lld, \"n\": %lld, \"k\": %lld, \"operands\": \"%c%c\", \"float32\": %s, \"adds\": "
               "%s, "
               "\"calls\": %lld, \"candidates\": %d, \"same_bits\": %d, \"chosen\": %d, \"first_us\": %.2f, "
               "\"chosen_us\": %.2f}",
               i ? ", " : "", (long long)p->m, (long long)p->n, (long long)p->k, p->ta ? 'T' : 'N',
               p->tb ? 'T' : 'N', p->wide ? "true" : "false", p->add ? "true" : "false", (long long)p->calls,
               p->candidates, p->same, p->chosen, p->first_us, p->fastest_us);
    }
    printf("]");
}
