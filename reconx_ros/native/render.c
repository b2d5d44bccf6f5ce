/* The calls that Python makes: contexts, rendering and its gradient. */
#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "render.h"

#define EXPORT __attribute__((visibility("default")))
#define ABI_VERSION 1

EXPORT int reconx_abi_version(void) { return ABI_VERSION; }

/* Memory ---------------------------------------------------------------------------------------------------------- */

void *buffer_reserve(buffer *b, size_t bytes) {
    if (bytes > b->capacity || b->data == NULL) {
        size_t capacity = (bytes + bytes / 8 + 4096) / 64 * 64;
        free(b->data);
        b->data = aligned_alloc(64, capacity);
        b->capacity = b->data ? capacity : 0;
    }
    return b->data;
}

static void release(buffer *b, size_t count) {
    for (size_t i = 0; i < count; i++) free(b[i].data);
}

EXPORT context *reconx_context_new(void) { return calloc(1, sizeof(context)); }

static void release_view(view *v) {
    buffer all[] = {v->ellipses, v->rects, v->pair_starts, v->tile_starts, v->entries, v->masks, v->pixels};
    release(all, sizeof all / sizeof *all);
}

EXPORT void reconx_context_free(context *c) {
    if (c == NULL) return;
    for (int i = 0; i < c->view_count; i++) release_view(c->views + i);
    buffer all[] = {c->keys[0], c->keys[1], c->histograms, c->tile_counts, c->threads, c->pair_gradients, c->partials, c->images};
    release(all, sizeof all / sizeof *all);
    free(c->views);
    free(c);
}

static int reserve_views(context *c, int count) {
    if (count <= c->view_count) return 1;
    view *views = realloc(c->views, (size_t)count * sizeof *views);
    if (views == NULL) return 0;
    memset(views + c->view_count, 0, (size_t)(count - c->view_count) * sizeof *views);
    c->views = views, c->view_count = count;
    return 1;
}

static int reserve_shared(context *c, const reconx_scene *s, size_t tiles) {
    size_t n = (size_t)s->count, threads = (size_t)s->threads;
    return buffer_reserve(&c->keys[0], n * 8) && buffer_reserve(&c->keys[1], n * 8)
           && buffer_reserve(&c->histograms, threads * SORT_BINS * 4) && buffer_reserve(&c->tile_counts, threads * tiles * 4)
           && buffer_reserve(&c->threads, threads * sizeof(thread_state));
}

static int reserve_view(view *v, const reconx_scene *s, size_t tiles) {
    size_t n = (size_t)s->count;
    return buffer_reserve(&v->ellipses, (n + 16) * sizeof(ellipse)) && buffer_reserve(&v->rects, n * sizeof(tile_rect))
           && buffer_reserve(&v->pair_starts, (n + 1) * 4) && buffer_reserve(&v->tile_starts, (tiles + 1) * 4)
           && buffer_reserve(&v->pixels, tiles * TILE_BLOCKS * sizeof(block_state));
}

/* Cameras --------------------------------------------------------------------------------------------------------- */

/* Inverse of the 3 x 3 part of a pose, row-major; zeros when there is none. */
static void invert_rotation(const float *pose, double *out) {
    double m[9], det;
    for (int i = 0; i < 9; i++) m[i] = pose[i / 3 * 4 + i % 3];
    det = m[0] * (m[4] * m[8] - m[5] * m[7]) - m[1] * (m[3] * m[8] - m[5] * m[6]) + m[2] * (m[3] * m[7] - m[4] * m[6]);
    for (int i = 0; i < 3; i++) {
        for (int k = 0; k < 3; k++) {
            int a = (k + 1) % 3, b = (k + 2) % 3, c = (i + 1) % 3, d = (i + 2) % 3;
            out[3 * i + k] = det != 0 ? (m[3 * a + c] * m[3 * b + d] - m[3 * a + d] * m[3 * b + c]) / det : 0;
        }
    }
}

