/* The projection of one group of Gaussians, one per lane, with what its gradient needs again. */
#ifndef RECONX_ELLIPSES_H
#define RECONX_ELLIPSES_H

#include "harmonics.h"
#include "render.h"
#include "rows.h"

typedef struct {
    vf mean[3], quat[4], scale[3], opacity; /* quat normalised */
    vf inverse_length;                      /* of the quaternion as given */
    vf cam[3], inverse_z, slope[2];         /* position in the camera; x / z and y / z */
    vf clamped[2];                          /* slopes in the Jacobian */
    vm inside[2];                           /* whether they are not clamped */
    vf rotation[9];                         /* of the Gaussian */
    vf half[9];                             /* cam rotation * rotation * diag(scale) */
    vf row_x[3], row_y[3];                  /* their product with the Jacobian: covariance = [x.x, x.y; x.y, y.y] */
    vf xx, xy, yy;                          /* covariance in px^2 after dilation */
    vf det_before, det;                     /* its determinant without and with dilation */
    vf compensation, visible_opacity;
    vm visible;
    vf direction[3], inverse_distance;      /* from the camera's centre */
} group;

INLINE vf dot3(const vf *a, const vf *b) { return v_fma(a[0], b[0], v_fma(a[1], b[1], a[2] * b[2])); }

INLINE void rotation_of(const vf *q, vf *r) {
    vf w = q[0], x = q[1], y = q[2], z = q[3];
    r[0] = 1.0f - 2.0f * (y * y + z * z), r[1] = 2.0f * (x * y - w * z), r[2] = 2.0f * (x * z + w * y);
    r[3] = 2.0f * (x * y + w * z), r[4] = 1.0f - 2.0f * (x * x + z * z), r[5] = 2.0f * (y * z - w * x);
    r[6] = 2.0f * (x * z - w * y), r[7] = 2.0f * (y * z + w * x), r[8] = 1.0f - 2.0f * (x * x + y * y);
}

INLINE void load_group(const reconx_scene *s, uint32_t first, int count, group *g) {
    size_t i = first, left = (size_t)s->count - first;
    load_rows(s->means + 3 * i, 3, 3, count, 3 * left, g->mean);
    load_rows(s->quats + 4 * i, 4, 4, count, 4 * left, g->quat);
    load_rows(s->scales + 3 * i, 3, 3, count, 3 * left, g->scale);
    if (count == LANES) {
        g->opacity = v_load(s->opacities + i);
    } else {
        for (int l = 0; l < LANES; l++) g->opacity[l] = s->opacities[i + (size_t)(l < count ? l : count - 1)];
    }
    vf q2 = v_fma(g->quat[0], g->quat[0], v_fma(g->quat[1], g->quat[1], v_fma(g->quat[2], g->quat[2], g->quat[3] * g->quat[3])));
    g->inverse_length = 1.0f / v_max(v_sqrt(q2), v_set(1e-12f));
    for (int k = 0; k < 4; k++) g->quat[k] *= g->inverse_length;
}

/* Position in the camera, slopes and Jacobian limits. */
INLINE void place_group(const job *j, group *g) {
    const float *r = j->rotation, *t = j->translation;
    for (int k = 0; k < 3; k++) {
        g->cam[k] = v_fma(v_set(r[3 * k]), g->mean[0], v_fma(v_set(r[3 * k + 1]), g->mean[1], v_fma(v_set(r[3 * k + 2]), g->mean[2], v_set(t[k]))));
    }
    g->visible = m_and(v_lt(v_set(j->scene->near_plane), g->cam[2]), v_lt(g->cam[2], v_set(FAR_PLANE)));
    g->inverse_z = 1.0f / v_select(g->visible, g->cam[2], v_set(1));
    for (int k = 0; k < 2; k++) {
        const float *limit = k ? j->limit_y : j->limit_x;
        g->slope[k] = g->cam[k] * g->inverse_z;
        g->clamped[k] = v_min(v_max(g->slope[k], v_set(limit[0])), v_set(limit[1]));
        g->inside[k] = m_and(v_le(v_set(limit[0]), g->slope[k]), v_le(g->slope[k], v_set(limit[1])));
    }
}

/* Covariance on the picture. */
INLINE void flatten_group(const job *j, group *g) {
    const float *r = j->rotation;
    rotation_of(g->quat, g->rotation);
    for (int k = 0; k < 3; k++) {
        for (int c = 0; c < 3; c++) {
            vf sum = v_fma(v_set(r[3 * k]), g->rotation[c], v_fma(v_set(r[3 * k + 1]), g->rotation[3 + c], r[3 * k + 2] * g->rotation[6 + c]));
            g->half[3 * k + c] = sum * g->scale[c];
        }
    }
    vf sx = j->fx * g->inverse_z, sy = j->fy * g->inverse_z;
    for (int c = 0; c < 3; c++) {
        g->row_x[c] = sx * v_fma(-g->clamped[0], g->half[6 + c], g->half[c]);
        g->row_y[c] = sy * v_fma(-g->clamped[1], g->half[6 + c], g->half[3 + c]);
    }
    vf xx = dot3(g->row_x, g->row_x), yy = dot3(g->row_y, g->row_y);
    vf cross[3]; /* its square is the determinant, without cancellation */
    for (int c = 0; c < 3; c++) {
        int a = (c + 1) % 3, b = (c + 2) % 3;
        cross[c] = g->row_x[a] * g->row_y[b] - g->row_x[b] * g->row_y[a];
    }
    g->xy = dot3(g->row_x, g->row_y);
    g->det_before = dot3(cross, cross);
    g->det = g->det_before + v_fma(v_set(DILATION), xx + yy, v_set(DILATION * DILATION));
    g->xx = xx + DILATION, g->yy = yy + DILATION;
    g->visible = m_and(g->visible, v_lt(g->det, v_set(1e37f)));
    g->compensation = j->scene->antialiased ? v_sqrt(g->det_before / g->det) : v_set(1);
    g->visible_opacity = g->opacity * g->compensation;
    g->visible = m_and(g->visible, v_le(v_set(MIN_ALPHA), g->visible_opacity));
}

INLINE void aim_group(const job *j, group *g) {
    for (int k = 0; k < 3; k++) g->direction[k] = g->mean[k] - j->centre[k];
    g->inverse_distance = 1.0f / v_max(v_sqrt(dot3(g->direction, g->direction)), v_set(1e-12f));
    for (int k = 0; k < 3; k++) g->direction[k] *= g->inverse_distance;
}

/* Sum of the harmonics plus a half, before it is cut at zero. */
INLINE void color_group(int bases, const vf *basis, const vf *sh, vf *color) {
    for (int c = 0; c < 3; c++) {
        color[c] = v_set(0.5f);
        for (int k = 0; k < bases; k++) color[c] = v_fma(basis[k], sh[3 * k + c], color[c]);
    }
}

#endif
