/* Plane sweep: (1 - ZNCC) / 2 between a reference image and its sources, warped to every inverse depth.
 *
 * The torch twin, pointmap/sweep.py and matching.py, says what is computed. Here a group of planes on a band of rows is
 * one piece of work. Inside, two rows of output at a time: warp the source's rows that their windows touch (each once,
 * kept in a ring), sum the windows down, then across, and keep the two lowest costs over the sources.
 */
#include <omp.h>

#include "simd.h"
#include "stereo.h"

#define BAND 32    /* rows; even */
#define MARGIN 16  /* zeros on both sides of a row of sums; at least half the widest window */
#define MAX_WINDOW 31
#define NEAREST_RATIO 1e-6f /* source depth over reference depth; below it the point is behind the source */

/* Mirrored by ctypes. */
typedef struct {
    double at_infinity[9];        /* K_s R K_r^-1, row-major */
    double per_inverse_depth[3];  /* K_s t */
    const float *image;           /* [height + 1, width + 1] grey values, the last row and column repeated */
    int32_t width, height;
} reconx_sweep_source;

/* Mirrored by ctypes. */
typedef struct {
    int32_t width, height, stride;   /* of the reference; a padded row has stride floats, a multiple of PLANE_GROUP */
    int32_t planes, padded_planes;   /* of the volume */
    int32_t first_plane, last_plane; /* which to compute: from a multiple of PLANE_GROUP up to, without, the last */
    int32_t sources, window, keep, per_pixel, threads;
    float noise_variance, unseen_cost;
    const float *reference;      /* [4, H, stride]: centred, mean, variance + noise, weight; zeros beyond the width */
    const float *inverse_depths; /* [planes], or [planes, H, W] where per_pixel */
    const reconx_sweep_source *source;
    float *volume;               /* [H, W, padded_planes] */
} reconx_sweep_call;

/* Memory of one thread. */
typedef struct {
    const reconx_sweep_call *call;
    int ring;     /* rows of warped image kept per source */
    float *warped; /* [sources, ring, stride] grey values; zeros beyond the width */
    float *blind;  /* [sources, ring, stride] 0 where the source sees the point, else infinity */
    float *zeros;  /* [stride] */
    float *sums;   /* [2 rows, 3, MARGIN + stride + MARGIN] of values, squares, products with the reference */
    float *best;   /* [2 rows, 2, stride] lowest and second lowest cost */
    float *slab;   /* [PLANE_GROUP, BAND, stride] */
} worker;

INLINE vf lane_numbers(void) {
    vf v;
    UNROLL for (int l = 0; l < LANES; l++) v[l] = (float)l;
    return v;
}

/* One row of the source as the reference would see it at inverse depths w[0] everywhere or w[x]; border values outside. */
static void warp_row(const worker *k, const reconx_sweep_source *s, const float *w, int y, float *warped, float *blind) {
    const reconx_sweep_call *c = k->call;
    const int pitch = s->width + 1;
    const vf last_x = v_set((float)(s->width - 1)), last_y = v_set((float)(s->height - 1));
    vf base[3], step[3], slope[3];
    for (int i = 0; i < 3; i++) {
        base[i] = v_set((float)(s->at_infinity[3 * i + 1] * y + s->at_infinity[3 * i + 2]));
        step[i] = v_set((float)s->at_infinity[3 * i]), slope[i] = v_set((float)s->per_inverse_depth[i]);
    }
    for (int x = 0; x < c->width; x += LANES) {
        vf column = lane_numbers() + (float)x, n[3];
        vf inverse = c->per_pixel ? v_load_part(w + x, c->width - x) : v_set(*w);
        UNROLL for (int i = 0; i < 3; i++) n[i] = v_fma(inverse, slope[i], v_fma(column, step[i], base[i]));
        vf scale = v_reciprocal(v_max(n[2], v_set(NEAREST_RATIO))), u = n[0] * scale, v = n[1] * scale;
        vm seen = m_and(v_lt(v_set(NEAREST_RATIO), n[2]), m_and(v_le(v_set(-0.5f), u), v_le(v_set(-0.5f), v)));
        seen = m_and(seen, m_and(v_le(u, last_x + 0.5f), v_le(v, last_y + 0.5f)));
        u = v_min(v_max(u, v_set(0)), last_x), v = v_min(v_max(v, v_set(0)), last_y); /* NaN becomes 0 */
        vi left = __builtin_convertvector(u, vi), top = __builtin_convertvector(v, vi), at = top * pitch + left;
        u -= __builtin_convertvector(left, vf), v -= __builtin_convertvector(top, vf);
        vf a, b, c0, d;
        v_gather_pairs(s->image, at, &a, &b);
        v_gather_pairs(s->image + pitch, at, &c0, &d);
        vf above = v_fma(u, b - a, a), below = v_fma(u, d - c0, c0), value = v_fma(v, below - above, above);
        v_store(warped + x, v_keep(v_lt(column, v_set((float)c->width)), value));
        v_store(blind + x, v_select(seen, v_set(0), v_set(INFINITY)));
    }
}

