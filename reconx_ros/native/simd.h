/* Vectors of LANES floats, as wide as the instruction set that this file is compiled for.
 *
 * vf: floats, vi: 32-bit integers, vm: one truth value per lane. Arithmetic is written with the operators of GCC's vector
 * extensions; what they lack is here. A vector wider than the registers would be several times slower, hence LANES.
 * Machines other than x86 take the branches without intrinsics; RECONX_GENERIC makes x86 take them too, for tests.
 */
#ifndef RECONX_SIMD_H
#define RECONX_SIMD_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(RECONX_GENERIC)
#define LANES 4
#elif defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)
#include "intrinsics.h"
#define SIMD_AVX512 1
#define LANES 16
#elif defined(__AVX2__) && defined(__FMA__)
#include "intrinsics.h"
#define SIMD_AVX2 1
#define LANES 8
#elif defined(__SSE2__)
#include <emmintrin.h>
#define SIMD_SSE2 1
#define LANES 4
#else
#define LANES 4
#endif

typedef float vf __attribute__((vector_size(LANES * 4)));
typedef int32_t vi __attribute__((vector_size(LANES * 4)));
typedef float vf_loose __attribute__((vector_size(LANES * 4), aligned(4), may_alias));

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")

INLINE vf v_set(float x) { return x - (vf){0}; }
INLINE vi v_seti(int32_t x) { return x - (vi){0}; }
INLINE vf v_load(const float *p) { return *(const vf_loose *)p; }
INLINE void v_store(float *p, vf x) { *(vf_loose *)p = x; }

/* The first `count` floats, zeros behind them; nothing else is touched. */
INLINE vf v_load_part(const float *p, int count) {
    if (count >= LANES) return v_load(p);
    vf v = {0};
    for (int l = 0; l < count; l++) v[l] = p[l];
    return v;
}

INLINE void v_store_part(float *p, vf x, int count) {
    if (count >= LANES) {
        v_store(p, x);
    } else {
        for (int l = 0; l < count; l++) p[l] = x[l];
    }
}

/* a * b + c, fused where the machine can. */
INLINE vf v_fma(vf a, vf b, vf c) {
#if SIMD_AVX512
    return (vf)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif SIMD_AVX2
    return (vf)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
    return a * b + c;
#endif
}

#if SIMD_AVX512

typedef __mmask16 vm;
INLINE vm v_lt(vf a, vf b) { return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_LT_OQ); }
INLINE vm v_le(vf a, vf b) { return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_LE_OQ); }
INLINE vm v_lei(vi a, vi b) { return _mm512_cmple_epi32_mask((__m512i)a, (__m512i)b); }
INLINE vm m_and(vm a, vm b) { return (vm)(a & b); }
INLINE vm m_not(vm a) { return (vm)~a; }
INLINE int m_any(vm a) { return a != 0; }
INLINE uint32_t m_bits(vm a) { return a; }
INLINE vf v_select(vm m, vf a, vf b) { return (vf)_mm512_mask_mov_ps((__m512)b, m, (__m512)a); }
INLINE vi v_selecti(vm m, vi a, vi b) { return (vi)_mm512_mask_mov_epi32((__m512i)b, m, (__m512i)a); }
INLINE vf v_keep(vm m, vf a) { return (vf)_mm512_maskz_mov_ps(m, (__m512)a); }
INLINE vf v_min(vf a, vf b) { return (vf)_mm512_min_ps((__m512)a, (__m512)b); }
INLINE vf v_max(vf a, vf b) { return (vf)_mm512_max_ps((__m512)a, (__m512)b); }
INLINE vf v_sqrt(vf a) { return (vf)_mm512_sqrt_ps((__m512)a); }

#else

typedef vi vm;
INLINE vm v_lt(vf a, vf b) { return a < b; }
INLINE vm v_le(vf a, vf b) { return a <= b; }
INLINE vm v_lei(vi a, vi b) { return a <= b; }
INLINE vm m_and(vm a, vm b) { return a & b; }
INLINE vm m_not(vm a) { return ~a; }
INLINE vf v_keep(vm m, vf a) { return (vf)(m & (vi)a); }

