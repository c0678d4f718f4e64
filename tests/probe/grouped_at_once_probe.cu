/* grouped_at_once_probe.cu - grouped_probe.cu with results that leave at once (cuda/grouped_put.cuh). */
#define GROUPED_LATER 0
#include "tests/probe/grouped_probe.cu"
