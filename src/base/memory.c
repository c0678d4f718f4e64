/* memory.c - see memory.h. */
#include "base/memory.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* The number behind `key` in a small file ("" = the file begins with it); -1 = there is none. */
static int64_t number_in(const char *path, const char *key)
{
    char line[256];
    int64_t found = -1;
    FILE *f = fopen(path, "r");
    while (f && found < 0 && fgets(line, sizeof line, f)) {
        const char *digits = line + strlen(key);
        if (strncmp(line, key, strlen(key)) == 0 && strspn(digits, " 0123456789") > 0)
            found = strtoll(digits, NULL, 10);
    }
    if (f)
        fclose(f);
    return found;
}

/* Memory of files counts as free: it is given up when it is needed. */
static int64_t left_of_group(void)
{
    const int64_t limit = number_in("/sys/fs/cgroup/memory.max", ""),
                  used = number_in("/sys/fs/cgroup/memory.current", ""),
                  files = number_in("/sys/fs/cgroup/memory.stat", "file ");
    if (limit < 0 || used < 0)
        return INT64_MAX;
    const int64_t left = limit - used + (files > 0 ? files : 0);
    return left > 0 ? left : 0;
}

int64_t memory_available(void)
{
    const int64_t kib = number_in("/proc/meminfo", "MemAvailable:"), group = left_of_group();
    const int64_t all =
        kib >= 0 ? kib * 1024 : (int64_t)sysconf(_SC_AVPHYS_PAGES) * (int64_t)sysconf(_SC_PAGESIZE);
    return all < group ? all : group;
}