#if SIMD_AVX2
INLINE int m_any(vm a) { return _mm256_movemask_ps((__m256)a) != 0; }
INLINE uint32_t m_bits(vm a) { return (uint32_t)_mm256_movemask_ps((__m256)a); }
INLINE vf v_select(vm m, vf a, vf b) { return (vf)_mm256_blendv_ps((__m256)b, (__m256)a, (__m256)m); }
INLINE vi v_selecti(vm m, vi a, vi b) { return (vi)v_select(m, (vf)a, (vf)b); }
INLINE vf v_min(vf a, vf b) { return (vf)_mm256_min_ps((__m256)a, (__m256)b); }
INLINE vf v_max(vf a, vf b) { return (vf)_mm256_max_ps((__m256)a, (__m256)b); }
INLINE vf v_sqrt(vf a) { return (vf)_mm256_sqrt_ps((__m256)a); }
#else
INLINE vf v_select(vm m, vf a, vf b) { return (vf)((m & (vi)a) | (~m & (vi)b)); }
INLINE vi v_selecti(vm m, vi a, vi b) { return (m & a) | (~m & b); }
#if SIMD_SSE2
INLINE int m_any(vm a) { return _mm_movemask_ps((__m128)a) != 0; }
INLINE uint32_t m_bits(vm a) { return (uint32_t)_mm_movemask_ps((__m128)a); }
INLINE vf v_min(vf a, vf b) { return (vf)_mm_min_ps((__m128)a, (__m128)b); }
INLINE vf v_max(vf a, vf b) { return (vf)_mm_max_ps((__m128)a, (__m128)b); }
INLINE vf v_sqrt(vf a) { return (vf)_mm_sqrt_ps((__m128)a); }
#else
typedef uint64_t v_halves __attribute__((vector_size(LANES * 4)));
INLINE int m_any(vm a) { return (((v_halves)a)[0] | ((v_halves)a)[1]) != 0; }
INLINE uint32_t m_bits(vm a) {
    v_halves h = (v_halves)(a & (vi){1, 2, 4, 8});
    uint64_t both = h[0] | h[1];
    return (uint32_t)(both | both >> 32) & 15;
}
INLINE vf v_min(vf a, vf b) { return v_select(a < b, a, b); }
INLINE vf v_max(vf a, vf b) { return v_select(a > b, a, b); }
INLINE vf v_sqrt(vf a) {
    for (int l = 0; l < LANES; l++) a[l] = sqrtf(a[l]);
    return a;
}
#endif
#endif

#endif

INLINE vf v_abs(vf a) { return (vf)((vi)a & 0x7fffffff); }

INLINE float v_sum(vf a) {
    float s = 0;
    UNROLL for (int l = 0; l < LANES; l++) s += a[l];
    return s;
}

/* floor(x) for -2 <= x < 2^20; may round up what is closer to the next integer than floats can tell. */
INLINE vi v_floor(vf x) { return __builtin_convertvector(x + 4.0f, vi) - 4; }

/* 2^t for -126 <= t <= 0, nonsense below; relative error at most 1.7e-7. */
INLINE vf v_exp2(vf t) {
    const vf magic = v_set(12582912.0f); /* 1.5 * 2^23: adding it rounds to an integer */
    vf shifted = t + magic, f = t - (shifted - magic);
    vf p = v_set(0.001326472731307149f);
    p = v_fma(p, f, v_set(0.009671512991189957f));
    p = v_fma(p, f, v_set(0.05550733581185341f));
    p = v_fma(p, f, v_set(0.24022242426872253f));
    p = v_fma(p, f, v_set(0.6931470036506653f));
    p = v_fma(p, f, v_set(1.0f));
    return (vf)((vi)p + ((vi)shifted << 23));
}

/* log2(x) for normal x > 0; absolute error at most 1e-7 near 1, else that of rounding. */
INLINE vf v_log2(vf x) {
    const vi root = v_seti(0x3f3504f3); /* sqrt(1 / 2) */
    vi exponent = ((vi)x - root) >> 23;
    vf m = (vf)((vi)x - (exponent << 23)) - 1.0f;
    vf p = v_set(-0.14574450254440308f);
    p = v_fma(p, m, v_set(0.23689039051532745f));
    p = v_fma(p, m, v_set(-0.2500690519809723f));
    p = v_fma(p, m, v_set(0.28670746088027954f));
    p = v_fma(p, m, v_set(-0.36008721590042114f));
    p = v_fma(p, m, v_set(0.48093944787979126f));
    p = v_fma(p, m, v_set(-0.7213571667671204f));
    p = v_fma(p, m, v_set(1.4426947832107544f));
    return v_fma(p, m, __builtin_convertvector(exponent, vf));
}

