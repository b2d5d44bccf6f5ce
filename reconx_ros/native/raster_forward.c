/* Stage 4, forward: blend the ellipses of each tile front to back. */
#include "raster.h"

#define CHUNK 256 /* entries of a tile's list handled at once: their ellipses stay in the first-level cache */

/* A tile while it is drawn. */
typedef struct {
    const job *job;
    int x, y; /* first pixel */
    tile_grid grid;
    uint32_t alive; /* one bit per block with a ray that goes on */
    block_state *states;
    float (*going)[BLOCK_PIXELS];     /* [TILE_BLOCKS] */
    float (*colors)[3][BLOCK_PIXELS]; /* [TILE_BLOCKS] */
    ellipse *ellipses;                /* [CHUNK], relative to the tile */
} tile;

/* Running sums of one block. `going` is the transmittance without the end of rays: a product that nothing holds up. Where
 * it is too small the ray has ended; `transmittance` keeps its last value before that. */
typedef struct {
    vf going[PARTS_PER_BLOCK], transmittance[PARTS_PER_BLOCK], alpha[PARTS_PER_BLOCK], depth[PARTS_PER_BLOCK];
    vf r[PARTS_PER_BLOCK], g[PARTS_PER_BLOCK], b[PARTS_PER_BLOCK];
    vi last[PARTS_PER_BLOCK];
} sums;

static void start_tile(tile *t) {
    const reconx_scene *s = t->job->scene;
    int width = s->width - t->x, height = s->height - t->y; /* what is left of the picture */
    memset(t->colors, 0, TILE_BLOCKS * sizeof *t->colors);
    t->alive = 0;
    for (int b = 0; b < TILE_BLOCKS; b++) {
        block_state *state = t->states + b;
        int x = b % 4 * 4, y = b / 4 * 4;
        t->alive |= (uint32_t)(x < width && y < height) << b;
        FOR_PARTS {
            vm inside = m_and(v_lt(t->grid.pixel_x[p] + (float)x, v_set((float)width)), v_lt(t->grid.pixel_y[p] + (float)y, v_set((float)height)));
            v_store(t->going[b] + p * LANES, v_keep(inside, v_set(1)));
            v_store(state->transmittance + p * LANES, v_set(1));
            v_store(state->alpha + p * LANES, v_set(0));
            v_store(state->depth + p * LANES, v_set(0));
            v_store((float *)state->last + p * LANES, (vf)v_seti(-1));
        }
    }
}

/* Copy the ellipses of some entries and find the blocks that each may touch. */
static void gather(const tile *t, const tile_entry *entries, int count, uint16_t *masks) {
    const ellipse *all = t->job->view->ellipses.data;
    const float x = (float)t->x, y = (float)t->y;
    for (int i = 0; i < count; i++) {
        if (i + AHEAD < count) __builtin_prefetch(all + entries[i + AHEAD].id);
        const ellipse *in = all + entries[i].id;
        ellipse *e = t->ellipses + i;
        *e = *in;
        e->x = in->x - x, e->y = in->y - y;
        masks[i] = (uint16_t)(touched_blocks(&t->grid, in) & t->alive);
    }
}

INLINE void load_sums(const tile *t, int block, sums *s) {
    const block_state *state = t->states + block;
    FOR_PARTS {
        s->going[p] = v_load(t->going[block] + p * LANES);
        s->transmittance[p] = v_load(state->transmittance + p * LANES);
        s->alpha[p] = v_load(state->alpha + p * LANES);
        s->depth[p] = v_load(state->depth + p * LANES);
        s->r[p] = v_load(t->colors[block][0] + p * LANES);
        s->g[p] = v_load(t->colors[block][1] + p * LANES);
        s->b[p] = v_load(t->colors[block][2] + p * LANES);
        s->last[p] = (vi)v_load((const float *)state->last + p * LANES);
    }
}

INLINE void save_sums(const tile *t, int block, const sums *s) {
    block_state *state = t->states + block;
    FOR_PARTS {
        v_store(t->going[block] + p * LANES, s->going[p]);
        v_store(state->transmittance + p * LANES, s->transmittance[p]);
        v_store(state->alpha + p * LANES, s->alpha[p]);
        v_store(state->depth + p * LANES, s->depth[p]);
        v_store(t->colors[block][0] + p * LANES, s->r[p]);
        v_store(t->colors[block][1] + p * LANES, s->g[p]);
        v_store(t->colors[block][2] + p * LANES, s->b[p]);
        v_store((float *)state->last + p * LANES, (vf)s->last[p]);
    }
}

