// CSM as plain memory, the way Python describes it (engine.py has the same structures, in the same order).
#pragma once
#include "kernels.h"

namespace csm {

constexpr int VERSION = 1;  // of these structures and of int4's layout

struct LayerPlan {
    Matrix qkv, out, gate_up, down;
    const float *attention_norm, *mlp_norm;
};

struct StackPlan {
    int32_t width, layers, heads, kv_heads, head, ffn, positions, bf16_cache;
    float eps;
    const float *cos, *sin;  // [positions][head / 2]
    void *keys, *values;     // [layers][kv_heads][a Cache of all positions, in whole blocks]
    const LayerPlan *plans;
    const float *norm;
};

struct Plan {
    StackPlan backbone, depth;
    Matrix embedding;  // [codebooks · ids][backbone width]: what the depth decoder reads of the codes already drawn
    Matrix projection;
    const Matrix *heads;
    int32_t codebooks, ids, sounds;
};

struct Sampling {
    int32_t top_k, greedy;
    float temperature;
    const float *noise;     // [codebooks][top_k], exponential
    const int32_t *forced;  // [codebooks] codes to take in place of drawing, or null
    float *logits;          // [codebooks][ids] wanted by the caller, or null
};

}  // namespace csm