static void camera_centre(const float *pose, const double *inverse, double *centre) {
    for (int i = 0; i < 3; i++) {
        centre[i] = 0;
        for (int k = 0; k < 3; k++) centre[i] -= inverse[3 * i + k] * pose[4 * k + 3];
    }
}

static job make_job(const reconx_scene *s, context *c, int camera, int view_index) {
    job j = {.scene = s, .context = c, .view = c->views + view_index, .camera = camera};
    const float *pose = s->cam_from_world + 16 * camera, *k = s->intrinsics + 9 * camera;
    double inverse[9], centre[3];
    j.tiles_x = (s->width + TILE - 1) / TILE, j.tiles_y = (s->height + TILE - 1) / TILE;
    invert_rotation(pose, inverse);
    camera_centre(pose, inverse, centre);
    for (int i = 0; i < 9; i++) j.rotation[i] = pose[i / 3 * 4 + i % 3];
    for (int i = 0; i < 3; i++) j.translation[i] = pose[4 * i + 3], j.centre[i] = (float)centre[i];
    j.fx = k[0], j.fy = k[4], j.cx = k[2], j.cy = k[5];
    float left = j.cx + 0.5f, top = j.cy + 0.5f, w = (float)s->width, h = (float)s->height; /* from the picture's edges */
    j.limit_x[0] = -(left + FRUSTUM_MARGIN * w) / j.fx, j.limit_x[1] = (w - left + FRUSTUM_MARGIN * w) / j.fx;
    j.limit_y[0] = -(top + FRUSTUM_MARGIN * h) / j.fy, j.limit_y[1] = (h - top + FRUSTUM_MARGIN * h) / j.fy;
    return j;
}

/* Forward --------------------------------------------------------------------------------------------------------- */

/* After projection: were the inputs sound, and is there room for the pairs? */
static void check_projection(const job *j, int threads) {
    const thread_state *states = j->context->threads.data;
    uint64_t pairs = 0;
    uint32_t bad = 0;
    for (int t = 0; t < threads; t++) pairs += states[t].pairs, bad |= states[t].bad_inputs;
    j->context->status = (int32_t)bad;
    if (bad) return;
    if (pairs >= UINT32_MAX) {
        j->context->status = STATUS_TOO_MANY;
    } else if (!buffer_reserve(&j->view->entries, pairs * sizeof(tile_entry)) || !buffer_reserve(&j->view->masks, pairs * 2)) {
        j->context->status = STATUS_MEMORY;
    }
    j->view->pairs = (uint32_t)pairs;
}

static int render_camera(const job *j, const reconx_pictures *out) {
    context *c = j->context;
    c->next_tile = 0, c->status = STATUS_OK;
#pragma omp parallel num_threads(j->scene->threads)
    {
        int thread = omp_get_thread_num(), threads = omp_get_num_threads();
        project_forward(j, thread, threads);
#pragma omp barrier
#pragma omp single
        check_projection(j, threads);
        if (c->status == STATUS_OK) {
            sort_by_depth(j, thread, threads);
            bin_tiles(j, thread, threads);
            raster_forward(j, out);
        }
    }
    return c->status;
}

/* Render every camera. `keep`: keep what reconx_backward needs. Returns a STATUS or a sum of INPUT values. */
EXPORT int reconx_forward(context *c, const reconx_scene *s, const reconx_pictures *out, int keep) {
    size_t tiles = (size_t)((s->width + TILE - 1) / TILE) * (size_t)((s->height + TILE - 1) / TILE);
    if (!reserve_views(c, keep ? s->cameras : 1) || !reserve_shared(c, s, tiles)) return STATUS_MEMORY;
    for (int i = 0; i < s->cameras; i++) {
        job j = make_job(s, c, i, keep ? i : 0);
        int status = reserve_view(j.view, s, tiles) ? render_camera(&j, out) : STATUS_MEMORY;
        if (status != STATUS_OK) return status;
    }
    return STATUS_OK;
}

/* Backward -------------------------------------------------------------------------------------------------------- */