static float *sum_row(const worker *k, int row, int which) {
    return k->sums + (size_t)(3 * row + which) * (size_t)(k->call->stride + 2 * MARGIN) + MARGIN;
}

/* Sums down the windows of rows y and y + 1, which share all rows but the first and the last. */
INLINE void sum_down(const worker *k, int source, int y, int window) {
    const reconx_sweep_call *c = k->call;
    const size_t stride = (size_t)c->stride;
    const int half = window / 2;
    const float *warped[MAX_WINDOW + 1], *reference[MAX_WINDOW + 1];
    float *out[2][3];
    for (int i = 0; i <= window; i++) {
        int row = y - half + i, inside = row >= 0 && row < c->height;
        warped[i] = inside ? k->warped + (size_t)(source * k->ring + row % k->ring) * stride : k->zeros;
        reference[i] = inside ? c->reference + (size_t)row * stride : k->zeros;
    }
    for (int i = 0; i < 6; i++) out[i / 3][i % 3] = sum_row(k, i / 3, i % 3);
    for (int x = 0; x < c->width; x += LANES) {
        vf w = v_load(warped[1] + x), s[3] = {w, w * w, w * v_load(reference[1] + x)};
        for (int i = 2; i < window; i++) {
            w = v_load(warped[i] + x);
            s[0] += w, s[1] = v_fma(w, w, s[1]), s[2] = v_fma(w, v_load(reference[i] + x), s[2]);
        }
        UNROLL for (int row = 0; row < 2; row++) {
            int i = row ? window : 0;
            w = v_load(warped[i] + x);
            v_store(out[row][0] + x, s[0] + w);
            v_store(out[row][1] + x, v_fma(w, w, s[1]));
            v_store(out[row][2] + x, v_fma(w, v_load(reference[i] + x), s[2]));
        }
    }
}

/* Sums across the windows of row y, their correlation, and what it does to the lowest costs. */
INLINE void compare_row(const worker *k, int source, int y, int row, int window) {
    const reconx_sweep_call *c = k->call;
    const size_t stride = (size_t)c->stride, image = stride * (size_t)c->height, at = (size_t)y * stride;
    const float *blind = k->blind + (size_t)(source * k->ring + y % k->ring) * stride, *sums[3];
    const float *mean = c->reference + image + at, *variance = mean + image, *weight = variance + image;
    float *first = k->best + (size_t)(2 * row) * stride, *second = first + stride;
    for (int i = 0; i < 3; i++) sums[i] = sum_row(k, row, i) - window / 2;
    for (int x = 0; x < c->width; x += LANES) {
        vf hidden = v_load(blind + x);
        if (!m_any(v_lt(hidden, v_set(1)))) continue;
        vf s[3], share = v_load(weight + x);
        UNROLL for (int i = 0; i < 3; i++) s[i] = v_load(sums[i] + x);
        for (int t = 1; t < window; t++) {
            UNROLL for (int i = 0; i < 3; i++) s[i] += v_load(sums[i] + x + t);
        }
        vf m = s[0] * share, spread = v_max(v_fma(s[1], share, -m * m), v_set(0)) + c->noise_variance;
        vf together = v_fma(s[2], share, -m * v_load(mean + x));
        vf zncc = together * v_inverse_sqrt(v_max(spread * v_load(variance + x), v_set(1e-30f)));
        vf cost = v_min(v_max(v_fma(v_set(-0.5f), zncc, v_set(0.5f)), v_set(0)), v_set(1)) + hidden;
        vf lowest = v_load(first + x);
        v_store(second + x, v_min(v_load(second + x), v_max(lowest, cost)));
        v_store(first + x, v_min(lowest, cost));
    }
}

static void match_rows(const worker *k, int source, int y, int rows) {
    /* The usual window with its loops unrolled, then any other. */
    if (k->call->window == 5) {
        sum_down(k, source, y, 5);
        for (int row = 0; row < rows; row++) compare_row(k, source, y + row, row, 5);
    } else {
        sum_down(k, source, y, k->call->window);
        for (int row = 0; row < rows; row++) compare_row(k, source, y + row, row, k->call->window);
    }
}

/* Mean of the lowest costs of one row over the sources. */
static void finish_row(const worker *k, int row, float *out) {
    const reconx_sweep_call *c = k->call;
    const float *first = k->best + (size_t)(2 * row) * (size_t)c->stride, *second = first + c->stride;
    const int two = c->keep > 1 && c->sources > 1;
    for (int x = 0; x < c->width; x += LANES) {
        vf a = v_load(first + x), b = v_load(second + x);
        a = v_select(v_lt(a, v_set(INFINITY)), a, v_set(c->unseen_cost));
        b = v_select(v_lt(b, v_set(INFINITY)), b, a);
        v_store(out + x, two ? 0.5f * (a + b) : a);
    }
}

