/* Stage 1, backward: from moments per ellipse and tile to gradients of the Gaussians, the camera and its intrinsics. */
#include "ellipses.h"

/* Sums over the lanes' Gaussians; CAMERA_FLOATS of them. */
typedef struct {
    vf rotation[9], translation[3], centre[3], focal[2], principal[2], spare;
} camera_sums;

/* Gradients of a group's Gaussians. */
typedef struct {
    vf mean[3], quat[4], scale[3], opacity, color[3];
    vf cam[3]; /* of the position in the camera */
} group_gradients;

/* Add up each Gaussian's rows of pair_gradients: moments[k] over lanes; lanes without rows get zeros. */
static void gather_moments(const job *j, uint32_t first, int count, vf *moments, vm *visible) {
    const uint32_t *starts = (const uint32_t *)j->view->pair_starts.data + first;
    const float *pairs = j->context->pair_gradients.data;
    float rows[LANES][16] __attribute__((aligned(64)));
    vi seen = v_seti(0);
    for (int l = 0; l < LANES; l++) {
        vf sum[16 / LANES];
        memset(sum, 0, sizeof sum);
        for (uint32_t p = starts[l < count ? l : count]; l < count && p < starts[l + 1]; p++) { /* the next row's start is read and ignored */
            for (int k = 0; k < 16 / LANES; k++) sum[k] += v_load(pairs + (size_t)p * PAIR_FLOATS + k * LANES);
        }
        for (int k = 0; k < 16 / LANES; k++) v_store(rows[l] + k * LANES, sum[k]);
        seen[l] = l < count && starts[l + 1] > starts[l];
    }
    load_rows(rows[0], 16, 16, LANES, LANES * 16 + LANES, moments);
    *visible = v_lei(v_seti(1), seen);
}

/* Gradient of the covariance (symmetric, full matrix: h0 h1; h1 h2) and of the opacity. */
static void covariance_gradient(const job *j, const group *g, const vf *m, group_gradients *out, vf *h) {
    vf q0 = g->yy / g->det, q1 = -g->xy / g->det, q2 = g->xx / g->det; /* conic */
    vf a = v_fma(q0, m[3], q1 * m[4]), b = v_fma(q0, m[4], q1 * m[5]); /* conic * moments */
    vf c = v_fma(q1, m[3], q2 * m[4]), d = v_fma(q1, m[4], q2 * m[5]);
    h[0] = 0.5f * v_fma(a, q0, b * q1), h[1] = 0.5f * v_fma(a, q1, b * q2), h[2] = 0.5f * v_fma(c, q1, d * q2);
    if (j->scene->antialiased) { /* ln(compensation) = (ln det_before - ln det) / 2 */
        vf s = 0.5f * m[0], inverse = 1.0f / v_max(g->det_before, v_set(1e-30f));
        h[0] += s * ((g->yy - DILATION) * inverse - q0);
        h[1] += s * (-g->xy * inverse - q1);
        h[2] += s * ((g->xx - DILATION) * inverse - q2);
    }
    out->opacity = m[0] / g->opacity;
}