/* Sum rows in order, in double precision. */
static void sum_rows(const float *rows, size_t count, int width, double *out) {
    for (int k = 0; k < width; k++) out[k] = 0;
    for (size_t i = 0; i < count; i++) {
        for (int k = 0; k < width; k++) out[k] += rows[i * (size_t)width + (size_t)k];
    }
}

/* Gradient of one pose [4, 4] and intrinsics [3, 3]. The centre is column 4 of the pose's inverse: the gradient of a
 * general 4 x 4 inverse, so that it is the same as that of the formula by automatic differentiation. */
static void finish_camera(const job *j, size_t groups, const reconx_gradients *g) {
    double sum[CAMERA_FLOATS], inverse[9], centre[3], turned[4] = {0}; /* turned: inverse transposed * gradient of centre */
    const float *pose = j->scene->cam_from_world + 16 * j->camera;
    sum_rows(j->context->partials.data, groups, CAMERA_FLOATS, sum);
    invert_rotation(pose, inverse);
    camera_centre(pose, inverse, centre);
    for (int i = 0; i < 3; i++) {
        for (int k = 0; k < 3; k++) turned[i] += inverse[3 * k + i] * sum[12 + k];
        turned[3] += centre[i] * sum[12 + i];
    }
    for (int i = 0; i < 4 && g->cam_from_world; i++) {
        float *row = g->cam_from_world + 16 * j->camera + 4 * i;
        for (int k = 0; k < 3; k++) row[k] = (float)((i < 3 ? sum[3 * i + k] : 0) - turned[i] * centre[k]);
        row[3] = (float)((i < 3 ? sum[9 + i] : 0) - turned[i]);
    }
    if (g->intrinsics) {
        float *k = g->intrinsics + 9 * j->camera;
        memset(k, 0, 9 * sizeof *k);
        k[0] = (float)sum[15], k[4] = (float)sum[16], k[2] = (float)sum[17], k[5] = (float)sum[18];
    }
}

static void backward_camera(const job *j, const reconx_pictures *in, const reconx_gradients *g) {
    context *c = j->context;
    size_t groups = ((size_t)j->scene->count + CAMERA_GROUP - 1) / CAMERA_GROUP, tiles = (size_t)j->tiles_x * (size_t)j->tiles_y;
    float *v_backs = (float *)c->partials.data + groups * CAMERA_FLOATS;
    c->next_tile = 0;
#pragma omp parallel num_threads(j->scene->threads)
    {
        raster_backward(j, in, v_backs);
#pragma omp barrier
        project_backward(j, g, omp_get_thread_num(), omp_get_num_threads());
    }
    finish_camera(j, groups, g);
    if (g->background) {
        double sum[3];
        sum_rows(v_backs, tiles, 3, sum);
        for (int k = 0; k < 3; k++) g->background[3 * j->camera + k] = (float)sum[k];
    }
}

/* Gradients of the scene that reconx_forward(keep = 1) rendered last in this context, from those of the pictures. */
EXPORT int reconx_backward(context *c, const reconx_scene *s, const reconx_pictures *in, const reconx_gradients *g) {
    size_t tiles = (size_t)((s->width + TILE - 1) / TILE) * (size_t)((s->height + TILE - 1) / TILE), pairs = 0;
    size_t groups = ((size_t)s->count + CAMERA_GROUP - 1) / CAMERA_GROUP;
    for (int i = 0; i < s->cameras; i++) pairs = c->views[i].pairs > pairs ? c->views[i].pairs : pairs;
    if (!buffer_reserve(&c->pair_gradients, (pairs * PAIR_FLOATS + 16) * 4)) return STATUS_MEMORY;
    if (!buffer_reserve(&c->partials, (groups * CAMERA_FLOATS + tiles * 3) * 4)) return STATUS_MEMORY;
    for (int i = 0; i < s->cameras; i++) {
        job j = make_job(s, c, i, i);
        backward_camera(&j, in, g);
    }
    return STATUS_OK;
}
