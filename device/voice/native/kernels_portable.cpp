#include <cmath>
#include <cstring>

#include "kernels.h"
#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

namespace csm::portable {
#include "kernels.inc"
}

namespace csm {
const Kernels portable_kernels = portable::kernels("portable");

size_t attend_scratch(int head, int queries) { return (size_t)2 * head * BLOCK + (size_t)queries * (head + 2); }
}  // namespace csm
