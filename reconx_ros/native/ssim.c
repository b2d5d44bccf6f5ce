/* Structural similarity of two images (Wang et al. 2004, Gaussian window 11, sigma 1.5, values in [0, 1]) and its gradient.
 *
 * Images are [H, W, 3]. A row is filtered with its channels interleaved: horizontal taps lie 3 floats apart. Outside of
 * the image everything is zero, as in a convolution with padding 5.
 */
#include <omp.h>

#include "render.h"
#include "simd.h"

#define RADIUS 5
#define MARGIN 16 /* floats, at least 3 * RADIUS */
#define C1 1e-4f
#define C2 9e-4f

static const float TAPS[RADIUS + 1] = {
    0.26601172486179436f, 0.21300553771125369f, 0.10936068950970002f,
    0.036000772128430829f, 0.007598758135239185f, 0.0010283800844791092f,
};

/* Mirrored by ctypes. */
typedef struct {
    int32_t width, height, threads;
    const float *image, *target; /* [H, W, 3] */
    const float *weight;         /* [H, W] */
    const float *known;          /* [H, W] factor on both images, or NULL */
    const float *normalizer;     /* [H, W] factor on all window sums, or NULL */
    float *weighted;             /* [H, W, 3] out: weight * SSIM, or NULL */
    float *gradient;             /* [H, W, 3] out: of the sum of weight * SSIM in the image, or NULL */
    double *sum;                 /* out: of weight * SSIM */
} reconx_ssim_call;

/* Working memory: rows of `stride` floats, zeros after the image's 3 * width. */
typedef struct {
    const reconx_ssim_call *call;
    int floats, stride;
    float *x, *y, *slopes[3]; /* [H, stride]; slopes in the mean, the mean square and the mean product */
    float *zeros;             /* [stride] */
    float *scratch;           /* [threads, 7, stride + 2 * MARGIN] */
    double *sums;             /* [H] */
} work;

static float *scratch_row(const work *w, int thread, int index) {
    return w->scratch + ((size_t)thread * 7 + (size_t)index) * (size_t)(w->stride + 2 * MARGIN) + MARGIN;
}

static const float *row_or_zeros(const work *w, const float *rows, int y) {
    return y < 0 || y >= w->call->height ? w->zeros : rows + (size_t)y * (size_t)w->stride;
}

static void copy_row(const work *w, int y, const float *in, float *rows) {
    const reconx_ssim_call *c = w->call;
    float *out = rows + (size_t)y * (size_t)w->stride;
    memcpy(out, in + (size_t)y * (size_t)w->floats, (size_t)w->floats * sizeof *out);
    memset(out + w->floats, 0, (size_t)(w->stride - w->floats) * sizeof *out);
    for (int i = 0; c->known && i < w->floats; i++) out[i] *= c->known[(size_t)y * (size_t)c->width + (size_t)(i / 3)];
}

/* One value per pixel to one per float. */
static void spread_row(const work *w, int y, const float *in, float *out) {
    for (int x = 0; x < w->call->width; x++) {
        float v = in[(size_t)y * (size_t)w->call->width + (size_t)x];
        out[3 * x] = out[3 * x + 1] = out[3 * x + 2] = v;
    }
    for (int i = w->floats; i < w->stride; i++) out[i] = 0;
}

/* Vertical sums of x, y, x x, y y, x y around row r into five scratch rows. */
static void filter_moments_down(const work *w, int r, int thread) {
    const float *x[2 * RADIUS + 1], *y[2 * RADIUS + 1];
    float *out[5];
    for (int k = 0; k < 5; k++) out[k] = scratch_row(w, thread, k);
    for (int k = -RADIUS; k <= RADIUS; k++) {
        x[k + RADIUS] = row_or_zeros(w, w->x, r + k), y[k + RADIUS] = row_or_zeros(w, w->y, r + k);
    }
    for (int i = 0; i < w->stride; i += LANES) {
        vf a = v_load(x[RADIUS] + i), b = v_load(y[RADIUS] + i);
        vf s[5] = {TAPS[0] * a, TAPS[0] * b, TAPS[0] * (a * a), TAPS[0] * (b * b), TAPS[0] * (a * b)};
        UNROLL for (int k = 1; k <= RADIUS; k++) {
            vf t = v_set(TAPS[k]);
            vf a0 = v_load(x[RADIUS - k] + i), a1 = v_load(x[RADIUS + k] + i);
            vf b0 = v_load(y[RADIUS - k] + i), b1 = v_load(y[RADIUS + k] + i);
            s[0] = v_fma(t, a0 + a1, s[0]), s[1] = v_fma(t, b0 + b1, s[1]);
            s[2] = v_fma(t, v_fma(a0, a0, a1 * a1), s[2]), s[3] = v_fma(t, v_fma(b0, b0, b1 * b1), s[3]);
            s[4] = v_fma(t, v_fma(a0, b0, a1 * b1), s[4]);
        }
        UNROLL for (int k = 0; k < 5; k++) v_store(out[k] + i, s[k]);
    }
}

INLINE vf filter_across(const float *row, int i) {
    vf s = TAPS[0] * v_load(row + i);
    UNROLL for (int k = 1; k <= RADIUS; k++) s = v_fma(v_set(TAPS[k]), v_load(row + i - 3 * k) + v_load(row + i + 3 * k), s);
    return s;
}

