/* Stages 2 and 3: order the ellipses by depth, then list for each tile those that touch it, nearest first. */
#include <math.h>
#include <string.h>

#include "render.h"

#define AHEAD 16 /* Gaussians between fetching a rectangle and using it */
#define MAX_DIGIT_BITS 13 /* 2^13 = SORT_BINS */

/* Where a thread reads its share of the keys: its own after projection, an even share of all afterwards. */
typedef struct {
    const uint64_t *keys;
    uint32_t count;
} share;

static uint32_t total_visible(const thread_state *states, int threads) {
    uint32_t total = 0;
    for (int t = 0; t < threads; t++) total += states[t].count;
    return total;
}

static share even_share(const uint64_t *keys, uint32_t total, int thread, int threads) {
    uint32_t begin, end;
    thread_range(total, 1, thread, threads, &begin, &end);
    return (share){keys + begin, end - begin};
}

/* One stable pass of a radix sort. Every thread of the team calls it. */
static void sort_pass(share mine, uint64_t *out, uint32_t *histograms, uint32_t low, int shift, int bits, int thread, int threads) {
    uint32_t bins = 1u << bits, *counts = histograms + (size_t)thread * bins;
    memset(counts, 0, bins * sizeof *counts);
    for (uint32_t i = 0; i < mine.count; i++) counts[(((uint32_t)(mine.keys[i] >> 32) - low) >> shift) & (bins - 1)]++;
#pragma omp barrier
#pragma omp single
    for (uint32_t b = 0, sum = 0; b < bins; b++) {
        for (int t = 0; t < threads; t++) {
            uint32_t *c = histograms + (size_t)t * bins + b, here = *c;
            *c = sum;
            sum += here;
        }
    }
    for (uint32_t i = 0; i < mine.count; i++) {
        uint64_t key = mine.keys[i];
        out[counts[(((uint32_t)(key >> 32) - low) >> shift) & (bins - 1)]++] = key;
    }
#pragma omp barrier
}

void sort_by_depth(const job *j, int thread, int threads) {
    const thread_state *states = j->context->threads.data;
    uint64_t *keys[2] = {j->context->keys[0].data, j->context->keys[1].data};
    uint32_t low = UINT32_MAX, high = 0, total = total_visible(states, threads);
    for (int t = 0; t < threads; t++) {
        low = states[t].low < low ? states[t].low : low;
        high = states[t].high > high ? states[t].high : high;
    }
    int bits = high > low ? 32 - __builtin_clz(high - low) : 1;
    int passes = (bits + MAX_DIGIT_BITS - 1) / MAX_DIGIT_BITS, digit = (bits + passes - 1) / passes;
    share mine = {states[thread].keys, states[thread].count};
    for (int p = 0; p < passes; p++) {
        sort_pass(mine, keys[(p + 1) & 1], j->context->histograms.data, low, p * digit, digit, thread, threads);
        mine = even_share(keys[(p + 1) & 1], total, thread, threads);
    }
    if (passes & 1) { /* one barrier more, so that callers find the result in one place */
        memcpy(keys[0] + (mine.keys - keys[1]), mine.keys, mine.count * sizeof *mine.keys);
#pragma omp barrier
    }
}

/* Tiles of one row of the rectangle that the ellipse touches: [x0, x1), 0 if none. Never inlined: counting and filling
 * must agree to the last bit. */
__attribute__((noinline)) int tile_row_span(const ellipse *e, tile_rect rect, int row, int *x0, int *x1) {
    float top = (float)(row * TILE) - e->y, bottom = top + (float)(TILE - 1);
    float nearest = top > 0 ? top : bottom < 0 ? bottom : 0;
    float room = e->limit * 1.00001f - e->l22 * e->l22 * nearest * nearest;
    if (!(room >= 0)) return 0;
    float slant = -e->l21 / e->l11; /* the widest point of each row lies on x = slant * y */
    float half = e->half_width, tip = half > 0 ? slant * e->limit / (e->l22 * e->l22 * half) : 0; /* y of the rightmost point */
    float right = 0, left = 0;
    for (int side = 0; side < 2; side++) {
        float y = side ? -tip : tip;
        y = y < top ? top : y > bottom ? bottom : y;
        float rest = e->limit - e->l22 * e->l22 * y * y, wide = rest > 0 ? sqrtf(rest) / e->l11 : 0;
        if (side) left = slant * y - wide;
        else right = slant * y + wide;
    }
    float slack = 1e-3f + 1e-5f * half;
    float first = floorf((e->x + left - slack) * (1.0f / TILE)), last = floorf((e->x + right + slack) * (1.0f / TILE));
    *x0 = first > (float)rect.x0 ? (int)first : rect.x0;
    *x1 = last < (float)(rect.x1 - 1) ? (int)last + 1 : rect.x1;
    return *x1 > *x0;
}