/* One plane on rows y0 to y1: costs [rows, stride]. */
static void sweep_plane(const worker *k, int plane, int y0, int y1, float *out) {
    const reconx_sweep_call *c = k->call;
    const size_t stride = (size_t)c->stride;
    const int half = c->window / 2;
    int next = y0 > half ? y0 - half : 0; /* row to warp */
    for (int y = y0; y < y1; y += 2) {
        int rows = y + 1 < y1 ? 2 : 1, end = y + 2 + half < c->height ? y + 2 + half : c->height;
        for (size_t i = 0; i < 4 * stride; i++) k->best[i] = INFINITY;
        for (int s = 0; s < c->sources; s++) {
            for (int r = next; r < end; r++) {
                const float *w = c->inverse_depths + plane;
                if (c->per_pixel) w = c->inverse_depths + ((size_t)plane * (size_t)c->height + (size_t)r) * (size_t)c->width;
                size_t at = (size_t)(s * k->ring + r % k->ring) * stride;
                warp_row(k, c->source + s, w, r, k->warped + at, k->blind + at);
            }
            match_rows(k, s, y, rows);
        }
        next = end > next ? end : next;
        for (int row = 0; row < rows; row++) finish_row(k, row, out + (size_t)(y - y0 + row) * stride);
    }
}

/* Costs of a group of planes, [PLANE_GROUP, BAND, stride], into the volume: planes become the fastest index. */
static void store_group(const worker *k, int plane, int y0, int y1) {
    const reconx_sweep_call *c = k->call;
    const size_t stride = (size_t)c->stride, padded = (size_t)c->padded_planes;
    for (int y = y0; y < y1; y++) {
        for (int x = 0; x < c->width; x += LANES) {
            float *out = c->volume + ((size_t)y * (size_t)c->width + (size_t)x) * padded + plane;
            int count = c->width - x < LANES ? c->width - x : LANES;
            for (int p = 0; p < PLANE_GROUP; p += LANES) {
                vf t[LANES];
                UNROLL for (int l = 0; l < LANES; l++) {
                    t[l] = v_load(k->slab + ((size_t)(p + l) * BAND + (size_t)(y - y0)) * stride + x);
                }
                v_transpose(t);
                for (int l = 0; l < count; l++) v_store(out + (size_t)l * padded + p, t[l]);
            }
        }
    }
}

static void sweep_group(const worker *k, int plane, int band) {
    const reconx_sweep_call *c = k->call;
    const size_t size = (size_t)BAND * (size_t)c->stride;
    int y0 = band * BAND, y1 = y0 + BAND < c->height ? y0 + BAND : c->height;
    for (int p = 0; p < PLANE_GROUP; p++) {
        float *out = k->slab + (size_t)p * size;
        if (plane + p < c->planes) {
            sweep_plane(k, plane + p, y0, y1, out);
        } else {
            for (size_t i = 0; i < size; i++) out[i] = INFINITY;
        }
    }
    store_group(k, plane, y0, y1);
}

static float *reserve(const reconx_sweep_call *c, worker *k) {
    const size_t stride = (size_t)c->stride;
    k->call = c, k->ring = c->window + 1;
    size_t ring = (size_t)c->sources * (size_t)k->ring * stride, sums = 6 * (stride + 2 * MARGIN);
    size_t total = 2 * ring + stride + sums + 4 * stride + (size_t)PLANE_GROUP * BAND * stride;
    float *p = float_array(total);
    if (p == NULL) return NULL;
    k->warped = p, k->blind = p + ring, k->zeros = k->blind + ring, k->sums = k->zeros + stride;
    k->best = k->sums + sums, k->slab = k->best + 4 * stride;
    memset(p, 0, (size_t)(k->slab - p) * sizeof(float)); /* what is beyond the width stays zero */
    memset(k->slab, 0, (size_t)PLANE_GROUP * BAND * stride * sizeof(float));
    return p;
}

EXPORT int reconx_sweep(const reconx_sweep_call *call) {
    const int bands = (call->height + BAND - 1) / BAND;
    const int groups = (call->last_plane - call->first_plane + PLANE_GROUP - 1) / PLANE_GROUP;
    int failed = 0;
#pragma omp parallel num_threads(call->threads) reduction(| : failed)
    {
        worker k;
        float *memory = reserve(call, &k);
        failed = memory == NULL;
#pragma omp for schedule(dynamic)
        for (int i = 0; i < groups * bands; i++) {
            if (memory) sweep_group(&k, call->first_plane + i / bands * PLANE_GROUP, i % bands);
        }
        free(memory);
    }
    return failed ? STEREO_MEMORY : STEREO_OK;
}