/* SSIM of one row from its vertical sums: its weighted sum, and the slopes that the gradient needs. */
static double compare_row(const work *w, int r, int thread) {
    float *rows[5], *weight = scratch_row(w, thread, 5), *norm = scratch_row(w, thread, 6);
    size_t at = (size_t)r * (size_t)w->stride;
    vf total = v_set(0);
    for (int k = 0; k < 5; k++) rows[k] = scratch_row(w, thread, k);
    spread_row(w, r, w->call->weight, weight);
    if (w->call->normalizer) spread_row(w, r, w->call->normalizer, norm);
    for (int i = 0; i < w->stride; i += LANES) {
        vf n = w->call->normalizer ? v_load(norm + i) : v_set(1), share = v_load(weight + i), m[5];
        UNROLL for (int k = 0; k < 5; k++) m[k] = n * filter_across(rows[k], i);
        vf cross = m[0] * m[1], squares = v_fma(m[0], m[0], m[1] * m[1]);
        vf a = 2.0f * cross + C1, b = 2.0f * (m[4] - cross) + C2;
        vf inverse_c = 1.0f / (squares + C1), inverse_d = 1.0f / (m[2] + m[3] - squares + C2);
        vf per_cd = inverse_c * inverse_d, ssim = a * b * per_cd, scale = share * n;
        total += share * ssim;
        v_store(weight + i, share * ssim);
        v_store(w->slopes[0] + at + i, 2.0f * scale * (m[1] * (b - a) * per_cd + m[0] * ssim * (inverse_d - inverse_c)));
        v_store(w->slopes[1] + at + i, -scale * ssim * inverse_d);
        v_store(w->slopes[2] + at + i, 2.0f * scale * a * per_cd);
    }
    if (w->call->weighted) memcpy(w->call->weighted + (size_t)r * (size_t)w->floats, weight, (size_t)w->floats * sizeof *weight);
    return (double)v_sum(total);
}

/* Gradient of one row: the slopes filtered once more, back onto the pixels they came from. */
static void gradient_row(const work *w, int r, int thread) {
    const reconx_ssim_call *c = w->call;
    const float *x = w->x + (size_t)r * (size_t)w->stride, *y = w->y + (size_t)r * (size_t)w->stride;
    float *rows[3], *out = scratch_row(w, thread, 3);
    for (int m = 0; m < 3; m++) {
        const float *in[2 * RADIUS + 1];
        rows[m] = scratch_row(w, thread, m);
        for (int k = -RADIUS; k <= RADIUS; k++) in[k + RADIUS] = row_or_zeros(w, w->slopes[m], r + k);
        for (int i = 0; i < w->stride; i += LANES) {
            vf s = TAPS[0] * v_load(in[RADIUS] + i);
            UNROLL for (int k = 1; k <= RADIUS; k++) s = v_fma(v_set(TAPS[k]), v_load(in[RADIUS - k] + i) + v_load(in[RADIUS + k] + i), s);
            v_store(rows[m] + i, s);
        }
    }
    for (int i = 0; i < w->stride; i += LANES) {
        vf g = filter_across(rows[0], i);
        g = v_fma(2.0f * v_load(x + i), filter_across(rows[1], i), g);
        v_store(out + i, v_fma(v_load(y + i), filter_across(rows[2], i), g));
    }
    for (int i = 0; c->known && i < w->floats; i++) out[i] *= c->known[(size_t)r * (size_t)c->width + (size_t)(i / 3)];
    memcpy(c->gradient + (size_t)r * (size_t)w->floats, out, (size_t)w->floats * sizeof *out);
}

static int reserve_work(context *c, const reconx_ssim_call *call, work *w) {
    w->call = call, w->floats = 3 * call->width;
    w->stride = (w->floats + 15) / 16 * 16;
    size_t image = (size_t)w->stride * (size_t)call->height, scratch = (size_t)call->threads * 7 * (size_t)(w->stride + 2 * MARGIN);
    float *p = buffer_reserve(&c->images, (5 * image + (size_t)w->stride + scratch) * sizeof(float) + (size_t)call->height * sizeof(double));
    if (p == NULL) return 0;
    w->sums = (double *)(void *)p, p += 2 * (size_t)call->height;
    w->x = p, w->y = p + image;
    for (int k = 0; k < 3; k++) w->slopes[k] = p + (size_t)(2 + k) * image;
    w->zeros = p + 5 * image, w->scratch = w->zeros + w->stride;
    memset(w->zeros, 0, (size_t)w->stride * sizeof(float));
    memset(w->scratch, 0, scratch * sizeof(float)); /* the margins stay zero */
    return 1;
}

__attribute__((visibility("default"))) int reconx_ssim(context *c, const reconx_ssim_call *call) {
    work w;
    int height = call->height;
    if (!reserve_work(c, call, &w)) return STATUS_MEMORY;
#pragma omp parallel num_threads(call->threads)
    {
        int thread = omp_get_thread_num();
#pragma omp for schedule(static)
        for (int r = 0; r < height; r++) copy_row(&w, r, call->image, w.x), copy_row(&w, r, call->target, w.y);
#pragma omp for schedule(static)
        for (int r = 0; r < height; r++) {
            filter_moments_down(&w, r, thread);
            w.sums[r] = compare_row(&w, r, thread);
        }
        if (call->gradient) {
#pragma omp for schedule(static)
            for (int r = 0; r < height; r++) gradient_row(&w, r, thread);
        }
    }
    *call->sum = 0;
    for (int r = 0; r < height; r++) *call->sum += w.sums[r];
    return STATUS_OK;
}
