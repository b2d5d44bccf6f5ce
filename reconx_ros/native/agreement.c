/* Cross-view check of depth maps: does another view tell of the same surface?
 *
 * The torch twin is pointmap/consistency.py (Schoenberger et al., ECCV 2016, eq. 13). One row is one piece of work.
 */
#include <omp.h>

#include "simd.h"
#include "stereo.h"

/* Mirrored by ctypes. Poses are row-major [3, 4]. */
typedef struct {
    float other_from_view[12], view_from_other[12];
    float fx, fy, cx, cy;
    const float *depth; /* [height + 1, width + 1] NaN where there is none, the last row and column repeated */
    int32_t width, height;
} reconx_witness;

/* Mirrored by ctypes. */
typedef struct {
    int32_t width, height, witnesses, threads;
    float fx, fy, cx, cy;
    float tolerance;        /* relative difference of depth */
    float max_error_px;     /* of the pixel that comes back */
    const float *depth;     /* [H, W] of the view under test */
    const uint8_t *usable;  /* [H, W] */
    const reconx_witness *witness;
    float *sees, *agrees, *denies; /* [H, W] out: counts */
    float *mean_depth;      /* [H, W] out: mean of the view's own depth and those that agree */
    float *half_tangent;    /* [H, W] out: tan(angle / 2) of the largest triangulation angle with a view that agrees */
} reconx_agreement_call;

typedef struct {
    vf sees, agrees, denies, depth, half_tangent;
} verdict;

typedef struct {
    vf x, y, z;
} point;

INLINE point moved(const float *pose, point p) {
    vf out[3];
    UNROLL for (int i = 0; i < 3; i++) {
        out[i] = v_fma(v_set(pose[4 * i + 1]), p.y, v_fma(v_set(pose[4 * i + 2]), p.z, v_set(pose[4 * i + 3])));
        out[i] = v_fma(v_set(pose[4 * i]), p.x, out[i]);
    }
    return (point){out[0], out[1], out[2]};
}

INLINE vf not_zero(vf z) { return v_select(v_lt(v_abs(z), v_set(1e-9f)), v_set(1e-9f), z); }

/* The other view's depth at a pixel, NaN beside a hole. */
INLINE vf depth_at(const reconx_witness *w, vf u, vf v) {
    const int pitch = w->width + 1;
    u = v_min(v_max(u, v_set(0)), v_set((float)(w->width - 1))), v = v_min(v_max(v, v_set(0)), v_set((float)(w->height - 1)));
    vi left = __builtin_convertvector(u, vi), top = __builtin_convertvector(v, vi), at = top * pitch + left;
    vf a, b, c, d;
    v_gather_pairs(w->depth, at, &a, &b);
    v_gather_pairs(w->depth + pitch, at, &c, &d);
    u -= __builtin_convertvector(left, vf), v -= __builtin_convertvector(top, vf);
    vf above = v_fma(u, b - a, a), below = v_fma(u, d - c, c);
    return v_fma(v, below - above, above);
}

/* tan(angle / 2) at a point between the rays to the view and to the witness. */
INLINE vf half_tangent_at(point p, const float *view_from_other) {
    point a = {-p.x, -p.y, -p.z}, b = {view_from_other[3] - p.x, view_from_other[7] - p.y, view_from_other[11] - p.z};
    vf x = a.y * b.z - a.z * b.y, y = a.z * b.x - a.x * b.z, z = a.x * b.y - a.y * b.x;
    vf dot = a.x * b.x + a.y * b.y + a.z * b.z, cross = v_sqrt(x * x + y * y + z * z);
    vf lengths = v_sqrt((a.x * a.x + a.y * a.y + a.z * a.z) * (b.x * b.x + b.y * b.y + b.z * b.z));
    return cross / v_max(lengths + dot, v_set(1e-30f));
}

/* Send points to a witness's surface and back. */
INLINE void ask(const reconx_agreement_call *c, const reconx_witness *w, vf u, vf v, point p, vm usable, verdict *told) {
    const vf one = v_set(1), zero = v_set(0);
    point there = moved(w->other_from_view, p);
    vf scale = 1.0f / not_zero(there.z), s = there.x * scale * w->fx + w->cx, t = there.y * scale * w->fy + w->cy;
    vm seen = m_and(m_and(usable, v_lt(v_set(0.0f), there.z)), m_and(v_le(v_set(-0.5f), s), v_le(v_set(-0.5f), t)));
    seen = m_and(seen, m_and(v_le(s, v_set((float)w->width - 0.5f)), v_le(t, v_set((float)w->height - 0.5f))));
    if (!m_any(seen)) return;
    vf found = depth_at(w, s, t);
    seen = m_and(seen, v_lt(v_abs(found), v_set(INFINITY)));
    vf expected = v_max(v_abs(there.z), v_set(1e-9f)), relative = (found - there.z) / expected;
    point hit = {(s - w->cx) * (1.0f / w->fx) * found, (t - w->cy) * (1.0f / w->fy) * found, found};
    point back = moved(w->view_from_other, hit);
    scale = 1.0f / not_zero(back.z);
    vf du = back.x * scale * c->fx + c->cx - u, dv = back.y * scale * c->fy + c->cy - v;
    vm close = m_and(v_le(v_abs(relative), v_set(c->tolerance)), v_le(v_sqrt(du * du + dv * dv), v_set(c->max_error_px)));
    vm same = m_and(seen, close);
    told->sees += v_select(seen, one, zero), told->agrees += v_select(same, one, zero);
    told->denies += v_select(m_and(seen, v_lt(v_set(2 * c->tolerance), relative)), one, zero);
    told->depth += v_select(same, back.z, zero);
    told->half_tangent = v_max(told->half_tangent, v_select(same, half_tangent_at(p, w->view_from_other), zero));
}

static void ask_row(const reconx_agreement_call *c, int y) {
    const vf v = v_set((float)y), ray_y = v_set(((float)y - c->cy) / c->fy);
    for (int x = 0; x < c->width; x += LANES) {
        int count = c->width - x < LANES ? c->width - x : LANES;
        size_t at = (size_t)y * (size_t)c->width + (size_t)x;
        vf depth = v_load_part(c->depth + at, count), u, usable = v_set(0);
        for (int l = 0; l < LANES; l++) u[l] = (float)(x + l);
        for (int l = 0; l < count; l++) usable[l] = c->usable[at + (size_t)l];
        point p = {(u - c->cx) / c->fx * depth, ray_y * depth, depth};
        verdict told = {.depth = depth};
        for (int i = 0; i < c->witnesses; i++) ask(c, c->witness + i, u, v, p, v_lt(v_set(0), usable), &told);
        v_store_part(c->sees + at, told.sees, count), v_store_part(c->agrees + at, told.agrees, count);
        v_store_part(c->denies + at, told.denies, count);
        v_store_part(c->mean_depth + at, told.depth / (told.agrees + 1.0f), count);
        v_store_part(c->half_tangent + at, told.half_tangent, count);
    }
}

EXPORT void reconx_agreement(const reconx_agreement_call *call) {
#pragma omp parallel for schedule(dynamic, 4) num_threads(call->threads)
    for (int y = 0; y < call->height; y++) ask_row(call, y);
}
