/* Stage 1, forward: 3-D Gaussians to ellipses on the picture (EWA splatting), their colours, tiles and depth keys. */
#include "ellipses.h"

static uint32_t check_inputs(const reconx_scene *s, size_t first, size_t count) {
    uint32_t bad = 0;
    size_t floats = 3 * (size_t)s->bases;
    if (!all_finite(s->means + 3 * first, 3 * count)) bad |= INPUT_MEANS;
    if (!all_finite(s->quats + 4 * first, 4 * count)) bad |= INPUT_QUATS;
    if (!all_finite(s->scales + 3 * first, 3 * count)) bad |= INPUT_SCALES;
    if (!all_finite(s->opacities + first, count)) bad |= INPUT_OPACITIES;
    if (!all_finite(s->sh + floats * first, floats * count)) bad |= INPUT_SH;
    return bad;
}

/* Colours of the group into columns 7 to 9 of the ellipses. */
static void color_ellipses(const job *j, uint32_t first, int count, group *g, vf *columns) {
    const reconx_scene *s = j->scene;
    size_t row = 3 * (size_t)s->bases;
    vf sh[48], basis[16];
    load_rows(s->sh + row * first, (int)row, (int)row, count, row * ((size_t)s->count - first), sh);
    aim_group(j, g);
    sh_basis(s->bases, g->direction[0], g->direction[1], g->direction[2], basis);
    color_group(s->bases, basis, sh, columns + 7);
    for (int c = 0; c < 3; c++) columns[7 + c] = v_max(columns[7 + c], v_set(0));
}

/* Columns of `ellipse`, without colours. */
static void shape_ellipses(const job *j, const group *g, vf *columns) {
    vf inverse_root = 1.0f / v_sqrt(g->det * g->yy), root = v_set(0.84932180028801907f); /* sqrt(log2(e) / 2) */
    columns[0] = v_fma(v_set(j->fx), g->slope[0], v_set(j->cx));
    columns[1] = v_fma(v_set(j->fy), g->slope[1], v_set(j->cy));
    columns[2] = root * g->yy * inverse_root;
    columns[3] = -root * g->xy * inverse_root;
    columns[4] = root / v_sqrt(g->yy);
    columns[5] = v_log2(v_select(g->visible, g->visible_opacity, v_set(1)));
    columns[6] = v_max(columns[5] - LOG2_MIN_ALPHA, v_set(0)) * 1.00001f + 1e-5f;
    columns[10] = g->cam[2];
    columns[11] = v_sqrt(columns[6] * g->xx * (1.0f / HALF_LOG2E));
    columns[12] = 1.5f * (v_abs(columns[2]) + v_abs(columns[3])), columns[13] = 1.5f * columns[4];
    columns[14] = columns[15] = v_set(0);
}

/* First and last pixel along one axis whose centre lies in mean +- half. */
static void pixel_range(vf mean, vf half, int size, vi *first, vi *last) {
    vf low = v_min(v_max(mean - half, v_set(-1)), v_set((float)size + 1));
    vf high = v_min(v_max(mean + half, v_set(-1)), v_set((float)size));
    vi down = v_floor(low), up = v_floor(high);
    vf exact = __builtin_convertvector(down, vf);
    *first = down + v_selecti(v_lt(exact, low), v_seti(1), v_seti(0));
    *first = v_selecti(v_lei(*first, v_seti(0)), v_seti(0), *first);
    *last = v_selecti(v_lei(v_seti(size - 1), up), v_seti(size - 1), up);
}

/* Tiles of the group; lanes that touch no pixel become invisible. */
static void place_ellipses(const job *j, const vf *columns, group *g, vi *tiles) {
    vi x0, x1, y0, y1;
    vf half_height = v_sqrt(columns[6] * g->yy * (1.0f / HALF_LOG2E));
    pixel_range(columns[0], columns[11], j->scene->width, &x0, &x1);
    pixel_range(columns[1], half_height, j->scene->height, &y0, &y1);
    g->visible = m_and(g->visible, m_and(v_lei(x0, x1), v_lei(y0, y1)));
    tiles[0] = x0 >> 4, tiles[1] = (x1 >> 4) + 1, tiles[2] = y0 >> 4, tiles[3] = (y1 >> 4) + 1;
}

/* Enter the visible lanes: rectangles, pair counts, depth keys. */
static void enter_group(const job *j, uint32_t first, int count, const vi *tiles, uint32_t visible, thread_state *me, uint64_t *keys) {
    const ellipse *ellipses = (const ellipse *)j->view->ellipses.data + first;
    tile_rect *rects = (tile_rect *)j->view->rects.data + first;
    uint32_t *starts = (uint32_t *)j->view->pair_starts.data + first;
    for (int l = 0; l < count; l++) {
        starts[l] = (uint32_t)me->pairs;
        if (!(visible >> l & 1)) continue;
        tile_rect r = {(uint16_t)tiles[0][l], (uint16_t)tiles[1][l], (uint16_t)tiles[2][l], (uint16_t)tiles[3][l]};
        uint32_t area = (uint32_t)(r.x1 - r.x0) * (uint32_t)(r.y1 - r.y0), bits;
        rects[l] = r;
        me->pairs += area > MAX_UNCULLED ? count_pairs(ellipses + l, r) : area;
        memcpy(&bits, &ellipses[l].depth, 4);
        me->low = bits < me->low ? bits : me->low;
        me->high = bits > me->high ? bits : me->high;
        keys[me->count++] = (uint64_t)bits << 32 | (first + (uint32_t)l);
    }
}

static void project_group(const job *j, uint32_t first, int count, thread_state *me, uint64_t *keys) {
    group g;
    vf columns[16];
    vi tiles[4] = {{0}};
    if (j->camera == 0) me->bad_inputs |= check_inputs(j->scene, first, (size_t)count);
    load_group(j->scene, first, count, &g);
    place_group(j, &g);
    uint32_t visible = 0;
    if (m_any(g.visible)) {
        flatten_group(j, &g);
        shape_ellipses(j, &g, columns);
        place_ellipses(j, columns, &g, tiles);
        visible = m_bits(g.visible);
    }
    if (visible) {
        color_ellipses(j, first, count, &g, columns);
        store_rows((float *)((ellipse *)j->view->ellipses.data + first), 16, count, 0, columns);
    }
    enter_group(j, first, count, tiles, visible, me, keys);
}

void project_forward(const job *j, int thread, int threads) {
    thread_state *me = (thread_state *)j->context->threads.data + thread;
    uint32_t begin, end;
    thread_range((uint32_t)j->scene->count, CAMERA_GROUP, thread, threads, &begin, &end);
    *me = (thread_state){.keys = (uint64_t *)j->context->keys[0].data + begin, .low = UINT32_MAX};
    for (uint32_t i = begin; i < end; i += LANES) {
        project_group(j, i, end - i < LANES ? (int)(end - i) : LANES, me, me->keys);
    }
}
