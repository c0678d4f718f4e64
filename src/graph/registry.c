#include "graph/registry.h"
#include <string.h>
#define OP(name) &op_##name,
const struct op *const registry_ops[] = {
#include "ops.def"
};
#undef OP
const int registry_n_ops = (int)(sizeof registry_ops / sizeof registry_ops[0]);

const struct op *registry_find(const char *name)
{
    for (int i = 0; i < registry_n_ops; i++)
        if (strcmp(registry_ops[i]->name, name) == 0)
            return registry_ops[i];
    return 0;
}