/* Blend one ellipse; says whether any ray goes on. */
INLINE int blend(const ellipse *e, const vf *x, const vf *y, int32_t position, sums *s) {
    int going = 0;
    FOR_PARTS {
        vf dx, dy;
        vm counts;
        vf alpha = v_min(alpha_at(e, x[p], y[p], &dx, &dy, &counts), v_set(MAX_ALPHA));
        alpha = v_keep(counts, alpha);
        vf before = s->going[p], after = v_fma(-alpha, before, before);
        vm on = v_lt(v_set(MIN_TRANSMITTANCE), after);
        vf weight = v_keep(on, alpha * before);
        s->going[p] = after;
        s->transmittance[p] = v_select(on, after, s->transmittance[p]);
        s->last[p] = v_selecti(on, v_seti(position), s->last[p]);
        s->alpha[p] += weight;
        s->r[p] = v_fma(weight, v_set(e->r), s->r[p]);
        s->g[p] = v_fma(weight, v_set(e->g), s->g[p]);
        s->b[p] = v_fma(weight, v_set(e->b), s->b[p]);
        s->depth[p] = v_fma(weight, v_set(e->depth), s->depth[p]);
        going |= m_any(on);
    }
    return going;
}

/* One bit per entry of 64 whose mask has the block's bit. */
INLINE uint64_t select_entries(const uint16_t *masks, int block) {
    uint64_t bits = 0;
#if SIMD_AVX512
    const __m512i bit = _mm512_set1_epi16((short)(1 << block));
    for (int i = 0; i < 2; i++) bits |= (uint64_t)_mm512_test_epi16_mask(_mm512_loadu_si512(masks + 32 * i), bit) << (32 * i);
#elif SIMD_AVX2
    const __m256i bit = _mm256_set1_epi16((short)(1 << block));
    for (int i = 0; i < 2; i++) {
        __m256i a = _mm256_loadu_si256((const __m256i *)(masks + 32 * i)), b = _mm256_loadu_si256((const __m256i *)(masks + 32 * i + 16));
        a = _mm256_cmpeq_epi16(_mm256_and_si256(a, bit), bit), b = _mm256_cmpeq_epi16(_mm256_and_si256(b, bit), bit);
        __m256i packed = _mm256_permute4x64_epi64(_mm256_packs_epi16(a, b), 0xd8);
        bits |= (uint64_t)(uint32_t)_mm256_movemask_epi8(packed) << (32 * i);
    }
#elif SIMD_SSE2
    const __m128i bit = _mm_set1_epi16((short)(1 << block));
    for (int i = 0; i < 4; i++) {
        const __m128i *in = (const __m128i *)(const void *)(masks + 16 * i);
        __m128i a = _mm_loadu_si128(in), b = _mm_loadu_si128(in + 1);
        a = _mm_cmpeq_epi16(_mm_and_si128(a, bit), bit), b = _mm_cmpeq_epi16(_mm_and_si128(b, bit), bit);
        bits |= (uint64_t)(uint32_t)_mm_movemask_epi8(_mm_packs_epi16(a, b)) << (16 * i);
    }
#else
    for (int i = 0; i < 16; i++) { /* four masks at once; the product collects bits 0, 16, 32, 48 of each in bits 48 to 51 */
        uint64_t four;
        memcpy(&four, masks + 4 * i, 8);
        four = four >> block & 0x0001000100010001u;
        bits |= ((four * 0x0001000200040008u) >> 48 & 15) << (4 * i);
    }
#endif
    return bits;
}

/* Blend a chunk into one block. When its last ray ends, later entries no longer touch the block. */
static void draw_block(tile *t, int block, uint16_t *masks, int count, int32_t position) {
    sums s;
    vf x[PARTS_PER_BLOCK], y[PARTS_PER_BLOCK];
    FOR_PARTS {
        x[p] = t->grid.pixel_x[p] + (float)(block % 4 * 4);
        y[p] = t->grid.pixel_y[p] + (float)(block / 4 * 4);
    }
    load_sums(t, block, &s);
    for (int base = 0; base < count; base += 64) {
        FOR_PARTS s.going[p] = v_keep(v_lt(v_set(1e-30f), s.going[p]), s.going[p]); /* no denormal numbers */
        for (uint64_t bits = select_entries(masks + base, block); bits; bits &= bits - 1) {
            int i = base + __builtin_ctzll(bits);
            if (blend(t->ellipses + i, x, y, position + i, &s)) continue;
            save_sums(t, block, &s);
            for (int k = i; k < count; k++) masks[k] &= (uint16_t) ~(1u << block);
            t->alive &= ~(1u << block);
            return;
        }
    }
    save_sums(t, block, &s);
}

