/* twins_test.c - rows of a token travel once to each member, on the host; collect_cuda_test.c has the same on a device. */
#include "device/device_impl.h"
#include "tests/twins.h"

static const struct twins_case cases[] = {
    { 1, 1, 1, 1, 4, 1, TWINS_ANY },          { 1, 2, 4, 1, 4, 2, TWINS_ANY },
    { 50, 2, 8, 1, 12, 4, TWINS_ANY },        { 33, 6, 16, 8, 20, 2, TWINS_ANY },
    { 40, 6, 24, 8, 8, 3, TWINS_ANY },        { 64, 6, 64, 8, 36, 8, TWINS_ANY },
    { 20, 3, 12, 8, 8, 4, TWINS_ONE_MEMBER }, { 20, 3, 12, 8, 8, 4, TWINS_HALF_EMPTY },
    { 3, 2, 64, 128, 16, 8, TWINS_ANY },
};

TEST(a_row_that_travels_once_comes_to_all_its_places)
{
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        twins_try(&device_cpu, &cases[i], device_pull_cpu);
}

TEST(tokens_of_one_member_travel_once)
{
    const struct twins_case one = { 20, 3, 12, 1, 8, 4, TWINS_ONE_MEMBER };
    EXPECT(twins_try(&device_cpu, &one, device_pull_cpu) == 20 * 4);
}

TEST(experts_on_other_ranks_share_nothing)
{
    const struct twins_case each = { 20, 4, 4, 1, 8, 4, TWINS_ANY }; /* every token has all four */
    EXPECT(twins_try(&device_cpu, &each, device_pull_cpu) == 20 * 4 * 4);
}