/* Shuffles of two vectors: lane i of the result is lane index[i] of a (below LANES) or of b. */
#if defined(__clang__) || (defined(__GNUC__) && __GNUC__ >= 12)
#define SHUFFLE4(a, b, i, j, k, l) __builtin_shufflevector(a, b, i, j, k, l)
#else
#define SHUFFLE4(a, b, i, j, k, l) __builtin_shuffle(a, b, (vi){i, j, k, l})
#endif

/* 1 / x and 1 / sqrt(x) for normal x > 0 to about 3e-7: the machine's estimate and a step of Newton's. */
INLINE vf v_reciprocal(vf x) {
#if SIMD_AVX512
    vf y = (vf)_mm512_rcp14_ps((__m512)x);
#elif SIMD_AVX2
    vf y = (vf)_mm256_rcp_ps((__m256)x);
#elif SIMD_SSE2
    vf y = (vf)_mm_rcp_ps((__m128)x);
#else
    return 1.0f / x;
#endif
#if SIMD_AVX512 || SIMD_AVX2 || SIMD_SSE2
    return v_fma(y, v_fma(-x, y, v_set(1)), y);
#endif
}

INLINE vf v_inverse_sqrt(vf x) {
#if SIMD_AVX512
    vf y = (vf)_mm512_rsqrt14_ps((__m512)x);
#elif SIMD_AVX2
    vf y = (vf)_mm256_rsqrt_ps((__m256)x);
#elif SIMD_SSE2
    vf y = (vf)_mm_rsqrt_ps((__m128)x);
#else
    return 1.0f / v_sqrt(x);
#endif
#if SIMD_AVX512 || SIMD_AVX2 || SIMD_SSE2
    return v_fma(0.5f * y, v_fma(-x * y, y, v_set(1)), y);
#endif
}

/* Two neighbouring floats per lane: p[at] and p[at + 1]. */
INLINE void v_gather_pairs(const float *p, vi at, vf *left, vf *right) {
#if SIMD_AVX512
    const __m512i even = (__m512i)(vi){0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30};
    __m512 low = (__m512)_mm512_i32gather_pd(_mm512_castsi512_si256((__m512i)at), p, 4);
    __m512 high = (__m512)_mm512_i32gather_pd(_mm512_extracti64x4_epi64((__m512i)at, 1), p, 4);
    *left = (vf)_mm512_permutex2var_ps(low, even, high);
    *right = (vf)_mm512_permutex2var_ps(low, (__m512i)((vi)even + 1), high);
#elif SIMD_AVX2
    __m256i order = _mm256_permute4x64_epi64((__m256i)at, 0xd8); /* the shuffles below work inside halves */
    __m256 low = (__m256)_mm256_i32gather_pd((const double *)(const void *)p, _mm256_castsi256_si128(order), 4);
    __m256 high = (__m256)_mm256_i32gather_pd((const double *)(const void *)p, _mm256_extracti128_si256(order, 1), 4);
    *left = (vf)_mm256_shuffle_ps(low, high, 0x88), *right = (vf)_mm256_shuffle_ps(low, high, 0xdd);
#else
    vf first = {0}, second = {0};
    UNROLL for (int l = 0; l < LANES; l++) first[l] = p[at[l]], second[l] = p[at[l] + 1];
    *left = first, *right = second;
#endif
}

