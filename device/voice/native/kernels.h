// What the kernels of each instruction set offer, and the plain data they work on.
#pragma once
#include <cstddef>
#include <cstdint>

namespace csm {

enum class Format : int32_t { fp32 = 0, bf16 = 1, int8 = 2, int4 = 3 };

constexpr int GROUP = 128;  // numbers of an activation, and of an int4 weight, that share a scale

// A weight, row after row as PyTorch keeps it; the memory is PyTorch's.
// int8: one float scale a row. int4: codes -8 to 7, stored as 0 to 15, with one bf16 scale a group; a group is 32 words
// of 16 bits, and word i holds the numbers i, 32 + i, 64 + i and 96 + i of the group, lowest bits first: one shift and
// one mask unpack a whole vector. (Signed nibbles would need two shifts each, and AVX2 shifts on half of its units.)
struct Matrix {
    Format format;
    int32_t rows, width;
    const void *weights;
    const void *scales;
};

// Rows of activations, as floats and, for int8 and int4 weights, as 16-bit codes with a scale a group.
struct Rows {
    int width, groups;
    float *values;   // [row][groups · GROUP]
    int16_t *codes;  // [row][groups · GROUP], zero after the last number
    float *scales;   // [row][groups]
    int32_t *minus;  // [row][groups], -8 times the sum of a group's codes: int4's codes are read as 0 to 15
    int stride() const { return groups * GROUP; }
};

// Bytes by which a stream is fetched ahead of its use. Two cores, 1 GB, one row: Intel Xeon with AVX-512 24 to 26 GB/s
// without, 29 to 31 with 1.5 KB (4 KB: 28 to 30); with AVX2 21 and 27 to 29. An AMD EPYC took 5 to 20 % longer with it.
extern const int AHEAD;

constexpr int BLOCK = 64;  // positions of the cache that attention takes at once

// One attention head's keys stand upright, [positions / BLOCK][head][BLOCK], so that a score needs no sum across a
// vector; its values lie, [positions][head]. Either is float or bf16.
// (Without blocks the numbers of one position lie 4 KB apart: a step at position 1900 took 6 ms longer.)
struct Cache {
    void *keys, *values;
    bool bf16;
    int head;
};

// The queries of `count` rows · `shared` heads that look at one key-value head.
struct Queries {
    const float *in;  // query (row, head) at in + row · stride + head · size
    float *out;       // likewise
    int stride, out_stride, count, shared, first;  // row r stands at position first + r
};

enum class Into { store, add, gate };  // gate: silu(row i) · row (rows / 2 + i)

struct Kernels {
    const char *name;
    int shorts;  // 16-bit numbers in a vector
    // out[row · out_stride + i] for i in [begin, end) of the product, for `count` rows.
    void (*multiply)(const Matrix &, const Rows &, int count, float *out, int out_stride, int begin, int end, Into);
    // values -> codes and scales of groups [begin, end) of one row.
    void (*quantise)(const Rows &, int row, int begin, int end);
    void (*normalise)(const float *x, const float *weight, float eps, int width, float *out);
    // Softmax attention; `scratch` holds attend_scratch() floats.
    void (*attend)(const Cache &, const Queries &, float *scratch);
    uint64_t (*read)(const uint8_t *from, size_t bytes);  // for the bandwidth: four streams, summed
    uint64_t (*toil)(size_t rounds);                      // for the peak: products of pairs, in registers; their number
};

size_t attend_scratch(int head, int queries);

extern const Kernels portable_kernels;
#if defined(__x86_64__)
extern const Kernels avx2_kernels, avx512_kernels, vnni_kernels;
#endif

}  // namespace csm
