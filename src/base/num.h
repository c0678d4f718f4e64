/* num.h - dtypes and sums with a fixed order. */
#pragma once
#include <stddef.h>
#include <stdint.h>
enum dtype { F32, BF16, F16, F64, I32, I64, U16, U8, DTYPES };
/* How the optimizer's states are stored beside bfloat16 weights (ops/adamw.h says exactly what they are). */
enum master { MASTER_NONE, MASTER_SPLIT, MASTER_FLOAT, MASTERS };
enum moments { MOMENTS_FLOAT, MOMENTS_BF16, MOMENTS_BYTE, MOMENT_FORMS };
size_t num_dtype_bytes(enum dtype t);
const char *num_dtype_name(enum dtype t); /* "F32": the names of safetensors */
int num_dtype_from(const char *name);     /* -1 when unknown */
float num_from_bf16(uint16_t x);
uint16_t num_to_bf16(float x); /* round to nearest even; NaN stays NaN */
float num_from_f16(uint16_t x);
uint16_t num_to_f16(float x);
/* n elements of dtype t (F32, BF16, F16) to and from float; byte-exact round trip. */
void num_to_float(float *out, const void *in, enum dtype t, int64_t n);
void num_from_float(void *out, const float *in, enum dtype t, int64_t n);
/* Sums with 16 partial sums in fixed order: vectorizes without -ffast-math, same bits everywhere. */
float dot(const float *x, const float *y, int64_t n);
double num_sum_squares(const float *x, int64_t n);      /* accumulates in float64 */
int64_t num_first_nonfinite(const float *x, int64_t n); /* -1 = all finite */
