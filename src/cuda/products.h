/* products.h - what was chosen for each shape of dense product (gemm.cuh), for programs to print. */
#pragma once
#include <stdbool.h>
#include <stdint.h>
struct product {
    int64_t m, n, k, calls;
    bool ta, tb;                 /* the operand is transposed */
    bool wide, add;              /* float32 output; added to what is there */
    int candidates, same;        /* algorithms that the library proposed; tried, with the bits of the first */
    int chosen;                  /* 0 = the first */
    double first_us, fastest_us; /* medians of the first and of the chosen one; 0 = not measured */
};
/* Fills up to `capacity` of out and returns how many shapes there are. NULL in a program that was built without
 * nvcc. */
int cuda_products(struct product *out, int capacity) __attribute__((weak));