/* From the covariance to the Gaussian's shape and to 1 / z and the slopes in the Jacobian. */
static void shape_gradient(const job *j, const group *g, const vf *h, group_gradients *out, camera_sums *cam, vf *v_clamped, vf *v_inverse_z) {
    vf v_x[3], v_y[3], v_half[9], v_rotation[9];
    vf sx = j->fx * g->inverse_z, sy = j->fy * g->inverse_z;
    for (int c = 0; c < 3; c++) {
        v_x[c] = 2.0f * v_fma(h[0], g->row_x[c], h[1] * g->row_y[c]);
        v_y[c] = 2.0f * v_fma(h[1], g->row_x[c], h[2] * g->row_y[c]);
        v_half[c] = sx * v_x[c], v_half[3 + c] = sy * v_y[c];
        v_half[6 + c] = -g->clamped[0] * v_half[c] - g->clamped[1] * v_half[3 + c];
    }
    vf along_x = dot3(v_x, g->row_x), along_y = dot3(v_y, g->row_y);
    v_clamped[0] = -sx * dot3(v_x, g->half + 6), v_clamped[1] = -sy * dot3(v_y, g->half + 6);
    *v_inverse_z = (along_x + along_y) * v_select(g->visible, g->cam[2], v_set(1));
    cam->focal[0] += along_x / j->fx, cam->focal[1] += along_y / j->fy;
    for (int a = 0; a < 3; a++) {
        out->scale[a] = v_set(0);
        for (int b = 0; b < 3; b++) {
            vf v = v_set(0); /* of rotation * diag(scale) */
            for (int k = 0; k < 3; k++) v = v_fma(v_set(j->rotation[3 * k + b]), v_half[3 * k + a], v);
            out->scale[a] = v_fma(v, g->rotation[3 * b + a], out->scale[a]);
            v_rotation[3 * b + a] = v * g->scale[a];
        }
    }
    for (int a = 0; a < 3; a++) {
        for (int b = 0; b < 3; b++) {
            vf v = cam->rotation[3 * a + b];
            for (int k = 0; k < 3; k++) v = v_fma(v_half[3 * a + k], g->rotation[3 * b + k] * g->scale[k], v);
            cam->rotation[3 * a + b] = v;
        }
    }
    const vf *q = g->quat, *r = v_rotation;
    vf w = q[0], x = q[1], y = q[2], z = q[3];
    vf v[4] = {
        2.0f * (x * (r[7] - r[5]) + y * (r[2] - r[6]) + z * (r[3] - r[1])),
        2.0f * (w * (r[7] - r[5]) + y * (r[1] + r[3]) + z * (r[2] + r[6]) - 2.0f * x * (r[4] + r[8])),
        2.0f * (w * (r[2] - r[6]) + x * (r[1] + r[3]) + z * (r[5] + r[7]) - 2.0f * y * (r[0] + r[8])),
        2.0f * (w * (r[3] - r[1]) + x * (r[2] + r[6]) + y * (r[5] + r[7]) - 2.0f * z * (r[0] + r[4])),
    };
    vf radial = w * v[0] + x * v[1] + y * v[2] + z * v[3]; /* the length does not matter */
    for (int k = 0; k < 4; k++) out->quat[k] = g->inverse_length * v_fma(-q[k], radial, v[k]);
}

/* From the ellipse's centre, depth and Jacobian to the position in the camera. */
static void position_gradient(const job *j, const group *g, const vf *m, const vf *v_clamped, vf v_inverse_z, group_gradients *out, camera_sums *cam) {
    vf q0 = g->yy / g->det, q1 = -g->xy / g->det, q2 = g->xx / g->det, v_slope[2];
    vf v_pixel[2] = {v_fma(q0, m[1], q1 * m[2]), v_fma(q1, m[1], q2 * m[2])};
    for (int k = 0; k < 2; k++) {
        float focal = k ? j->fy : j->fx;
        vf outside = v_keep(m_not(g->inside[k]), v_clamped[k]) * (1.0f / focal); /* the limits depend on the intrinsics */
        v_slope[k] = v_fma(v_set(focal), v_pixel[k], v_keep(g->inside[k], v_clamped[k]));
        out->cam[k] = v_slope[k] * g->inverse_z;
        v_inverse_z = v_fma(v_slope[k], g->cam[k], v_inverse_z);
        cam->focal[k] += v_fma(v_pixel[k], g->slope[k], -outside * g->clamped[k]);
        cam->principal[k] += v_pixel[k] - outside;
    }
    out->cam[2] = v_fma(-v_inverse_z * g->inverse_z, g->inverse_z, m[9]);
    for (int k = 0; k < 3; k++) {
        out->mean[k] = v_set(0);
        for (int i = 0; i < 3; i++) out->mean[k] = v_fma(v_set(j->rotation[3 * i + k]), out->cam[i], out->mean[k]);
        cam->translation[k] += out->cam[k];
        for (int i = 0; i < 3; i++) cam->rotation[3 * k + i] = v_fma(out->cam[k], g->mean[i], cam->rotation[3 * k + i]);
    }
}

/* From the colour to the harmonics (columns of v_sh) and, through the direction, to the position. */
static void color_gradient(const job *j, uint32_t first, int count, group *g, const vf *m, group_gradients *out, camera_sums *cam, vf *v_sh) {
    const reconx_scene *s = j->scene;
    int bases = s->bases;
    size_t row = 3 * (size_t)bases;
    vf sh[48], basis[16], color[3], weight[16], v[3];
    load_rows(s->sh + row * first, (int)row, (int)row, count, row * ((size_t)s->count - first), sh);
    aim_group(j, g);
    sh_basis(bases, g->direction[0], g->direction[1], g->direction[2], basis);
    color_group(bases, basis, sh, color);
    for (int c = 0; c < 3; c++) out->color[c] = v_keep(v_le(v_set(0), color[c]), m[6 + c]);
    for (int k = 0; k < bases; k++) {
        weight[k] = v_fma(sh[3 * k], out->color[0], v_fma(sh[3 * k + 1], out->color[1], sh[3 * k + 2] * out->color[2]));
        for (int c = 0; c < 3; c++) v_sh[3 * k + c] = v_keep(g->visible, basis[k] * out->color[c]);
    }
    if (bases == 1) return;
    sh_slope(bases, g->direction[0], g->direction[1], g->direction[2], weight, v, v + 1, v + 2);
    vf radial = dot3(v, g->direction);
    for (int k = 0; k < 3; k++) {
        vf along = v_keep(g->visible, g->inverse_distance * v_fma(-g->direction[k], radial, v[k]));
        out->mean[k] += along;
        cam->centre[k] -= along;
    }
}

