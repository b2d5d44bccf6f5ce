/* Semi-global smoothing of a cost volume along four scanline directions, and the choice of a plane for every pixel.
 *
 * The torch twin is pointmap/sgm.py (Hirschmueller 2008, eq. 13). Strips of columns are smoothed down and up, then rows to
 * the right and to the left; one vector holds costs of neighbouring planes of one pixel. Padding costs are infinite.
 */
#include <omp.h>

#include "simd.h"
#include "stereo.h"

#define STRIP 8     /* columns smoothed together, one behind the other in memory */
#define NEIGHBOURS 2 /* planes on each side of the winner that are no rivals */
#define LOG2E 1.44269504088896341f

/* Mirrored by ctypes. */
typedef struct {
    int32_t width, height, planes, padded_planes, threads;
    float p1, p2, p2_min, edge;
    const float *cost;  /* [H, W, padded_planes], infinite beyond planes */
    const float *image; /* [H, W] grey values */
    float *total;       /* [H, W, padded_planes] out: sum of the path costs; without winners where those are asked for */
    float *label;       /* [H, W] out: winning plane with its fraction, or NULL, and then the next two are not used */
    float *chosen;      /* [H, W] out: cost at the winner */
    float *margin;      /* [H, W] out: by how much the best rival costs more on average over the paths, in [0, 1] */
} reconx_sgm_call;

/* Penalty of a larger change of plane on arriving at a pixel, [H, W]; leaving it the other way costs the same. */
typedef struct {
    float *across; /* from the left */
    float *down;   /* from above */
} penalties;

/* Path costs of the pixel before, with an infinite neighbour at both ends. */
typedef struct {
    float *cost; /* [padded_planes], one vector before it and one behind */
    vf lowest;
} state;

static void start(state *s, float *memory, int padded) {
    for (int i = 0; i < LANES; i++) memory[i] = memory[LANES + padded + i] = INFINITY;
    memset(memory + LANES, 0, (size_t)padded * sizeof *memory);
    s->cost = memory + LANES, s->lowest = v_set(0);
}

/* One pixel further. The state is updated in place; what the next vector needs of the old one is kept aside. */
INLINE void advance(state *s, const float *cost, int padded, float p1, float p2, float *total, int add) {
    const vf jump = s->lowest + p2;
    vf lowest = v_set(INFINITY), before = v_load(s->cost - 1), here = v_load(s->cost);
    for (int d = 0; d < padded; d += LANES) {
        vf after = v_load(s->cost + d + 1);
        vf next_before = v_load(s->cost + d + LANES - 1), next_here = v_load(s->cost + d + LANES);
        vf best = v_min(v_min(here, jump), v_min(before, after) + p1);
        vf path = v_load(cost + d) + (best - s->lowest);
        v_store(s->cost + d, path);
        v_store(total + d, add ? v_load(total + d) + path : path);
        lowest = v_min(lowest, path);
        before = next_before, here = next_here;
    }
    s->lowest = v_lowest(lowest);
}

/* Penalties of a larger change of plane between each pixel of a row and another row. */
static void jump_penalties(const reconx_sgm_call *c, const float *a, const float *b, int count, float *out) {
    for (int x = 0; x < count; x += LANES) {
        vf exponent = -v_abs(v_load_part(a + x, count - x) - v_load_part(b + x, count - x)) * (LOG2E / c->edge);
        vf p2 = v_fma(v_set(c->p2 - c->p2_min), v_exp2(v_max(exponent, v_set(-120))), v_set(c->p2_min));
        v_store_part(out + x, p2, count - x);
    }
}

/* Both penalties of row y: on arriving from the left (not set for the first pixel) and from above. */
static void prepare_row(const reconx_sgm_call *c, const penalties *p, int y) {
    const size_t at = (size_t)y * (size_t)c->width;
    jump_penalties(c, c->image + at + 1, c->image + at, c->width - 1, p->across + at + 1);
    p->across[at] = c->p2;
    jump_penalties(c, c->image + at, c->image + at - (y ? (size_t)c->width : 0), c->width, p->down + at);
}

/* Down and up a strip of columns; sets the totals. memory: [STRIP, padded_planes + 2 LANES]. */
static void smooth_strip(const reconx_sgm_call *c, const penalties *p, int x0, float *memory) {
    const int padded = c->padded_planes, columns = c->width - x0 < STRIP ? c->width - x0 : STRIP;
    const size_t width = (size_t)c->width;
    state s[STRIP];
    for (int up = 0; up < 2; up++) {
        for (int i = 0; i < columns; i++) start(s + i, memory + (size_t)i * (size_t)(padded + 2 * LANES), padded);
        for (int row = 0; row < c->height; row++) {
            int y = up ? c->height - 1 - row : row, lower = up && row > 0 ? y + 1 : y;
            const float *p2 = p->down + (size_t)lower * width + (size_t)x0;
            for (int i = 0; i < columns; i++) {
                size_t at = ((size_t)y * width + (size_t)(x0 + i)) * (size_t)padded;
                advance(s + i, c->cost + at, padded, c->p1, p2[i], c->total + at, up);
            }
        }
    }
}

