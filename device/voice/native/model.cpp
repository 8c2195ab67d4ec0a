// A whole CSM frame in one call: README.md beside this file says why it is built so.

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>

#include "model.h"
#include "team.h"

namespace csm {

#if defined(__x86_64__)
const int AHEAD = (__builtin_cpu_init(), __builtin_cpu_is("intel")) ? 1536 : 0;
#else
const int AHEAD = 0;
#endif

namespace {

constexpr int CHUNK = 64;  // rows that go through the layers together: more would not stay in a core's cache

// Memory that starts with a cache line and with zeros.
template <class T> class Room {
  public:
    explicit Room(size_t count = 0) {
        const size_t bytes = (count * sizeof(T) + 63) / 64 * 64 + 64;
        at_.reset((T *)std::aligned_alloc(64, bytes));
        if (!at_)
            throw std::bad_alloc();
        std::memset((void *)at_.get(), 0, bytes);
    }
    T *get() const { return at_.get(); }

  private:
    struct Free {
        void operator()(T *p) const { std::free(p); }
    };
    std::unique_ptr<T, Free> at_;
};

const Kernels *best_kernels() {
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512dq"))
        return __builtin_cpu_supports("avx512vnni") ? &vnni_kernels : &avx512_kernels;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        return &avx2_kernels;
#endif
    return &portable_kernels;
}

bool runs_here(const Kernels *asked) {
    const Kernels *best = best_kernels();
    if (asked == best || asked == &portable_kernels)
        return true;
#if defined(__x86_64__)
    return best != &portable_kernels && (asked == &avx2_kernels || (asked == &avx512_kernels && best == &vnni_kernels));
#else
    return false;
#endif
}

const Kernels *find_kernels(const char *name) {
    if (!*name)
        return best_kernels();
    for (const Kernels *known : {
             &portable_kernels,
#if defined(__x86_64__)
             &avx2_kernels, &avx512_kernels, &vnni_kernels,
#endif
         })
        if (!std::strcmp(known->name, name))
            return runs_here(known) ? known : nullptr;
    return nullptr;
}

// Room for CHUNK rows of activations.
struct RowsRoom {
    RowsRoom(int width)
        : groups((width + GROUP - 1) / GROUP), values((size_t)CHUNK * groups * GROUP), codes((size_t)CHUNK * groups * GROUP),
          scales((size_t)CHUNK * groups), minus((size_t)CHUNK * groups),
          rows{width, groups, values.get(), codes.get(), scales.get(), minus.get()} {}
    int groups;
    Room<float> values;
    Room<int16_t> codes;
    Room<float> scales;
    Room<int32_t> minus;
    Rows rows;
};

bool is_integer(const Matrix &m) { return m.format == Format::int8 || m.format == Format::int4; }

uint16_t to_bf16(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    return (uint16_t)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);  // to the nearest, halves to even
}

float from_bf16(uint16_t half) {
    const uint32_t bits = (uint32_t)half << 16;
    float x;
    std::memcpy(&x, &bits, 4);
    return x;
}

// One row of a table of any format but int4.
void look_up(const Matrix &table, int row, float *out) {
    const size_t at = (size_t)row * table.width;
    for (int i = 0; i < table.width; i++)
        out[i] = table.format == Format::fp32   ? ((const float *)table.weights)[at + i]
                 : table.format == Format::bf16 ? from_bf16(((const uint16_t *)table.weights)[at + i])
                                                : ((const int8_t *)table.weights)[at + i] * ((const float *)table.scales)[row];
}

// What one thread needs for itself.
struct Own {
    Own(const StackPlan &s)
        : normed(s.width), heard(s.heads * s.head), scratch(attend_scratch(s.head, CHUNK * (s.heads / s.kv_heads))) {}
    RowsRoom normed, heard;  // `heard` lends its codes only: its values are the stack's
    Room<float> scratch;
};

class Stack {
  public:
    Stack(const StackPlan &plan, const Kernels &kernels, Team &team)
        : plan(plan), layers(plan.plans, plan.plans + plan.layers), k(kernels), team(team), x((size_t)CHUNK * plan.width),
          qkv((size_t)CHUNK * qkv_width()), heard(plan.heads * plan.head), hidden(plan.ffn) {
        for (int t = 0; t < team.size; t++)
            own.push_back(std::make_unique<Own>(plan));
    }

