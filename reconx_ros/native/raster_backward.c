/* Stage 4, backward: from gradients of the pixels to one row of moments per ellipse and tile, back to front.
 *
 * With g = dL / d ln(alpha) and d = pixel - mean, a row of pair_gradients holds
 * sum of g, g dx, g dy, g dx^2, g dx dy, g dy^2 and the gradients of r, g, b and depth.
 */
#include "raster.h"

#define WRITE_AHEAD 4 /* entries between fetching a row of the result and writing it */
#define LINE __attribute__((aligned(64)))

/* Pixels of a block: where the rays are and what the pixels ask for. One block's vectors lie together: arrays over the tile
 * would be 4096 bytes apart, and loads would wait for stores that only look as if they met. */
typedef struct {
    LINE float through[BLOCK_PIXELS]; /* transmittance behind the ellipse at hand */
    LINE float behind[BLOCK_PIXELS];  /* what lies behind it, times the pixel's gradient */
    LINE float v_color[3][BLOCK_PIXELS];
    LINE float v_depth[BLOCK_PIXELS];
    LINE float x[BLOCK_PIXELS], y[BLOCK_PIXELS]; /* from the tile's first pixel */
    LINE int32_t last[BLOCK_PIXELS];
} rays;

/* Gradients of a block's pixels as planes r, g, b, alpha, depth; zero outside of the picture. */
static void load_block(const job *j, int x, int y, const reconx_pictures *in, float (*planes)[BLOCK_PIXELS]) {
    const reconx_scene *s = j->scene;
    int wide = s->width - x < 4 ? s->width - x : 4, high = s->height - y < 4 ? s->height - y : 4;
    size_t first = ((size_t)j->camera * (size_t)s->height + (size_t)y) * (size_t)s->width + (size_t)x;
    memset(planes, 0, 5 * sizeof *planes);
    for (int row = 0; row < high; row++) {
        size_t at = first + (size_t)row * (size_t)s->width;
        for (int i = 0; i < wide; i++) {
            float *out = planes[0] + 4 * row + i;
            const float *rgb = in->rgb ? in->rgb + 3 * (at + (size_t)i) : NULL;
            if (rgb) out[0] = rgb[0], out[BLOCK_PIXELS] = rgb[1], out[2 * BLOCK_PIXELS] = rgb[2];
            if (in->alpha) out[3 * BLOCK_PIXELS] = in->alpha[at + (size_t)i];
            if (in->depth) out[4 * BLOCK_PIXELS] = in->depth[at + (size_t)i];
        }
    }
}

/* The rays of one block behind all its ellipses, where the background is the first thing behind. */
static void start_block(const job *j, int x, int y, const block_state *state, const reconx_pictures *in, rays *r, vf *v_back) {
    const float none[3] = {0, 0, 0}, *back = j->scene->background ? j->scene->background + 3 * j->camera : none;
    float planes[5][BLOCK_PIXELS];
    load_block(j, x, y, in, planes);
    FOR_PARTS {
        int o = p * LANES;
        vf through = v_load(state->transmittance + o), alpha = v_load(state->alpha + o), v_alpha = v_load(planes[3] + o);
        vf per_alpha = 1.0f / v_max(alpha, v_set(1e-10f)), v_depth = v_load(planes[4] + o) * per_alpha;
        v_depth = v_keep(v_lt(v_set(0), alpha), v_depth);
        vf ask = v_fma(v_depth, v_load(state->depth + o) * per_alpha, -v_alpha);
        for (int c = 0; c < 3; c++) {
            vf v = v_load(planes[c] + o);
            v_back[c] = v_fma(through, v, v_back[c]);
            ask = v_fma(v, v_set(back[c]), ask);
            v_store(r->v_color[c] + o, v);
        }
        v_store(r->v_depth + o, v_depth);
        v_store(r->through + o, through);
        v_store(r->behind + o, through * ask);
        v_store((float *)r->last + o, v_load((const float *)state->last + o));
    }
}

