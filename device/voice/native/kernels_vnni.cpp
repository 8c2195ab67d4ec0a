#if defined(__x86_64__)
#include <cmath>
#include <cstring>

#include "kernels.h"

#include <immintrin.h>

#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,fma")
#define LANES_AVX512
#define LANES_VNNI

namespace csm::vnni {
#include "kernels.inc"
}

namespace csm {
const Kernels vnni_kernels = vnni::kernels("vnni");
}
#endif