    // The rows in x, at positions from `start`, through all layers. Every thread calls it.
    void pass(int t, int count, int start) {
        for (int number = 0; number < plan.layers; number++) {
            const LayerPlan &layer = layers[number];
            split(t, layer.qkv, norm(t, count, layer.attention_norm, layer.qkv), count, qkv.get(), qkv_width(), Into::store);
            team.barrier.wait();
            auto [b0, b1] = team.share(t, count * plan.kv_heads);
            for (int unit = b0; unit < b1; unit++)
                remember(number, unit % count, unit / count, start);
            team.barrier.wait();
            listen(t, number, count, start, b0, b1);
            team.barrier.wait();
            split(t, layer.out, prepared(heard_of(t), count, layer.out), count, x.get(), plan.width, Into::add);
            team.barrier.wait();
            const Rows &normed = norm(t, count, layer.mlp_norm, layer.gate_up);
            // Whole groups, so that a thread can quantise what it made before the others need it.
            team.split(t, plan.ffn, GROUP, [&](int begin, int end) {
                k.multiply(layer.gate_up, normed, count, hidden.rows.values, hidden.rows.stride(), begin, end, Into::gate);
                if (is_integer(layer.down))
                    for (int row = 0; row < count; row++)
                        k.quantise(hidden.rows, row, begin / GROUP, (end + GROUP - 1) / GROUP);
            });
            team.barrier.wait();
            split(t, layer.down, hidden.rows, count, x.get(), plan.width, Into::add);
            team.barrier.wait();
        }
    }

    // A whole product, in pieces.
    void split(int t, const Matrix &m, const Rows &a, int count, float *out, int stride, Into into) {
        team.split(t, m.rows, 1, [&](int begin, int end) { k.multiply(m, a, count, out, stride, begin, end, into); });
    }

    // Thread t's copy of the rows in x after a norm, ready to be multiplied by m.
    const Rows &norm(int t, int count, const float *weight, const Matrix &m) {
        const Rows &rows = own[t]->normed.rows;
        for (int row = 0; row < count; row++)
            k.normalise(x.get() + (size_t)row * plan.width, weight, plan.eps, plan.width, rows.values + (size_t)row * rows.stride());
        return prepared(rows, count, m);
    }

    const Rows &prepared(const Rows &rows, int count, const Matrix &m) const {
        if (is_integer(m))
            for (int row = 0; row < count; row++)
                k.quantise(rows, row, 0, rows.groups);
        return rows;
    }

    const StackPlan plan;
    const std::vector<LayerPlan> layers;
    const Kernels &k;
    Team &team;
    Room<float> x;

  private:
    int qkv_width() const { return (plan.heads + 2 * plan.kv_heads) * plan.head; }

    const Rows &heard_of(int t) {
        Rows &rows = own[t]->heard.rows;
        rows.values = heard.rows.values;
        return rows;
    }

    size_t cache_at(int layer, int kv_head) const {
        const size_t positions = (plan.positions + BLOCK - 1) / BLOCK * BLOCK;
        return ((size_t)layer * plan.kv_heads + kv_head) * positions * plan.head * (plan.bf16_cache ? 2 : 4);
    }

    void put(void *cache, size_t at, float what) const {
        if (plan.bf16_cache)
            ((uint16_t *)cache)[at] = to_bf16(what);
        else
            ((float *)cache)[at] = what;
    }