uint32_t count_pairs(const ellipse *e, tile_rect rect) {
    uint32_t pairs = 0;
    for (int row = rect.y0, x0, x1; row < rect.y1; row++) {
        if (tile_row_span(e, rect, row, &x0, &x1)) pairs += (uint32_t)(x1 - x0);
    }
    return pairs;
}

/* Count (entries NULL) or enter the tiles of one Gaussian; counters: per tile. */
static inline void visit_tiles(const job *j, uint32_t id, uint32_t *counters, tile_entry *entries) {
    tile_rect rect = ((const tile_rect *)j->view->rects.data)[id];
    uint32_t pair = entries ? ((const uint32_t *)j->view->pair_starts.data)[id] : 0;
    uint32_t *first = counters + (size_t)rect.y0 * (size_t)j->tiles_x + rect.x0;
    uint32_t width = rect.x1 - rect.x0, height = rect.y1 - rect.y0;
    if (width <= 2 && height <= 2) { /* the usual case, without branches on how many there are */
        tile_entry unused;
        for (uint32_t k = 0; k < 4; k++) {
            uint32_t x = k & 1, y = k >> 1, inside = (x < width) & (y < height);
            uint32_t *counter = first + (inside ? y * (uint32_t)j->tiles_x + x : 0);
            if (entries) *(inside ? entries + *counter : &unused) = (tile_entry){id, pair};
            *counter += inside, pair += inside;
        }
        return;
    }
    const ellipse *e = (const ellipse *)j->view->ellipses.data + id;
    int culled = width * height > MAX_UNCULLED;
    for (int row = rect.y0; row < rect.y1; row++) {
        int x0 = rect.x0, x1 = rect.x1;
        if (culled && !tile_row_span(e, rect, row, &x0, &x1)) continue;
        uint32_t *counter = counters + (size_t)row * (size_t)j->tiles_x;
        for (int x = x0; x < x1; x++) {
            uint32_t at = counter[x]++;
            if (entries) entries[at] = (tile_entry){id, pair++};
        }
    }
}

/* Turn counts per thread and tile into first positions. */
static void start_tiles(const job *j, uint32_t *counts, size_t tiles, int threads) {
    uint32_t *starts = j->view->tile_starts.data, sum = 0;
    for (size_t i = 0; i < tiles; i++) {
        starts[i] = sum;
        for (int t = 0; t < threads; t++) {
            uint32_t *c = counts + (size_t)t * tiles + i, here = *c;
            *c = sum;
            sum += here;
        }
    }
    starts[tiles] = sum;
}

/* Pair numbers become global: each thread adds the pairs of those before it. */
static void shift_pair_starts(const job *j, int thread, int threads) {
    const thread_state *states = j->context->threads.data;
    uint32_t *starts = j->view->pair_starts.data, begin, end, base = 0;
    for (int t = 0; t < thread; t++) base += (uint32_t)states[t].pairs;
    thread_range((uint32_t)j->scene->count, CAMERA_GROUP, thread, threads, &begin, &end);
    for (uint32_t i = begin; base && i < end; i++) starts[i] += base;
    if (thread == threads - 1) starts[j->scene->count] = base + (uint32_t)states[thread].pairs;
}

void bin_tiles(const job *j, int thread, int threads) {
    size_t tiles = (size_t)j->tiles_x * (size_t)j->tiles_y;
    uint32_t *all = j->context->tile_counts.data, *counts = all + (size_t)thread * tiles;
    share mine = even_share(j->context->keys[0].data, total_visible(j->context->threads.data, threads), thread, threads);
    const tile_rect *rects = j->view->rects.data;
    const uint32_t *pair_starts = j->view->pair_starts.data;
    memset(counts, 0, tiles * sizeof *counts);
    for (uint32_t i = 0; i < mine.count; i++) {
        if (i + AHEAD < mine.count) __builtin_prefetch(rects + (uint32_t)mine.keys[i + AHEAD]);
        visit_tiles(j, (uint32_t)mine.keys[i], counts, NULL);
    }
    shift_pair_starts(j, thread, threads);
#pragma omp barrier
#pragma omp single
    start_tiles(j, all, tiles, threads);
    for (uint32_t i = 0; i < mine.count; i++) {
        if (i + AHEAD < mine.count) {
            __builtin_prefetch(rects + (uint32_t)mine.keys[i + AHEAD]);
            __builtin_prefetch(pair_starts + (uint32_t)mine.keys[i + AHEAD]);
        }
        visit_tiles(j, (uint32_t)mine.keys[i], counts, j->view->entries.data);
    }
#pragma omp barrier
}
