/* device_impl.h - inside device/: sums and moves that exchanges between ranks need (device.h). */
#pragma once
#include "device/device.h"
void device_sum_cpu(const struct device_sum *s);
void device_move_cpu(const struct device_move *m);
void device_sum_cuda(const struct device_sum *s, void *stream);
void device_move_cuda(const struct device_move *m, void *stream);
