#if defined(__x86_64__)
#include <cmath>
#include <cstring>

#include "kernels.h"

#include <immintrin.h>

#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,fma")
#define LANES_AVX512

namespace csm::avx512 {
#include "kernels.inc"
}

namespace csm {
const Kernels avx512_kernels = avx512::kernels("avx512");
}
#endif
