/* What both directions of the last stage share: blocks of 4 x 4 pixels in PARTS_PER_BLOCK vectors. */
#ifndef RECONX_RASTER_H
#define RECONX_RASTER_H

#include "render.h"
#include "simd.h"

#define PARTS_PER_BLOCK (BLOCK_PIXELS / LANES)
#define AHEAD 16 /* entries between fetching an ellipse and using it */
#define FOR_PARTS UNROLL for (int p = 0; p < PARTS_PER_BLOCK; p++)

/* Coordinates of a tile's blocks and pixels. */
typedef struct {
    vf x[TILE_BLOCKS / LANES], y[TILE_BLOCKS / LANES];     /* centres of the blocks in the picture, one per lane */
    vf pixel_x[PARTS_PER_BLOCK], pixel_y[PARTS_PER_BLOCK]; /* pixels of a block, from its first */
} tile_grid;

INLINE void make_grid(tile_grid *g) {
    for (int i = 0; i < BLOCK_PIXELS; i++) {
        g->pixel_x[i / LANES][i % LANES] = (float)(i % 4), g->pixel_y[i / LANES][i % LANES] = (float)(i / 4);
    }
}

INLINE void move_grid(tile_grid *g, int x, int y) {
    for (int i = 0; i < TILE_BLOCKS; i++) {
        g->x[i / LANES][i % LANES] = (float)(x + i % 4 * 4) + 1.5f, g->y[i / LANES][i % LANES] = (float)(y + i / 4 * 4) + 1.5f;
    }
}

/* One bit per block of the tile that may hold a pixel of the ellipse. */
INLINE uint32_t touched_blocks(const tile_grid *grid, const ellipse *e) {
    uint32_t bits = 0;
    UNROLL for (int i = 0; i < TILE_BLOCKS / LANES; i++) {
        vf dy = grid->y[i] - e->y;
        vf u = v_fma(v_set(e->l11), grid->x[i] - e->x, e->l21 * dy), v = e->l22 * dy;
        vf least_u = v_max(v_abs(u) - e->reach_u, v_set(0)), least_v = v_max(v_abs(v) - e->reach_v, v_set(0));
        bits |= m_bits(v_le(v_fma(least_u, least_u, least_v * least_v), v_set(e->limit))) << (i * LANES);
    }
    return bits;
}

/* Opacity before the cap at pixels x, y, where it counts; elsewhere nonsense. */
INLINE vf alpha_at(const ellipse *e, vf x, vf y, vf *dx, vf *dy, vm *counts) {
    *dx = x - e->x, *dy = y - e->y;
    vf u = v_fma(v_set(e->l11), *dx, e->l21 * *dy), v = e->l22 * *dy;
    vf power = v_fma(-u, u, v_fma(-v, v, v_set(e->log2_opacity)));
    *counts = v_le(v_set(LOG2_MIN_ALPHA), power);
    return v_exp2(power);
}

#endif
