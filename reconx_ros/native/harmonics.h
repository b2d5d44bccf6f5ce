/* Real spherical harmonics up to degree 3, in the sign convention of 3-D Gaussian splatting, and their slopes. */
#ifndef RECONX_HARMONICS_H
#define RECONX_HARMONICS_H

#include "simd.h"

#define SH_0 0.28209479177387814f   /* sqrt(1 / 4 pi) */
#define SH_1 0.48860251190291987f   /* sqrt(3 / 4 pi) */
#define SH_2XY 1.0925484305920792f  /* sqrt(15 / 4 pi) */
#define SH_2ZZ 0.31539156525252005f /* sqrt(5 / 16 pi) */
#define SH_2XX 0.5462742152960396f  /* sqrt(15 / 16 pi) */
#define SH_3A 0.5900435899266435f   /* sqrt(35 / 32 pi) */
#define SH_3B 2.890611442640554f    /* sqrt(105 / 4 pi) */
#define SH_3C 0.4570457994644658f   /* sqrt(21 / 32 pi) */
#define SH_3D 0.3731763325901154f   /* sqrt(7 / 16 pi) */
#define SH_3E 1.445305721320277f    /* sqrt(105 / 16 pi) */

/* Values of the first `bases` functions in a unit direction. */
INLINE void sh_basis(int bases, vf x, vf y, vf z, vf *out) {
    out[0] = v_set(SH_0);
    if (bases < 4) return;
    out[1] = -SH_1 * y, out[2] = SH_1 * z, out[3] = -SH_1 * x;
    if (bases < 9) return;
    vf xx = x * x, yy = y * y, zz = z * z;
    out[4] = SH_2XY * x * y;
    out[5] = -SH_2XY * y * z;
    out[6] = SH_2ZZ * (2.0f * zz - xx - yy);
    out[7] = -SH_2XY * x * z;
    out[8] = SH_2XX * (xx - yy);
    if (bases < 16) return;
    out[9] = -SH_3A * y * (3.0f * xx - yy);
    out[10] = SH_3B * x * y * z;
    out[11] = -SH_3C * y * (4.0f * zz - xx - yy);
    out[12] = SH_3D * z * (2.0f * zz - 3.0f * xx - 3.0f * yy);
    out[13] = -SH_3C * x * (4.0f * zz - xx - yy);
    out[14] = SH_3E * z * (xx - yy);
    out[15] = -SH_3A * x * (xx - 3.0f * yy);
}

/* Gradient in the direction, of sum_k weight[k] basis_k; x, y, z as independent variables. */
INLINE void sh_slope(int bases, vf x, vf y, vf z, const vf *w, vf *gx, vf *gy, vf *gz) {
    *gx = *gy = *gz = v_set(0);
    if (bases < 4) return;
    *gx = -SH_1 * w[3], *gy = -SH_1 * w[1], *gz = SH_1 * w[2];
    if (bases < 9) return;
    vf w4 = SH_2XY * w[4], w5 = SH_2XY * w[5], w6 = 2.0f * SH_2ZZ * w[6], w7 = SH_2XY * w[7], w8 = 2.0f * SH_2XX * w[8];
    *gx += w4 * y - w7 * z + (w8 - w6) * x;
    *gy += w4 * x - w5 * z - (w8 + w6) * y;
    *gz += 2.0f * w6 * z - w5 * y - w7 * x;
    if (bases < 16) return;
    vf xx = x * x, yy = y * y, zz = z * z, xy = x * y, xz = x * z, yz = y * z;
    vf w9 = SH_3A * w[9], w10 = SH_3B * w[10], w11 = SH_3C * w[11], w12 = SH_3D * w[12];
    vf w13 = SH_3C * w[13], w14 = SH_3E * w[14], w15 = SH_3A * w[15];
    *gx += -6.0f * w9 * xy + w10 * yz + 2.0f * w11 * xy - 6.0f * w12 * xz - w13 * (4.0f * zz - 3.0f * xx - yy)
           + 2.0f * w14 * xz - 3.0f * w15 * (xx - yy);
    *gy += -3.0f * w9 * (xx - yy) + w10 * xz - w11 * (4.0f * zz - xx - 3.0f * yy) - 6.0f * w12 * yz + 2.0f * w13 * xy
           - 2.0f * w14 * yz + 6.0f * w15 * xy;
    *gz += w10 * xy - 8.0f * w11 * yz + w12 * (6.0f * zz - 3.0f * xx - 3.0f * yy) - 8.0f * w13 * xz + w14 * (xx - yy);
}

#endif