static void draw_lists(tile *t, const tile_entry *entries, uint16_t *masks, uint32_t count) {
    uint16_t chunk_masks[CHUNK];
    uint32_t first = 0;
    for (; first < count && t->alive; first += CHUNK) {
        int n = count - first < CHUNK ? (int)(count - first) : CHUNK;
        memset(chunk_masks, 0, sizeof chunk_masks);
        gather(t, entries + first, n, chunk_masks);
        for (uint32_t blocks = t->alive; blocks; blocks &= blocks - 1) {
            draw_block(t, __builtin_ctz(blocks), chunk_masks, n, (int32_t)first);
        }
        memcpy(masks + first, chunk_masks, (size_t)n * sizeof *masks);
    }
    if (first < count) memset(masks + first, 0, (count - first) * sizeof *masks);
}

/* Finish one block: the background behind the colours, alpha and expected depth, pixel after pixel. */
INLINE void finish_block(const tile *t, int block, const float *back, float (*rgb)[3], float *alpha, float *depth) {
    const block_state *state = t->states + block;
    float planes[3][BLOCK_PIXELS];
    FOR_PARTS {
        vf a = v_load(state->alpha + p * LANES), through = v_load(state->transmittance + p * LANES);
        for (int c = 0; c < 3; c++) v_store(planes[c] + p * LANES, v_fma(through, v_set(back[c]), v_load(t->colors[block][c] + p * LANES)));
        v_store(alpha + p * LANES, a);
        v_store(depth + p * LANES, v_load(state->depth + p * LANES) / v_max(a, v_set(1e-10f)));
    }
    UNROLL for (int i = 0; i < BLOCK_PIXELS; i++) {
        for (int c = 0; c < 3; c++) rgb[i][c] = planes[c][i];
    }
}

/* Write the part of the tile that is inside of the picture. */
static void write_tile(const tile *t, const reconx_pictures *out) {
    const reconx_scene *s = t->job->scene;
    const float none[3] = {0, 0, 0}, *back = s->background ? s->background + 3 * t->job->camera : none;
    for (int b = 0; b < TILE_BLOCKS; b++) {
        float rgb[BLOCK_PIXELS][3], alpha[BLOCK_PIXELS], depth[BLOCK_PIXELS];
        int x = t->x + b % 4 * 4, y = t->y + b / 4 * 4;
        int wide = s->width - x < 4 ? s->width - x : 4, high = s->height - y < 4 ? s->height - y : 4;
        if (wide <= 0 || high <= 0) continue;
        finish_block(t, b, back, rgb, alpha, depth);
        for (int row = 0; row < high; row++) {
            size_t at = ((size_t)t->job->camera * (size_t)s->height + (size_t)(y + row)) * (size_t)s->width + (size_t)x;
            size_t n = (size_t)wide;
            if (wide == 4) { /* known sizes become single moves */
                memcpy(out->rgb + 3 * at, rgb[4 * row], 48), memcpy(out->alpha + at, alpha + 4 * row, 16), memcpy(out->depth + at, depth + 4 * row, 16);
            } else {
                memcpy(out->rgb + 3 * at, rgb[4 * row], 12 * n), memcpy(out->alpha + at, alpha + 4 * row, 4 * n), memcpy(out->depth + at, depth + 4 * row, 4 * n);
            }
        }
    }
}

void raster_forward(const job *j, const reconx_pictures *out) {
    float going[TILE_BLOCKS][BLOCK_PIXELS], colors[TILE_BLOCKS][3][BLOCK_PIXELS];
    ellipse ellipses[CHUNK];
    tile t = {.job = j, .going = going, .colors = colors, .ellipses = ellipses};
    const uint32_t *starts = j->view->tile_starts.data;
    int tiles = j->tiles_x * j->tiles_y;
    make_grid(&t.grid);
    for (int i; (i = __atomic_fetch_add(&j->context->next_tile, 1, __ATOMIC_RELAXED)) < tiles;) {
        t.x = i % j->tiles_x * TILE, t.y = i / j->tiles_x * TILE;
        t.states = (block_state *)j->view->pixels.data + (size_t)i * TILE_BLOCKS;
        move_grid(&t.grid, t.x, t.y);
        start_tile(&t);
        draw_lists(&t, (const tile_entry *)j->view->entries.data + starts[i], (uint16_t *)j->view->masks.data + starts[i], starts[i + 1] - starts[i]);
        write_tile(&t, out);
    }
}