#if SIMD_AVX512
/* 128-bit parts of a pair of vectors, and pairs of lanes inside each part. */
#define PARTS(a, b, imm) ((vf)_mm512_shuffle_f32x4((__m512)(a), (__m512)(b), imm))
#define LOW2(a, b) ((vf)_mm512_shuffle_ps((__m512)(a), (__m512)(b), 0x44))
#define HIGH2(a, b) ((vf)_mm512_shuffle_ps((__m512)(a), (__m512)(b), 0xee))
#define EVEN(a, b) ((vf)_mm512_shuffle_ps((__m512)(a), (__m512)(b), 0x88))
#define ODD(a, b) ((vf)_mm512_shuffle_ps((__m512)(a), (__m512)(b), 0xdd))
#define UNPACK_LOW(a, b) ((vf)_mm512_unpacklo_ps((__m512)(a), (__m512)(b)))
#define UNPACK_HIGH(a, b) ((vf)_mm512_unpackhi_ps((__m512)(a), (__m512)(b)))
#elif SIMD_AVX2
#define PARTS(a, b, imm) ((vf)_mm256_permute2f128_ps((__m256)(a), (__m256)(b), imm))
#define LOW2(a, b) ((vf)_mm256_shuffle_ps((__m256)(a), (__m256)(b), 0x44))
#define HIGH2(a, b) ((vf)_mm256_shuffle_ps((__m256)(a), (__m256)(b), 0xee))
#define EVEN(a, b) ((vf)_mm256_shuffle_ps((__m256)(a), (__m256)(b), 0x88))
#define ODD(a, b) ((vf)_mm256_shuffle_ps((__m256)(a), (__m256)(b), 0xdd))
#define UNPACK_LOW(a, b) ((vf)_mm256_unpacklo_ps((__m256)(a), (__m256)(b)))
#define UNPACK_HIGH(a, b) ((vf)_mm256_unpackhi_ps((__m256)(a), (__m256)(b)))
#else
#define LOW2(a, b) SHUFFLE4(a, b, 0, 1, 4, 5)
#define HIGH2(a, b) SHUFFLE4(a, b, 2, 3, 6, 7)
#define EVEN(a, b) SHUFFLE4(a, b, 0, 2, 4, 6)
#define ODD(a, b) SHUFFLE4(a, b, 1, 3, 5, 7)
#define UNPACK_LOW(a, b) SHUFFLE4(a, b, 0, 4, 1, 5)
#define UNPACK_HIGH(a, b) SHUFFLE4(a, b, 2, 6, 3, 7)
#endif

/* The lowest of all lanes, in every lane. */
INLINE vf v_lowest(vf a) {
#if SIMD_AVX512
    a = v_min(a, PARTS(a, a, 0x4e));
    a = v_min(a, PARTS(a, a, 0xb1));
#elif SIMD_AVX2
    a = v_min(a, PARTS(a, a, 0x01));
#endif
    a = v_min(EVEN(a, a), ODD(a, a));
    return v_min(EVEN(a, a), ODD(a, a));
}

/* Transpose in place the LANES x LANES matrix whose rows are the vectors. */
INLINE void v_transpose(vf *r) {
    vf t[LANES];
    UNROLL for (int i = 0; i < LANES; i += 4) { /* 4 x 4 inside each part */
        vf a = UNPACK_LOW(r[i], r[i + 1]), b = UNPACK_HIGH(r[i], r[i + 1]);
        vf c = UNPACK_LOW(r[i + 2], r[i + 3]), d = UNPACK_HIGH(r[i + 2], r[i + 3]);
        t[i] = LOW2(a, c), t[i + 1] = HIGH2(a, c), t[i + 2] = LOW2(b, d), t[i + 3] = HIGH2(b, d);
    }
#if SIMD_AVX512
    UNROLL for (int i = 0; i < 4; i++) { /* then the parts */
        vf a = PARTS(t[i], t[i + 4], 0x88), b = PARTS(t[i], t[i + 4], 0xdd);
        vf c = PARTS(t[i + 8], t[i + 12], 0x88), d = PARTS(t[i + 8], t[i + 12], 0xdd);
        r[i] = PARTS(a, c, 0x88), r[i + 8] = PARTS(a, c, 0xdd);
        r[i + 4] = PARTS(b, d, 0x88), r[i + 12] = PARTS(b, d, 0xdd);
    }
#elif SIMD_AVX2
    UNROLL for (int i = 0; i < 4; i++) {
        r[i] = PARTS(t[i], t[i + 4], 0x20);
        r[i + 4] = PARTS(t[i], t[i + 4], 0x31);
    }
#else
    UNROLL for (int i = 0; i < 4; i++) r[i] = t[i];
#endif
}

#endif
