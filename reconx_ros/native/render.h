/* Gaussian splatting on the CPU: what the stages share.
 *
 * One call renders one camera after the other. Stages of one camera, each spread over the threads of one team:
 * project (Gaussians to ellipses), sort (by depth), bin (which ellipse touches which 16 x 16 tile), raster.
 * Results do not depend on the number of threads: every sum has a fixed order.
 */
#ifndef RECONX_RENDER_H
#define RECONX_RENDER_H

#include <stddef.h>
#include <stdint.h>

#define TILE 16            /* pixels along a tile's side */
#define BLOCK_PIXELS 16    /* a tile holds 4 x 4 blocks of 4 x 4 pixels */
#define TILE_BLOCKS 16
#define MAX_UNCULLED 16    /* a rectangle of more tiles is cut to the ellipse */
#define PAIR_FLOATS 10     /* gradient of one ellipse from one tile */
#define CAMERA_FLOATS 20   /* gradient of one camera: rotation 9, translation 3, centre 3, fx fy cx cy, spare */
#define SORT_BINS 8192     /* most bins of one sorting pass */
#define CAMERA_GROUP 1024  /* Gaussians whose camera gradients are summed before the groups are */

#define MAX_ALPHA 0.999f
#define MIN_ALPHA (1.0f / 255.0f)
#define LOG2_MIN_ALPHA -7.99435343685885793f
#define MIN_TRANSMITTANCE 1e-4f
#define DILATION 0.3f          /* px^2 */
#define FRUSTUM_MARGIN 0.15f   /* of the picture's size */
#define HALF_LOG2E 0.72134752044448170f
#define FAR_PLANE 1e10f

enum { INPUT_MEANS = 1, INPUT_QUATS = 2, INPUT_SCALES = 4, INPUT_OPACITIES = 8, INPUT_SH = 16 };
enum { STATUS_OK = 0, STATUS_MEMORY = -1, STATUS_TOO_MANY = -2 };

/* What to render; mirrored by ctypes. Arrays are row-major and contiguous. */
typedef struct {
    int32_t count, bases, cameras, width, height, antialiased, threads;
    float near_plane;
    const float *means;          /* [N, 3] */
    const float *quats;          /* [N, 4] wxyz */
    const float *scales;         /* [N, 3] */
    const float *opacities;      /* [N] */
    const float *sh;             /* [N, K, 3] */
    const float *cam_from_world; /* [C, 4, 4] */
    const float *intrinsics;     /* [C, 3, 3] */
    const float *background;     /* [C, 3] or NULL */
} reconx_scene;

/* Pictures (forward) or their gradients (backward, where any may be NULL). */
typedef struct {
    float *rgb;   /* [C, H, W, 3] */
    float *alpha; /* [C, H, W] */
    float *depth; /* [C, H, W] */
} reconx_pictures;

/* Gradients of the inputs; any may be NULL. */
typedef struct {
    float *means, *quats, *scales, *opacities, *sh, *cam_from_world, *intrinsics, *background;
} reconx_gradients;

/* One ellipse: a row of 16 floats, 64 bytes. alpha(x, y) = 2^(log2_opacity - u^2 - v^2),
 * u = l11 dx + l21 dy, v = l22 dy, d = pixel - mean: a Cholesky factor of the conic, which keeps needles exact. */
typedef struct {
    float x, y, l11, l21, l22, log2_opacity, limit; /* limit: alpha is below MIN_ALPHA where u^2 + v^2 is above */
    float r, g, b, depth;
    float half_width;       /* of the visible part, px */
    float reach_u, reach_v; /* half the span of u and v over a block */
    float spare[2];
} ellipse;

typedef struct {
    uint16_t x0, x1, y0, y1; /* tiles, x1 and y1 excluded */
} tile_rect;

typedef struct {
    uint32_t id;   /* Gaussian */
    uint32_t pair; /* row of pair_gradients */
} tile_entry;

/* What backward needs of one block of pixels. */
typedef struct {
    float transmittance[BLOCK_PIXELS];
    float alpha[BLOCK_PIXELS];
    float depth[BLOCK_PIXELS];   /* sum of w z */
    int32_t last[BLOCK_PIXELS];  /* position in the tile's list of the last Gaussian before the ray ended */
} block_state;

typedef struct {
    void *data;
    size_t capacity;
} buffer;

/* State of one rendered camera. */
typedef struct {
    buffer ellipses;    /* ellipse [N] */
    buffer rects;       /* tile_rect [N] */
    buffer pair_starts; /* uint32 [N + 1] */
    buffer tile_starts; /* uint32 [tiles + 1] */
    buffer entries;     /* tile_entry [pairs] */
    buffer masks;       /* uint16 [pairs]: which blocks of its tile an entry touches */
    buffer pixels;      /* block_state [tiles * TILE_BLOCKS] */
    uint32_t pairs;
} view;

typedef struct {
    uint64_t *keys;
    uint64_t pairs;
    uint32_t count, bad_inputs;
    uint32_t low, high; /* bits of the nearest and farthest depth */
    char padding[128];
} thread_state;

typedef struct {
    int view_count;
    view *views;
    buffer keys[2];        /* uint64 [N]: depth bits, id */
    buffer histograms;     /* uint32 [threads * bins] */
    buffer tile_counts;    /* uint32 [threads * tiles] */
    buffer threads;        /* thread_state [threads] */
    buffer pair_gradients; /* float [pairs * PAIR_FLOATS] */
    buffer partials;       /* float: per group of Gaussians, then per tile */
    buffer images;         /* of ssim.c */
    int32_t next_tile;     /* shared counter of the team */
    int32_t status;
} context;

/* One camera of a call, as every stage sees it. */
typedef struct {
    const reconx_scene *scene;
    context *context;
    view *view;
    int camera, tiles_x, tiles_y;
    float rotation[9], translation[3], centre[3];
    float fx, fy, cx, cy;
    float limit_x[2], limit_y[2]; /* of x / z and y / z in the Jacobian */
} job;

void *buffer_reserve(buffer *b, size_t bytes); /* NULL without memory; contents are lost when it grows */

void project_forward(const job *j, int thread, int threads);
void project_backward(const job *j, const reconx_gradients *g, int thread, int threads);
void sort_by_depth(const job *j, int thread, int threads); /* sorted keys end in context->keys[0] */
void bin_tiles(const job *j, int thread, int threads);
void raster_forward(const job *j, const reconx_pictures *out);
void raster_backward(const job *j, const reconx_pictures *in, float *v_backs); /* v_backs: [tiles, 3] */
uint32_t count_pairs(const ellipse *e, tile_rect rect); /* tiles of the rectangle that the ellipse touches */
int tile_row_span(const ellipse *e, tile_rect rect, int row, int *x0, int *x1);

static inline void thread_range(uint32_t total, uint32_t grain, int thread, int threads, uint32_t *begin, uint32_t *end) {
    uint64_t grains = ((uint64_t)total + grain - 1) / grain;
    uint64_t first = grains * (uint64_t)thread / (uint64_t)threads * grain;
    uint64_t last = grains * (uint64_t)(thread + 1) / (uint64_t)threads * grain;
    *begin = (uint32_t)(first < total ? first : total);
    *end = (uint32_t)(last < total ? last : total);
}

#endif
