/* fit.h - inside plan/: measures a candidate of a search, with as little recomputation as fits, and with lodgers where they pay. */
#pragma once
#include "plan/floor.h"
#include "plan/search.h"
/* One search, or the part of it that a thread has. */
struct space {
    const struct plan_limits *l;
    int64_t experts, token_copies;
    const struct plan_judge *judge;
    const struct search_result *before; /* what was found elsewhere */
    struct search_result *out;
    const struct floors *floors; /* of what was tried before */
    struct floors *noted;
    double floor_us;   /* of candidates that differ in ZeRO only: floor_of() */
    bool for_smallest; /* nothing fits: find what needs least */
    bool careful;      /* nothing is taken to fit before its offsets say so */
};

extern const struct plan_bar fit_no_bar; /* nothing is beyond it */
/* Can nothing that takes so long be kept any more? */
bool fit_too_slow(const struct space *s, double us);
/* Can what takes so long not be the best plan? */
bool fit_cannot_win(const struct space *s, double us);
/* Does a measured candidate fit? So does what is too slow: its memory is not known. */
bool fit_has_room(const struct space *s, const struct plan *p);
double fit_stages_floor(const struct space *s, const struct floors *f, const struct plan *p);
/* false: it cannot be built; err says why. */
bool fit_measure(struct space *s, struct plan *p, struct err *e);
/* Only where nothing fits: the least memory of all, into out->smallest. */
bool fit_smallest(const struct space *s, struct plan *p, int64_t least, struct err *e);
