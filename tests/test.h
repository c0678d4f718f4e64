/* test.h - the whole test framework: TEST(name) { ... } registers itself; EXPECT* count failures and go on.
 * Every program of tests/ links test_main.c and prints "name: ok" or the failures, then "N passed, N failed". */
#pragma once
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
typedef void test_function(void);
struct test_case {
    const char *name;
    test_function *run;
    struct test_case *next;
};
void test_register(struct test_case *t);
void test_fail(const char *file, int line, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
void test_skip(const char *fmt, ...)
    __attribute__((format(printf, 1, 2))); /* says why; the test counts as skipped */
bool test_close(const double *got, const double *want, int64_t n, double tolerance, int64_t *worst);
const char *test_dir(void); /* a fresh temporary directory of this program, removed at its end */
#define TEST(name_)                                                                                          \
    static void test_##name_(void);                                                                          \
    __attribute__((constructor)) static void register_##name_(void)                                          \
    {                                                                                                        \
        static struct test_case t = { #name_, test_##name_, 0 };                                             \
        test_register(&t);                                                                                   \
    }                                                                                                        \
    static void test_##name_(void)
#define EXPECT(c)       ((c) ? (void)0 : test_fail(__FILE__, __LINE__, "expected %s", #c))
#define EXPECTF(c, ...) ((c) ? (void)0 : test_fail(__FILE__, __LINE__, __VA_ARGS__))
#define EXPECT_INT(got, want)                                                                                \
    do {                                                                                                     \
        const int64_t got_ = (int64_t)(got), want_ = (int64_t)(want);                                        \
        if (got_ != want_)                                                                                   \
            test_fail(__FILE__, __LINE__, "%s = %lld, expected %lld", #got, (long long)got_,                 \
                      (long long)want_);                                                                     \
    } while (0)
#define EXPECT_TEXT(got, want)                                                                               \
    do {                                                                                                     \
        const char *got_ = (got), *want_ = (want);                                                           \
        if (strcmp(got_, want_) != 0)                                                                        \
            test_fail(__FILE__, __LINE__, "%s = \"%s\", expected \"%s\"", #got, got_, want_);                \
    } while (0)
/* max |got - want| <= tolerance * max |want| */
#define EXPECT_CLOSE(got, want, n, tolerance)                                                                \
    do {                                                                                                     \
        int64_t at_;                                                                                         \
        if (!test_close((got), (want), (n), (tolerance), &at_))                                              \
            test_fail(__FILE__, __LINE__, "%s[%lld] = %.17g, expected %.17g", #got, (long long)at_,          \
                      (got)[at_], (want)[at_]);                                                              \
    } while (0)
