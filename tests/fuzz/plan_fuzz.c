/* plan.json: any bytes give a plan that the checker accepts, or one line. */
#include "base/err.h"
#include "plan/plan.h"
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    struct plan p;
    struct err e = { 0 };
    if (plan_parse((const char *)data, bytes, "plan.json", &p, &e))
        CHECK(plan_check(&p, NULL, &e), "%s", e.text);
    else
        CHECK(e.text[0] && e.code, "no message");
    return 0;
}