    // Rotate one row's queries and key of one key-value head, and keep its key and value.
    void remember(int layer, int row, int kv_head, int start) {
        const int position = start + row, shared = plan.heads / plan.kv_heads, half = plan.head / 2;
        const float *cos = plan.cos + (size_t)position * half, *sin = plan.sin + (size_t)position * half;
        float *all = qkv.get() + (size_t)row * qkv_width();
        for (int i = 0; i <= shared; i++) {
            float *head = all + (size_t)(i < shared ? kv_head * shared + i : plan.heads + kv_head) * plan.head;
            for (int j = 0; j < half; j++) {
                const float a = head[j], b = head[j + half];
                head[j] = a * cos[j] - b * sin[j];
                head[j + half] = b * cos[j] + a * sin[j];
            }
        }
        char *keys = (char *)plan.keys + cache_at(layer, kv_head), *values = (char *)plan.values + cache_at(layer, kv_head);
        const float *key = all + (size_t)(plan.heads + kv_head) * plan.head, *value = key + (size_t)plan.kv_heads * plan.head;
        for (int i = 0; i < plan.head; i++) {
            put(keys, ((size_t)position / BLOCK * plan.head + i) * BLOCK + position % BLOCK, key[i]);
            put(values, (size_t)position * plan.head + i, value[i]);
        }
    }

    // Attention for units [begin, end) of key-value heads · rows.
    void listen(int t, int layer, int count, int start, int begin, int end) {
        const int shared = plan.heads / plan.kv_heads;
        for (int unit = begin; unit < end;) {
            const int kv_head = unit / count, row = unit % count, rows = std::min(count - row, end - unit);
            const Cache cache = {(char *)plan.keys + cache_at(layer, kv_head), (char *)plan.values + cache_at(layer, kv_head),
                                 plan.bf16_cache != 0, plan.head};
            const int stride = heard.rows.stride(), first = kv_head * shared * plan.head;
            const Queries queries = {qkv.get() + (size_t)row * qkv_width() + first, heard.rows.values + (size_t)row * stride + first,
                                     qkv_width(), stride, rows, shared, start + row};
            k.attend(cache, queries, own[t]->scratch.get());
            unit += rows;
        }
    }

    Room<float> qkv;
    RowsRoom heard, hidden;
    std::vector<std::unique_ptr<Own>> own;
};

// Draws one code as torch's path does: the arg-max, or an exponential race among the top_k.
class Draw {
  public:
    Draw(int ids, int sounds) : ids_(ids), sounds_(sounds), order_(sounds) {}

    int operator()(const float *logits, const Sampling &how, const float *noise) {
        if (how.greedy)
            return (int)(std::max_element(logits, logits + ids_) - logits);
        const int top = std::min(how.top_k, sounds_);
        for (int i = 0; i < sounds_; i++)
            order_[i] = i;
        const auto before = [&](int a, int b) { return logits[a] > logits[b] || (logits[a] == logits[b] && a < b); };
        std::nth_element(order_.begin(), order_.begin() + top - 1, order_.end(), before);
        std::sort(order_.begin(), order_.begin() + top, before);
        int drawn = order_[0];
        float best = -1;
        for (int i = 0; i < top; i++) {
            const float won = std::exp((logits[order_[i]] - logits[order_[0]]) / how.temperature) / noise[i];
            if (won > best)
                best = won, drawn = order_[i];
        }
        return drawn;
    }

    // The largest logit; NaN if any of them is none, which the arg-max alone would overlook.
    float largest(const float *logits) const {
        float most = logits[0], broken = 0;
        for (int i = 0; i < ids_; i++)
            most = std::max(most, logits[i]), broken += logits[i] * 0.0f;
        return most + broken;
    }

    float chance_of_zero(const float *logits, float temperature) const {
        double total = 0;
        for (int i = 0; i < ids_; i++)
            total += std::exp((logits[i] - logits[0]) / temperature);
        return (float)(1 / total);
    }