static void keep_visible(vm visible, vf *values, int count) {
    for (int k = 0; k < count; k++) values[k] = v_keep(visible, values[k]);
}

static void store_gradients(const job *j, uint32_t first, int count, const group_gradients *v, const vf *v_sh, const reconx_gradients *g) {
    int add = j->camera > 0, row = 3 * j->scene->bases;
    size_t i = first;
    if (g->means) store_rows(g->means + 3 * i, 3, count, add, v->mean);
    if (g->quats) store_rows(g->quats + 4 * i, 4, count, add, v->quat);
    if (g->scales) store_rows(g->scales + 3 * i, 3, count, add, v->scale);
    if (g->opacities) store_rows(g->opacities + i, 1, count, add, &v->opacity);
    if (g->sh) store_rows(g->sh + (size_t)row * i, row, count, add, v_sh);
}

/* A group that this camera does not see: zeros, unless an earlier camera wrote something. */
static void store_nothing(const job *j, uint32_t first, int count, const reconx_gradients *g) {
    size_t i = first, n = (size_t)count * sizeof(float), row = 3 * (size_t)j->scene->bases;
    if (j->camera > 0) return;
    if (g->means) memset(g->means + 3 * i, 0, 3 * n);
    if (g->quats) memset(g->quats + 4 * i, 0, 4 * n);
    if (g->scales) memset(g->scales + 3 * i, 0, 3 * n);
    if (g->opacities) memset(g->opacities + i, 0, n);
    if (g->sh) memset(g->sh + row * i, 0, row * n);
}

static void backward_group(const job *j, uint32_t first, int count, const reconx_gradients *gradients, camera_sums *cam) {
    vf moments[16], h[3], v_clamped[2], v_inverse_z, v_sh[48];
    group g;
    group_gradients v;
    camera_sums mine;
    vm visible;
    gather_moments(j, first, count, moments, &visible);
    if (!m_any(visible)) {
        store_nothing(j, first, count, gradients);
        return;
    }
    memset(&mine, 0, sizeof mine);
    load_group(j->scene, first, count, &g);
    place_group(j, &g);
    flatten_group(j, &g);
    g.visible = visible;
    covariance_gradient(j, &g, moments, &v, h);
    shape_gradient(j, &g, h, &v, &mine, v_clamped, &v_inverse_z);
    position_gradient(j, &g, moments, v_clamped, v_inverse_z, &v, &mine);
    keep_visible(visible, (vf *)&mine, CAMERA_FLOATS);
    keep_visible(visible, v.mean, 3), keep_visible(visible, v.quat, 4), keep_visible(visible, v.scale, 3);
    v.opacity = v_keep(visible, v.opacity);
    color_gradient(j, first, count, &g, moments, &v, &mine, v_sh);
    for (int k = 0; k < CAMERA_FLOATS; k++) ((vf *)cam)[k] += ((const vf *)&mine)[k];
    store_gradients(j, first, count, &v, v_sh, gradients);
}

void project_backward(const job *j, const reconx_gradients *g, int thread, int threads) {
    uint32_t begin, end;
    thread_range((uint32_t)j->scene->count, CAMERA_GROUP, thread, threads, &begin, &end);
    for (uint32_t start = begin; start < end; start += CAMERA_GROUP) {
        uint32_t stop = end - start < CAMERA_GROUP ? end : start + CAMERA_GROUP;
        float *partial = (float *)j->context->partials.data + (size_t)(start / CAMERA_GROUP) * CAMERA_FLOATS;
        camera_sums cam;
        memset(&cam, 0, sizeof cam);
        for (uint32_t i = start; i < stop; i += LANES) backward_group(j, i, stop - i < LANES ? (int)(stop - i) : LANES, g, &cam);
        for (int k = 0; k < CAMERA_FLOATS; k++) partial[k] = v_sum(((const vf *)&cam)[k]);
    }
}
