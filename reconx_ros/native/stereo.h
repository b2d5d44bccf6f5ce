/* Plane-sweep stereo: what sweep.c and sgm.c share.
 *
 * A cost volume is [H, W, P]: the costs of one pixel lie together, P is a multiple of PLANE_GROUP, and what is beyond the
 * number of planes is infinite. Results do not depend on the number of threads: no sum crosses pixels of two threads.
 */
#ifndef RECONX_STEREO_H
#define RECONX_STEREO_H

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#define PLANE_GROUP 16 /* a multiple of every LANES */
#define EXPORT __attribute__((visibility("default")))

enum { STEREO_OK = 0, STEREO_MEMORY = -1 };

/* `count` floats at a multiple of 64 bytes, or NULL. */
static inline float *float_array(size_t count) {
    return aligned_alloc(64, (count * sizeof(float) + 63) / 64 * 64);
}

#endif