  private:
    const int ids_, sounds_;
    std::vector<int> order_;
};

class Model {
  public:
    Model(const Plan &plan, const Kernels &kernels, int threads)
        : plan_(plan), heads_(plan.heads, plan.heads + plan.codebooks), k_(kernels), team_(threads),
          backbone_(plan.backbone, kernels, team_), depth_(plan.depth, kernels, team_), draw_(plan.ids, plan.sounds),
          logits_(plan.ids) {
        for (int t = 0; t < threads; t++)
            wide_.push_back(std::make_unique<RowsRoom>(plan.backbone.width));
        shared_ = Room<float>((size_t)2 * plan.backbone.width);
    }

    const char *kernels() const { return k_.name; }

    void listen(const float *rows, int count, int start, float *hidden) {
        const int width = plan_.backbone.width;
        for (int done = 0; done < count; done += CHUNK) {
            const int now = std::min(CHUNK, count - done);
            std::memcpy(backbone_.x.get(), rows + (size_t)done * width, sizeof(float) * now * width);
            team_.run([&](int t) { backbone_.pass(t, now, start + done); });
            for (int row = 0; row < now; row++)
                k_.normalise(backbone_.x.get() + (size_t)row * width, plan_.backbone.norm, plan_.backbone.eps, width,
                             hidden + (size_t)(done + row) * width);
        }
    }

    void frame(const float *hidden, const Sampling &how, int32_t *codes, float *readings) {
        const int width = plan_.backbone.width;
        std::memcpy(shared_.get(), hidden, sizeof(float) * width);
        team_.run([&](int t) { frame_on(t, how, codes, readings); });
    }

  private:
    void frame_on(int t, const Sampling &how, int32_t *codes, float *readings) {
        const Matrix &first = heads_[0];
        depth_.split(t, first, wide(t, 0, 1, first), 1, logits_.get(), plan_.ids, Into::store);
        choose(t, 0, how, codes, readings);
        for (int book = 1; book < plan_.codebooks; book++) {
            // The first pass has two rows, the hidden state and code 0; after it, one row a code.
            const int rows = book == 1 ? 2 : 1;
            const Rows &known = wide(t, 2 - rows, rows, plan_.projection);
            depth_.split(t, plan_.projection, known, rows, depth_.x.get(), plan_.depth.width, Into::store);
            team_.barrier.wait();
            depth_.pass(t, rows, book == 1 ? 0 : book);
            const Matrix &head = heads_[book];
            const Rows &normed = depth_.norm(t, rows, plan_.depth.norm, head);
            const Rows last = {normed.width, normed.groups, normed.values + (rows - 1) * normed.stride(),
                               normed.codes + (rows - 1) * normed.stride(), normed.scales + (rows - 1) * normed.groups,
                               normed.minus + (rows - 1) * normed.groups};
            depth_.split(t, head, last, 1, logits_.get(), plan_.ids, Into::store);
            choose(t, book, how, codes, readings);
        }
    }

    // Thread t's copy of rows of the hidden state (0) and the last code (1), ready for m.
    const Rows &wide(int t, int first, int count, const Matrix &m) {
        const Rows &rows = wide_[t]->rows;
        for (int row = 0; row < count; row++)
            std::memcpy(rows.values + (size_t)row * rows.stride(), shared_.get() + (size_t)(first + row) * rows.width,
                        sizeof(float) * rows.width);
        return depth_.prepared(rows, count, m);
    }

    // One thread draws; its code's row is what the next pass begins with.
    void choose(int t, int book, const Sampling &how, int32_t *codes, float *readings) {
        team_.barrier.wait();
        if (t == 0) {
            const float *logits = logits_.get();
            const int code = how.forced ? how.forced[book] : draw_(logits, how, how.noise + (size_t)book * how.top_k);
            if (how.logits)
                std::memcpy(how.logits + (size_t)book * plan_.ids, logits, sizeof(float) * plan_.ids);
            codes[book] = code;
            if (book == 0) {
                readings[0] = 0;
                readings[1] = draw_.chance_of_zero(logits, how.temperature);
            }
            readings[0] += draw_.largest(logits);
            look_up(plan_.embedding, book * plan_.ids + code, shared_.get() + plan_.backbone.width);
        }
        team_.barrier.wait();
    }

