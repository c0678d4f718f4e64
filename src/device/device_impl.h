/* device_impl.h - inside device/: sums, moves and memory of peers, which exchanges between ranks need (device.h). */
#pragma once
#include "device/device.h"
void device_sum_cpu(const struct device_sum *s);
void device_move_cpu(const struct device_move *m);
void device_twins_cpu(const struct device_twins *t);
void device_pull_cpu(
    const struct device_pull *p); /* of memory of this process: what the CUDA kernel does, for tests */
void device_twins_cuda(const struct device_twins *t, void *stream);
void device_sum_cuda(const struct device_sum *s, void *stream);
void device_move_cuda(const struct device_move *m, void *stream);
void device_sum_of_cuda(const struct device_sum_of *s, void *stream);
void device_pull_cuda(const struct device_pull *p, void *stream);
bool device_share_cuda(void *memory, struct device_ticket *t);
void *device_attach_cuda(const struct device_ticket *t);
void device_detach_cuda(void *attached);
bool device_see_cuda(void *host, size_t bytes);
void device_meet_cuda(uint32_t *const *word, int n, int mine, uint32_t call, void *stream);