static void start_rays(const job *j, int x, int y, const block_state *states, const reconx_pictures *in, rays *r, float *v_back) {
    vf sum[3];
    memset(sum, 0, sizeof sum);
    for (int block = 0; block < TILE_BLOCKS; block++) {
        int block_x = x + block % 4 * 4, block_y = y + block / 4 * 4;
        if (block_x >= j->scene->width || block_y >= j->scene->height) continue; /* no entry touches it */
        start_block(j, block_x, block_y, states + block, in, r + block, sum);
    }
    for (int c = 0; c < 3; c++) v_back[c] = v_sum(sum[c]);
}

/* Undo one ellipse in one block and add its gradients. */
INLINE void unblend(const ellipse *e, rays *r, int32_t position, int with_depth, vf *sum) {
    FOR_PARTS {
        int o = p * LANES;
        vf dx, dy;
        vm counts;
        vf full = alpha_at(e, v_load(r->x + o), v_load(r->y + o), &dx, &dy, &counts);
        counts = m_and(counts, v_lei(v_seti(position), (vi)v_load((const float *)r->last + o)));
        vf alpha = v_keep(counts, v_min(full, v_set(MAX_ALPHA)));
        vf after = v_load(r->through + o), behind = v_load(r->behind + o);
        vf odds = alpha / (1.0f - alpha), weight = odds * after; /* the transmittance before it is after / (1 - alpha) */
        vf v_r = v_load(r->v_color[0] + o), v_g = v_load(r->v_color[1] + o), v_b = v_load(r->v_color[2] + o);
        vf ask = v_fma(v_set(e->r), v_r, v_fma(v_set(e->g), v_g, e->b * v_b));
        if (with_depth) {
            vf v_depth = v_load(r->v_depth + o);
            ask = v_fma(v_set(e->depth), v_depth, ask);
            sum[9] = v_fma(weight, v_depth, sum[9]);
        }
        v_store(r->through + o, after + weight);
        v_store(r->behind + o, v_fma(weight, ask, behind));
        vf g = v_keep(v_le(full, v_set(MAX_ALPHA)), odds * v_fma(after, ask, -behind)), gx = g * dx, gy = g * dy;
        sum[0] += g, sum[1] += gx, sum[2] += gy;
        sum[3] = v_fma(gx, dx, sum[3]), sum[4] = v_fma(gx, dy, sum[4]), sum[5] = v_fma(gy, dy, sum[5]);
        sum[6] = v_fma(weight, v_r, sum[6]), sum[7] = v_fma(weight, v_g, sum[7]), sum[8] = v_fma(weight, v_b, sum[8]);
    }
}

/* Sums over the lanes of PAIR_FLOATS vectors. */
INLINE void write_sums(const vf *s, float *out) {
#if SIMD_AVX512
    vf pair[5], quad[3];
    UNROLL for (int i = 0; i < 5; i++) pair[i] = UNPACK_LOW(s[2 * i], s[2 * i + 1]) + UNPACK_HIGH(s[2 * i], s[2 * i + 1]);
    quad[0] = LOW2(pair[0], pair[1]) + HIGH2(pair[0], pair[1]);
    quad[1] = LOW2(pair[2], pair[3]) + HIGH2(pair[2], pair[3]);
    quad[2] = LOW2(pair[4], pair[4]) + HIGH2(pair[4], pair[4]);
    vf a = PARTS(quad[0], quad[1], 0x88) + PARTS(quad[0], quad[1], 0xdd), b = PARTS(quad[2], quad[2], 0x88) + PARTS(quad[2], quad[2], 0xdd);
    vf all = PARTS(a, b, 0x88) + PARTS(a, b, 0xdd);
    _mm512_mask_storeu_ps(out, (1 << PAIR_FLOATS) - 1, (__m512)all);
#elif SIMD_AVX2
    vf pair[5], quad[3];
    UNROLL for (int i = 0; i < 5; i++) pair[i] = UNPACK_LOW(s[2 * i], s[2 * i + 1]) + UNPACK_HIGH(s[2 * i], s[2 * i + 1]);
    quad[0] = LOW2(pair[0], pair[1]) + HIGH2(pair[0], pair[1]);
    quad[1] = LOW2(pair[2], pair[3]) + HIGH2(pair[2], pair[3]);
    quad[2] = LOW2(pair[4], pair[4]) + HIGH2(pair[4], pair[4]);
    v_store(out, PARTS(quad[0], quad[1], 0x20) + PARTS(quad[0], quad[1], 0x31));
    float rest[LANES];
    v_store(rest, PARTS(quad[2], quad[2], 0x20) + PARTS(quad[2], quad[2], 0x31));
    out[8] = rest[0], out[9] = rest[1];
#else
    for (int i = 0; i < 8; i += 4) {
        vf t[4] = {s[i], s[i + 1], s[i + 2], s[i + 3]};
        v_transpose(t);
        v_store(out + i, (t[0] + t[1]) + (t[2] + t[3]));
    }
    out[8] = v_sum(s[8]), out[9] = v_sum(s[9]);
#endif
}