    const Plan plan_;
    const std::vector<Matrix> heads_;
    const Kernels &k_;
    Team team_;
    Stack backbone_, depth_;
    Draw draw_;
    Room<float> logits_, shared_;  // shared_: the hidden state, then the last code's row
    std::vector<std::unique_ptr<RowsRoom>> wide_;
};

// Seconds that the slowest thread needed, all having started together.
double timed(int threads, const std::function<void(int)> &work) {
    Team team(threads);
    double seconds = 0;
    team.run([&](int t) {
        team.barrier.wait();
        const auto began = std::chrono::steady_clock::now();
        work(t);
        team.barrier.wait();
        if (t == 0)
            seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count();
    });
    return seconds;
}

}  // namespace
}  // namespace csm

extern "C" {

int csm_version() { return csm::VERSION; }

// The name of the kernels that `asked` means here ("" for the best), or null where they don't run.
const char *csm_kernels(const char *asked) {
    const csm::Kernels *found = csm::find_kernels(asked);
    return found ? found->name : nullptr;
}

// Numbers in a vector of 16-bit codes: widths must be multiples of it, and heads of half of it.
int csm_shorts(const char *kernels) { return csm::find_kernels(kernels)->shorts; }

// Null when memory runs out, or threads can't be had.
void *csm_new(const csm::Plan *plan, const char *kernels, int threads) {
    try {
        return new csm::Model(*plan, *csm::find_kernels(kernels), threads);
    } catch (const std::exception &) {
        return nullptr;
    }
}

void csm_free(void *model) { delete (csm::Model *)model; }

void csm_listen(void *model, const float *rows, int count, int start, float *hidden) {
    ((csm::Model *)model)->listen(rows, count, start, hidden);
}

void csm_frame(void *model, const float *hidden, const csm::Sampling *how, int32_t *codes, float *readings) {
    ((csm::Model *)model)->frame(hidden, *how, codes, readings);
}

// One product, for the tests: out [count][rows] of x [count][width].
void csm_multiply(const csm::Matrix *m, const char *kernels, int threads, const float *x, int count, float *out) {
    const csm::Kernels &k = *csm::find_kernels(kernels);
    csm::Team team(threads);
    for (int done = 0; done < count; done += csm::CHUNK) {
        const int now = std::min(csm::CHUNK, count - done);
        csm::RowsRoom room(m->width);
        for (int row = 0; row < now; row++) {
            std::memcpy(room.rows.values + (size_t)row * room.rows.stride(), x + (size_t)(done + row) * m->width, sizeof(float) * m->width);
            k.quantise(room.rows, row, 0, room.groups);
        }
        team.run([&](int t) {
            const auto [begin, end] = team.share(t, m->rows);
            k.multiply(*m, room.rows, now, out + (size_t)done * m->rows, m->rows, begin, end, csm::Into::store);
        });
    }
}

// Bytes a second that `threads` can read of memory that no cache holds.
double csm_bandwidth(const char *kernels, int threads, const uint8_t *memory, size_t bytes) {
    const csm::Kernels &k = *csm::find_kernels(kernels);
    const size_t each = bytes / threads / 4096 * 4096;
    std::vector<uint64_t> seen(threads);  // called through a pointer: nothing is left out
    return each * threads / csm::timed(threads, [&](int t) { seen[t] = k.read(memory + t * each, each); });
}

// Multiplications of 16-bit codes a second that `threads` reach in registers: what a batch of rows is held against.
double csm_peak(const char *kernels, int threads, size_t rounds) {
    const csm::Kernels &k = *csm::find_kernels(kernels);
    std::vector<uint64_t> made(threads);
    const double seconds = csm::timed(threads, [&](int t) { made[t] = k.toil(rounds); });
    uint64_t all = 0;
    for (uint64_t some : made)
        all += some;
    return all / seconds;
}
}
