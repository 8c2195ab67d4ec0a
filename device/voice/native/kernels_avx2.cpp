#if defined(__x86_64__)
#include <cmath>
#include <cstring>

#include "kernels.h"

#include <immintrin.h>

#pragma GCC target("avx2,fma")
#define LANES_AVX2

namespace csm::avx2 {
#include "kernels.inc"
}

namespace csm {
const Kernels avx2_kernels = avx2::kernels("avx2");
}
#endif
