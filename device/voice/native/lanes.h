// Vectors of one width, and the few operations on them that C++ has no sign for.
//
// Included once for each instruction set, inside a namespace of its own (see kernels.inc). GCC and Clang give
// vector types the usual operators, so that only what compilers do badly is written with intrinsics: the
// product of 16-bit pairs, which is where nearly all the time goes, and sums across a vector.

#if defined(LANES_AVX512)
#define LANES 16
#elif defined(LANES_AVX2)
#define LANES 8
#else
#define LANES 4  // SSE2, NEON
#endif

constexpr int SHORTS = 2 * LANES;

typedef float Float __attribute__((vector_size(LANES * 4)));
typedef int32_t Int __attribute__((vector_size(LANES * 4)));
typedef uint32_t Word __attribute__((vector_size(LANES * 4)));
typedef int16_t Short __attribute__((vector_size(LANES * 4)));
typedef uint16_t HalfWord __attribute__((vector_size(LANES * 2)));
typedef uint16_t HalfWords __attribute__((vector_size(LANES * 4)));
typedef int16_t HalfShort __attribute__((vector_size(LANES * 2)));
typedef int8_t Byte __attribute__((vector_size(LANES * 2)));

template <class Vector, class Number> inline Vector load(const Number *from) {
    Vector out;
    std::memcpy(&out, from, sizeof out);
    return out;
}

template <class Number, class Vector> inline void store(Number *to, Vector what) { std::memcpy(to, &what, sizeof what); }

inline Float all(float number) { return number - Float{}; }

inline Float to_float(Int x) { return __builtin_convertvector(x, Float); }

inline Float larger(Float a, Float b) { return a > b ? a : b; }

// bf16 is the upper half of a float.
inline Float load_bf16(const uint16_t *from) {
    return (Float)(__builtin_convertvector(load<HalfWord>(from), Word) << 16);
}

inline float load_bf16_number(uint16_t half) {
    const uint32_t bits = (uint32_t)half << 16;
    float out;
    std::memcpy(&out, &bits, 4);
    return out;
}

inline Short load_int8(const int8_t *from) {
#if defined(LANES_AVX512)  // one instruction, of which GCC 12 makes five: 10 % of a batch
    return (Short)_mm512_cvtepi8_epi16(load<__m256i>(from));
#else
    return __builtin_convertvector(load<Byte>(from), Short);
#endif
}

// Lane i of acc gains a[2i]·b[2i] + a[2i+1]·b[2i+1].
inline Int add_pairs(Int acc, Short a, Short b) {
#if defined(LANES_VNNI)
    return (Int)_mm512_dpwssd_epi32((__m512i)acc, (__m512i)a, (__m512i)b);
#elif defined(LANES_AVX512)
    return acc + (Int)_mm512_madd_epi16((__m512i)a, (__m512i)b);
#elif defined(LANES_AVX2)
    return acc + (Int)_mm256_madd_epi16((__m256i)a, (__m256i)b);
#elif defined(__SSE2__)
    return acc + (Int)_mm_madd_epi16((__m128i)a, (__m128i)b);
#elif defined(__ARM_NEON)
    int32x4_t low = vmull_s16(vget_low_s16((int16x8_t)a), vget_low_s16((int16x8_t)b));
    int32x4_t high = vmull_s16(vget_high_s16((int16x8_t)a), vget_high_s16((int16x8_t)b));
    return acc + (Int)vpaddq_s32(low, high);
#else
    const Int low_a = (Int)a << 16 >> 16, low_b = (Int)b << 16 >> 16;
    return acc + low_a * low_b + ((Int)a >> 16) * ((Int)b >> 16);
#endif
}

// The compiler must believe that this vector may be any, and so work with it and not around it.
#if defined(__x86_64__)
#define IN_REGISTER(vector) asm volatile("" : "+x"(vector))
#else
#define IN_REGISTER(vector) asm volatile("" : "+w"(vector))
#endif

// The sums of four vectors at once: a third of the work of one after the other.
inline void sums(const Float *of, float *out) {
#if defined(LANES_AVX512) || defined(LANES_AVX2)
#if defined(LANES_AVX512)
    __m256 v[4];
    for (int i = 0; i < 4; i++)
        v[i] = _mm256_add_ps(_mm512_castps512_ps256(of[i]), _mm256_castpd_ps(_mm512_extractf64x4_pd((__m512d)of[i], 1)));
#else
    const __m256 *v = of;
#endif
    const __m256 all = _mm256_hadd_ps(_mm256_hadd_ps(v[0], v[1]), _mm256_hadd_ps(v[2], v[3]));
    _mm_storeu_ps(out, _mm_add_ps(_mm256_castps256_ps128(all), _mm256_extractf128_ps(all, 1)));
#else
    for (int i = 0; i < 4; i++)
        out[i] = (of[i][0] + of[i][1]) + (of[i][2] + of[i][3]);
#endif
}

inline float sum(Float x) {
    const Float of[4] = {x};
    float out[4];
    sums(of, out);
    return out[0];
}

inline float largest(Float x) {
#if defined(LANES_AVX512)
    const __m256 half = _mm256_max_ps(_mm512_castps512_ps256(x), _mm256_castpd_ps(_mm512_extractf64x4_pd((__m512d)x, 1)));
    const __m128 four = _mm_max_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
#elif defined(LANES_AVX2)
    const __m128 four = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
#else
    const Float four = x;
#endif
    const float a = four[0] > four[1] ? four[0] : four[1], b = four[2] > four[3] ? four[2] : four[3];
    return a > b ? a : b;
}

// Nearest whole number, for |x| < 2^22: adding 1.5·2^23 leaves no room for a fraction.
inline Float nearest(Float x) {
    const Float shift = all(12582912.0f);
    return (x + shift) - shift;
}

// e^x for x <= 0, to 2e-7 of itself: a polynomial for the fraction of the power of two, whose whole part goes into the exponent.
inline Float exp_of_negative(Float x) {
    x = larger(x, all(-87.0f));
    const Float power = x * 1.44269504f, whole = nearest(power), rest = power - whole;
    Float p = all(1.535336e-4f);
    p = p * rest + 1.339887e-3f;
    p = p * rest + 9.618437e-3f;
    p = p * rest + 5.550332e-2f;
    p = p * rest + 2.402264e-1f;
    p = p * rest + 6.931472e-1f;
    p = p * rest + 1.0f;
    return p * (Float)((__builtin_convertvector(whole, Int) + 127) << 23);
}
