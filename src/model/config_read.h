/* config_read.h - what the readers of config.json share, whatever the family. */
#pragma once
#include "base/json.h"
#include "model/model_config.h"
bool config_listed(const char *const *names, size_t n, const char *key);
bool config_is_given(jval object, const char *key); /* there and not null */
/* Every field is one of `honoured`, or one that cannot change what is computed in any family. */
bool config_check_known(const struct json *j, const char *const *honoured, size_t n, struct err *e);
/* Fields that must be absent, null or hold the one value that the code implements. */
bool config_only_false(const struct json *j, const char *key, struct err *e);
bool config_only_int(const struct json *j, const char *key, int64_t only, const char *expected,
                     struct err *e);
bool config_no_dropout(const struct json *j, struct err *e);
bool config_only_silu(const struct json *j, struct err *e); /* must be given */
/* vocab_size and the other fields that every family has. */
bool config_read_sizes(const struct json *j, struct model_config *m, struct err *e);
bool config_read_theta(const struct json *j, jval object, struct model_config *m, struct err *e);
/* bos, eos, stored */
bool config_read_ids(const struct json *j, struct model_config *m, struct err *e);
