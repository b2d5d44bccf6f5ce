/* Moving between rows in memory (one Gaussian after the other) and vectors (one Gaussian per lane). */
#ifndef RECONX_ROWS_H
#define RECONX_ROWS_H

#include "simd.h"

/* Not inlined: each is used many times with its own width. */
#define SHARED static __attribute__((noinline, unused))

/* Load `width` columns of LANES rows, `stride` floats apart; rows from `count` on repeat the last one.
 * `readable` says how many floats may be read from p on. */
SHARED void load_rows(const float *p, int width, int stride, int count, size_t readable, vf *columns) {
    int whole = count == LANES && (size_t)(LANES - 1) * (size_t)stride + (size_t)width + LANES <= readable;
    for (int c = 0; c < width; c += LANES) {
        vf t[LANES];
        if (whole) {
            UNROLL for (int l = 0; l < LANES; l++) t[l] = v_load(p + l * stride + c);
        } else {
            float rows[LANES][LANES] = {{0}};
            for (int l = 0; l < LANES; l++) {
                const float *row = p + (l < count ? l : count - 1) * stride + c;
                memcpy(rows[l], row, (size_t)(width - c < LANES ? width - c : LANES) * sizeof *row);
            }
            UNROLL for (int l = 0; l < LANES; l++) t[l] = v_load(rows[l]);
        }
        v_transpose(t);
        if (width - c >= LANES) {
            UNROLL for (int k = 0; k < LANES; k++) columns[c + k] = t[k];
        } else {
            for (int k = 0; k < LANES && c + k < width; k++) columns[c + k] = t[k];
        }
    }
}

/* Store columns as the first `count` of LANES rows of `width` floats (48 at most), one after the other; add to what is
 * there if asked. */
SHARED void store_rows(float *p, int width, int count, int add, const vf *columns) {
    float rows[48 * LANES + LANES] __attribute__((aligned(64)));
    for (int c = 0; c < width; c += LANES) {
        int part = width - c < LANES ? width - c : LANES;
        vf t[LANES];
        UNROLL for (int k = 0; k < LANES; k++) t[k] = columns[c + (k < part ? k : 0)];
        v_transpose(t);
        if (c == 0 && part < LANES) { /* each row runs into the next, which then overwrites that */
            UNROLL for (int l = 0; l < LANES; l++) v_store(rows + l * width, t[l]);
        } else if (part == LANES) {
            UNROLL for (int l = 0; l < LANES; l++) v_store(rows + l * width + c, t[l]);
        } else {
            for (int l = 0; l < LANES; l++) {
                for (int k = 0; k < part; k++) rows[l * width + c + k] = t[l][k];
            }
        }
    }
    int i = 0, total = width * count;
    for (; i + LANES <= total; i += LANES) v_store(p + i, add ? v_load(p + i) + v_load(rows + i) : v_load(rows + i));
    for (; i < total; i++) p[i] = add ? p[i] + rows[i] : rows[i];
}

/* Whether all of p[0 .. n) are finite: an exponent of all ones means NaN or infinity. */
INLINE int all_finite(const float *p, size_t n) {
    const vi ones = v_seti(0x7f800000);
    vi found = v_seti(0);
    size_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        found |= v_selecti(v_lei(ones, (vi)v_load(p + i) & ones), ones, v_seti(0));
    }
    int bad = 0;
    for (int l = 0; l < LANES; l++) bad |= found[l];
    for (; i < n; i++) bad |= !isfinite(p[i]);
    return !bad;
}

#endif