/* To the right and to the left along a row at the same time; adds to the totals. memory: [2, padded_planes + 2 LANES]. */
static void smooth_row(const reconx_sgm_call *c, const penalties *p, int y, float *memory) {
    const int padded = c->padded_planes;
    const size_t row = (size_t)y * (size_t)c->width;
    const float *p2 = p->across + row, *cost = c->cost + row * (size_t)padded;
    float *total = c->total + row * (size_t)padded;
    state right, left;
    start(&right, memory, padded), start(&left, memory + padded + 2 * LANES, padded);
    for (int i = 0; i < c->width; i++) {
        int j = c->width - 1 - i;
        size_t at_right = (size_t)i * (size_t)padded, at_left = (size_t)j * (size_t)padded;
        advance(&right, cost + at_right, padded, c->p1, p2[i], total + at_right, 1);
        advance(&left, cost + at_left, padded, c->p1, p2[i ? j + 1 : j], total + at_left, 1);
    }
}

static int first_lowest(const float *total, int padded, vf lowest) {
    for (int d = 0; d < padded; d += LANES) {
        uint32_t bits = m_bits(v_le(v_load(total + d), lowest));
        if (bits) return d + __builtin_ctz(bits);
    }
    return 0;
}

static vf lowest_of(const float *total, int padded) {
    vf lowest = v_load(total);
    for (int d = LANES; d < padded; d += LANES) lowest = v_min(lowest, v_load(total + d));
    return v_lowest(lowest);
}

/* Offset in [-0.5, 0.5] of the parabola through a minimum and its neighbours; 0 at the ends. */
static float parabola_offset(const float *total, int planes, int index) {
    if (index < 1 || index > planes - 2) return 0;
    float left = 0.25f * total[index - 1], middle = 0.25f * total[index], right = 0.25f * total[index + 1];
    float bend = left - 2 * middle + right;
    if (!(bend > 1e-9f)) return 0;
    float offset = 0.5f * (left - right) / bend;
    return offset < -0.5f ? -0.5f : offset > 0.5f ? 0.5f : offset;
}

static void choose(const reconx_sgm_call *c, size_t pixel) {
    float *total = c->total + pixel * (size_t)c->padded_planes;
    const vf lowest = lowest_of(total, c->padded_planes);
    int index = first_lowest(total, c->planes, lowest);
    c->label[pixel] = (float)index + parabola_offset(total, c->planes, index);
    c->chosen[pixel] = c->cost[pixel * (size_t)c->padded_planes + (size_t)index];
    for (int d = index - NEIGHBOURS; d <= index + NEIGHBOURS; d++) {
        if (d >= 0 && d < c->planes) total[d] = INFINITY;
    }
    float margin = 0.25f * (lowest_of(total, c->padded_planes)[0] - lowest[0]);
    c->margin[pixel] = margin < 1 ? margin : 1;
}

static void smooth(const reconx_sgm_call *c, const penalties *p, float *memory) {
    const int strips = (c->width + STRIP - 1) / STRIP;
#pragma omp for schedule(static)
    for (int y = 0; y < c->height; y++) prepare_row(c, p, y);
#pragma omp for schedule(dynamic)
    for (int i = 0; i < strips; i++) {
        if (memory) smooth_strip(c, p, i * STRIP, memory);
    }
#pragma omp for schedule(dynamic, 4)
    for (int y = 0; y < c->height; y++) {
        if (memory) smooth_row(c, p, y, memory);
        for (int x = 0; c->label && x < c->width; x++) choose(c, (size_t)y * (size_t)c->width + (size_t)x);
    }
}

EXPORT int reconx_sgm(const reconx_sgm_call *call) {
    const size_t pixels = (size_t)call->width * (size_t)call->height;
    penalties p = {.across = float_array(2 * pixels)};
    int failed = 0;
    if (p.across == NULL) return STEREO_MEMORY;
    p.down = p.across + pixels;
#pragma omp parallel num_threads(call->threads) reduction(| : failed)
    {
        float *memory = float_array((size_t)STRIP * (size_t)(call->padded_planes + 2 * LANES));
        failed = memory == NULL;
        smooth(call, &p, memory);
        free(memory);
    }
    free(p.across);
    return failed ? STEREO_MEMORY : STEREO_OK;
}
