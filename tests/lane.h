/* lane.h - a lane of the stand-in for a device (pass_test.c), as the stand-in for NCCL (e2e/nccl_stand_in.c) sees it: what a
 * stream is to them. */
#pragma once
struct lane {
    /* work(argument) runs behind all that was put in this lane before, and beside the other lanes. */
    void (*put)(struct lane *lane, void (*work)(void *argument), void *argument);
};
