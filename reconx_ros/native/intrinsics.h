/* The parts of immintrin.h that the kernels use: all of it takes GCC longer to read than most of these files to compile.
 *
 * The parts are GCC's own business. Where they do not fit together, build_native.py sets RECONX_WHOLE_IMMINTRIN.
 */
#ifndef RECONX_INTRINSICS_H
#define RECONX_INTRINSICS_H

#if defined(__GNUC__) && !defined(__clang__) && !defined(RECONX_WHOLE_IMMINTRIN)
#define _IMMINTRIN_H_INCLUDED 1 /* its parts refuse to be read without it */
#include <emmintrin.h>
#include <pmmintrin.h>
#include <tmmintrin.h>
#include <smmintrin.h>
#include <avxintrin.h>
#include <avx2intrin.h>
#include <fmaintrin.h>
#if defined(__AVX512F__)
typedef unsigned int __mmask32; /* GCC 12 has it in avx512vlintrin.h, which is long */
#include <avx512fintrin.h>
#include <avx512bwintrin.h>
#endif
#else
#include <immintrin.h>
#endif

#endif
