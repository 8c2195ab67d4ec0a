// Runs the native engine without Python, for the sanitizers: every format, every set of kernels that runs here.

#include <cstdio>
#include <random>

#include "model.cpp"

using namespace csm;

namespace {

std::mt19937 chance(1);

// A matrix of random numbers, and the memory it lies in.
struct Filled {
    Filled(Format format, int rows, int width)
        : bytes((size_t)rows * width * 4), scales((size_t)rows * (width / GROUP + 1) * 4), m{format, rows, width, bytes.data(), scales.data()} {
        std::uniform_real_distribution<float> spread(-0.1f, 0.1f);
        for (int i = 0; i < rows * width; i++) {
            const float number = spread(chance);
            if (format == Format::fp32)
                std::memcpy(&bytes[(size_t)i * 4], &number, 4);
            else if (format == Format::bf16) {
                const uint16_t half = to_bf16(number);
                std::memcpy(&bytes[(size_t)i * 2], &half, 2);
            } else
                bytes[i] = (uint8_t)chance();
        }
        for (size_t i = 0; i < scales.size() / 4; i++) {
            const float scale = 0.001f;
            const uint16_t half = to_bf16(0.01f);
            if (format == Format::int4) {
                std::memcpy(&scales[i * 4], &half, 2);
                std::memcpy(&scales[i * 4 + 2], &half, 2);
            } else
                std::memcpy(&scales[i * 4], &scale, 4);
        }
    }
    std::vector<uint8_t> bytes, scales;
    Matrix m;
};

struct FilledStack {
    FilledStack(Format format, int width, int heads, int kv_heads, int head, int ffn, int positions, bool bf16)
        : ones(std::max(width, 1), 1.0f), cos((size_t)positions * head / 2, 0.8f), sin((size_t)positions * head / 2, 0.6f),
          keys((size_t)2 * kv_heads * (positions + BLOCK) * head), values(keys.size()) {
        for (int layer = 0; layer < 2; layer++) {
            const int sizes[4][2] = {{(heads + 2 * kv_heads) * head, width}, {width, heads * head}, {2 * ffn, width}, {width, ffn}};
            for (auto &size : sizes)
                parts.push_back(std::make_unique<Filled>(format, size[0], size[1]));
            plans.push_back({parts[layer * 4]->m, parts[layer * 4 + 1]->m, parts[layer * 4 + 2]->m, parts[layer * 4 + 3]->m, ones.data(), ones.data()});
        }
        plan = {width, 2, heads, kv_heads, head, ffn, positions, bf16, 1e-5f, cos.data(), sin.data(), keys.data(), values.data(), plans.data(), ones.data()};
    }
    std::vector<float> ones, cos, sin, keys, values;
    std::vector<std::unique_ptr<Filled>> parts;
    std::vector<LayerPlan> plans;
    StackPlan plan;
};

// Everything that a model of this format hears and says.
std::vector<float> run(Format format, const char *kernels, int threads) {
    chance.seed(7);
    constexpr int WIDE = 256, BOOKS = 4, IDS = 67;
    FilledStack backbone(format, WIDE, 4, 2, 64, 384, 130, format != Format::fp32), depth(format, 128, 4, 2, 32, 256, BOOKS, false);
    Filled embedding(format == Format::int4 ? Format::int8 : format, BOOKS * IDS, WIDE), projection(format, 128, WIDE);
    std::vector<std::unique_ptr<Filled>> filled;
    std::vector<Matrix> heads;
    for (int book = 0; book < BOOKS; book++) {
        filled.push_back(std::make_unique<Filled>(format, IDS, book ? 128 : WIDE));
        heads.push_back(filled.back()->m);
    }
    const Plan plan = {backbone.plan, depth.plan, embedding.m, projection.m, heads.data(), BOOKS, IDS, 64};
    void *model = csm_new(&plan, kernels, threads);
    std::vector<float> rows((size_t)130 * WIDE), out((size_t)130 * WIDE), noise(BOOKS * 50);
    std::normal_distribution<float> normal;
    std::exponential_distribution<float> exponential;
    for (float &x : rows)
        x = normal(chance);
    for (float &x : noise)
        x = exponential(chance);
    int at = 0;
    for (int count : {1, 2, 3, 70, 54}) {
        csm_listen(model, &rows[(size_t)at * WIDE], count, at, &out[(size_t)at * WIDE]);
        at += count;
    }
    for (int greedy = 0; greedy < 2; greedy++) {
        const Sampling how = {50, greedy, 0.9f, noise.data(), nullptr, nullptr};
        int32_t codes[BOOKS];
        float readings[2];
        csm_frame(model, &out[(size_t)(at - 1) * WIDE], &how, codes, readings);
        out.insert(out.end(), codes, codes + BOOKS);
        out.insert(out.end(), readings, readings + 2);
    }
    csm_free(model);
    return out;
}

}  // namespace

int main() {
    int sets = 0;
    for (const char *name : {"portable", "avx2", "avx512", "vnni"}) {
        if (!csm_kernels(name))
            continue;
        sets++;
        for (Format format : {Format::fp32, Format::bf16, Format::int8, Format::int4}) {
            const std::vector<float> alone = run(format, name, 1), together = run(format, name, 3);
            if (std::memcmp(alone.data(), together.data(), alone.size() * 4)) {
                std::fprintf(stderr, "%s: format %d differs between 1 and 3 threads\n", name, (int)format);
                return 1;
            }
            for (float x : alone)
                if (!std::isfinite(x)) {
                    std::fprintf(stderr, "%s: format %d is not finite\n", name, (int)format);
                    return 1;
                }
        }
    }
    if (csm_bandwidth("", 2, std::vector<uint8_t>(1 << 20).data(), 1 << 20) <= 0 || csm_peak("", 2, 1000) <= 0)
        return 1;
    std::printf("4 formats, %d sets of kernels\n", sets);
    return 0;
}