/* Everything that a tile asks of its entries, the last one first. */
INLINE void undo_entries(const job *j, int x, int y, rays *r, const tile_entry *entries, const uint16_t *masks, int32_t count, int with_depth) {
    const ellipse *ellipses = j->view->ellipses.data;
    float *pairs = j->context->pair_gradients.data;
    for (int32_t k = count - 1; k >= 0; k--) {
        float *out = pairs + (size_t)entries[k].pair * PAIR_FLOATS;
        if (k >= AHEAD) __builtin_prefetch(ellipses + entries[k - AHEAD].id);
        if (k >= WRITE_AHEAD) {
            const char *later = (const char *)(pairs + (size_t)entries[k - WRITE_AHEAD].pair * PAIR_FLOATS);
            __builtin_prefetch(later, 1), __builtin_prefetch(later + 36, 1);
        }
        vf sum[PAIR_FLOATS];
        UNROLL for (int i = 0; i < PAIR_FLOATS; i++) sum[i] = v_set(0);
        if (masks[k]) {
            ellipse e = ellipses[entries[k].id];
            e.x -= (float)x, e.y -= (float)y;
            for (uint32_t mask = masks[k]; mask; mask &= mask - 1) unblend(&e, r + __builtin_ctz(mask), k, with_depth, sum);
        }
        write_sums(sum, out);
    }
}

static void undo_colors(const job *j, int x, int y, rays *r, const tile_entry *entries, const uint16_t *masks, int32_t count) {
    undo_entries(j, x, y, r, entries, masks, count, 0);
}

static void undo_colors_and_depth(const job *j, int x, int y, rays *r, const tile_entry *entries, const uint16_t *masks, int32_t count) {
    undo_entries(j, x, y, r, entries, masks, count, 1);
}

void raster_backward(const job *j, const reconx_pictures *in, float *v_backs) {
    const uint32_t *starts = j->view->tile_starts.data;
    int tiles = j->tiles_x * j->tiles_y;
    rays r[TILE_BLOCKS];
    for (int i = 0; i < TILE_BLOCKS * BLOCK_PIXELS; i++) {
        r[i / 16].x[i % 16] = (float)(i / 16 % 4 * 4 + i % 4), r[i / 16].y[i % 16] = (float)(i / 64 * 4 + i % 16 / 4);
    }
    for (int i; (i = __atomic_fetch_add(&j->context->next_tile, 1, __ATOMIC_RELAXED)) < tiles;) {
        int x = i % j->tiles_x * TILE, y = i / j->tiles_x * TILE;
        const tile_entry *entries = (const tile_entry *)j->view->entries.data + starts[i];
        const uint16_t *masks = (const uint16_t *)j->view->masks.data + starts[i];
        int32_t count = (int32_t)(starts[i + 1] - starts[i]);
        start_rays(j, x, y, (const block_state *)j->view->pixels.data + (size_t)i * TILE_BLOCKS, in, r, v_backs + 3 * (size_t)i);
        (in->depth ? undo_colors_and_depth : undo_colors)(j, x, y, r, entries, masks, count);
    }
}
