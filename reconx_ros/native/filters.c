/* Clean-up of depth maps; the torch twins are in pointmap/filters.py. */
#include "simd.h"
#include "stereo.h"

static int32_t root_of(int32_t *parent, int32_t i) {
    while (parent[i] != i) i = parent[i] = parent[parent[i]];
    return i;
}

/* The lower index becomes the root, so that a patch is named by its first pixel. */
static void join(int32_t *parent, int32_t a, int32_t b) {
    a = root_of(parent, a), b = root_of(parent, b);
    if (a < b) {
        parent[b] = a;
    } else {
        parent[a] = b;
    }
}

/* Label every pixel with the lowest index of its smooth patch: neighbours in the mask whose depths differ by at most a
 * relative tolerance. Pixels outside the mask are patches of their own. depth and mask [H, W], label [H, W] out. */
EXPORT void reconx_components(int width, int height, const float *depth, const uint8_t *mask, float tolerance, int32_t *label) {
    for (int32_t i = 0; i < width * height; i++) {
        label[i] = i;
        if (!mask[i]) continue;
        int x = i % width;
        for (int k = 0; k < 2; k++) {
            int32_t j = k ? i - width : i - 1;
            if ((k ? i < width : x == 0) || !mask[j]) continue;
            float lower = depth[i] < depth[j] ? depth[i] : depth[j];
            if (fabsf(depth[i] - depth[j]) <= tolerance * lower) join(label, i, j);
        }
    }
    for (int32_t i = 0; i < width * height; i++) label[i] = label[label[i]];
}

INLINE void sort2(vf *a, vf *b) {
    vf low = v_min(*a, *b);
    *b = v_max(*a, *b), *a = low;
}

/* Median over 3 x 3 pixels, the border repeated; values and out [H, W]. */
EXPORT void reconx_median3(int width, int height, const float *values, float *out, int threads) {
#pragma omp parallel for num_threads(threads)
    for (int y = 0; y < height; y++) {
        const float *rows[3];
        for (int k = 0; k < 3; k++) {
            int row = y + k - 1 < 0 ? 0 : y + k - 1 >= height ? height - 1 : y + k - 1;
            rows[k] = values + (size_t)row * (size_t)width;
        }
        for (int x = 0; x < width; x += LANES) {
            vf v[9];
            for (int k = 0; k < 9; k++) {
                int first = x + k % 3 - 1;
                if (first >= 0 && first + LANES <= width) {
                    v[k] = v_load(rows[k / 3] + first);
                    continue;
                }
                for (int l = 0; l < LANES; l++) {
                    int column = first + l < 0 ? 0 : first + l >= width ? width - 1 : first + l;
                    v[k][l] = rows[k / 3][column];
                }
            }
            /* Sort the three of each row; the median of nine is that of highest low, middle middle, lowest high. */
            for (int k = 0; k < 9; k += 3) sort2(v + k, v + k + 1), sort2(v + k + 1, v + k + 2), sort2(v + k, v + k + 1);
            vf low = v_max(v_max(v[0], v[3]), v[6]), high = v_min(v_min(v[2], v[5]), v[8]);
            vf middle = v_max(v_min(v[1], v[4]), v_min(v_max(v[1], v[4]), v[7]));
            vf median = v_max(v_min(low, middle), v_min(v_max(low, middle), high));
            v_store_part(out + (size_t)y * (size_t)width + (size_t)x, median, width - x);
        }
    }
}
