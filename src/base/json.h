/* json.h - reading JSON trees; json.c is the only file that includes jansson.h. Duplicate keys are errors.
 * A tree lives until json_free(). Errors read "PATH:LINE: KEY: what was expected, what was found".
 * Strings returned live as long as the tree. Writing JSON is done with str.h (str_add_json), not here. */
#pragma once
#include "base/err.h"
#include <stddef.h>
#include <stdint.h>
struct json;                           /* a document: root value, path for messages, text for line numbers */
typedef const struct json_value *jval; /* a value inside a document; NULL = absent */
struct json *json_parse(const char *text, size_t bytes, const char *path, struct err *e); /* NULL on error */
struct json *json_read(const char *path, size_t max_bytes, struct err *e);                /* NULL on error */
void json_free(struct json *j);
jval json_root(const struct json *j);
enum json_type {
    JSON_NULL,
    JSON_BOOL,
    JSON_INT,
    JSON_REAL,
    JSON_STRING,
    JSON_ARRAY,
    JSON_OBJECT,
    JSON_ABSENT
};
enum json_type json_type(jval v); /* NULL gives JSON_ABSENT */
const char *json_type_name(enum json_type t);
/* Objects and arrays. json_get of a missing key gives NULL. Order of keys is that of the file. */
jval json_get(jval object, const char *key);
int64_t json_count(jval v); /* entries of an object or array; 0 otherwise */
jval json_at(jval array, int64_t i);
jval json_entry(jval object, int64_t i, const char **key); /* i-th key; O(1) amortised when i ascends */
/* Unchecked access: CHECKs the type. */
bool json_bool(jval v);
int64_t json_int(jval v);
double json_number(jval v);                     /* integer or real */
const char *json_string(jval v, size_t *bytes); /* bytes may be NULL; the string may hold NUL bytes */
/* Checked access for readers of outside input: false + err text with path, line and key when the key is
 * missing or has another type. json_want_int also checks lo <= *out <= hi. */
bool json_want_version(const struct json *j, int version,
                       struct err *e); /* the root: an object of this version */
bool json_want_object(const struct json *j, jval object, const char *key, jval *out, struct err *e);
bool json_want_array(const struct json *j, jval object, const char *key, jval *out, struct err *e);
bool json_want_int(const struct json *j, jval object, const char *key, int64_t lo, int64_t hi, int64_t *out,
                   struct err *e);
bool json_want_number(const struct json *j, jval object, const char *key, double *out, struct err *e);
bool json_want_bool(const struct json *j, jval object, const char *key, bool *out, struct err *e);
bool json_want_string(const struct json *j, jval object, const char *key, const char **out, struct err *e);
/* err_set with "PATH:LINE: KEY: " in front; the line is that of the key inside `object` (0 = unknown). */
bool json_err(const struct json *j, jval object, const char *key, struct err *e, const char *fmt, ...)
    __attribute__((format(printf, 5, 6)));
