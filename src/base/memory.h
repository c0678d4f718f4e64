/* memory.h - how much memory the machine has left. */
#pragma once
#include <stdint.h>
/* Bytes that could be allocated now without swapping: what the kernel says, and what the control group allows. */
int64_t memory_available(void);
