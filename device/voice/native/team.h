// Threads that work on one job together, and sleep between jobs.
//
// A frame is about 700 short steps with all threads waiting for each other in between: sleeping in the kernel each
// time would cost more than the work. So a thread that waits spins, but not for longer than about 0.1 ms: where
// another program has taken its neighbour's core, it sleeps and gives its own core away.
#pragma once
#include <atomic>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace csm {

inline void breathe() {
#if defined(__x86_64__)
    _mm_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

// Everyone waits until everyone is there.
class Barrier {
  public:
    explicit Barrier(int all) : all_(all) {}

    void wait() {
        if (all_ == 1)
            return;
        const unsigned now = passed_.load();
        if (there_.fetch_add(1) + 1 == all_) {
            there_.store(0);
            passed_.store(now + 1);
            if (asleep_.load() > 0) {
                std::lock_guard<std::mutex> lock(mutex_);  // a sleeper has looked at passed_ before, or will see it
                wake_.notify_all();
            }
            return;
        }
        for (int i = 0; i < 2000; i++) {
            if (passed_.load(std::memory_order_acquire) != now)
                return;
            breathe();
        }
        std::unique_lock<std::mutex> lock(mutex_);
        asleep_.fetch_add(1);
        wake_.wait(lock, [&] { return passed_.load() != now; });
        asleep_.fetch_sub(1);
    }

  private:
    const int all_;
    std::atomic<int> there_{0}, asleep_{0};
    std::atomic<unsigned> passed_{0};
    std::mutex mutex_;
    std::condition_variable wake_;
};

class Team {
  public:
    explicit Team(int size) : size(size), barrier(size) {
        try {
            for (int t = 1; t < size; t++)
                threads_.emplace_back([this, t] { serve(t); });
        } catch (...) {  // there are no more threads to be had: those that are must not outlive this
            end();
            throw;
        }
    }

    ~Team() { end(); }

    // work(t) on every thread, the caller being number 0. An empty one ends them.
    void run(const std::function<void(int)> &work) {
        {
            std::lock_guard<std::mutex> lock(mutex_);
            work_ = work;
            jobs_++;
        }
        wake_.notify_all();
        if (work) {
            work(0);
            barrier.wait();
        }
    }

    // [begin, end) of `total` things for thread t, in whole units but for the last.
    std::pair<int, int> share(int t, int total, int unit = 1) const {
        const int units = (total + unit - 1) / unit;
        const int begin = units * t / size * unit, end = units * (t + 1) / size * unit;
        return {begin < total ? begin : total, end < total ? end : total};
    }

    // work(begin, end) for pieces of `total` things, in whole units but for the last: a thread takes the next piece when
    // it is done with one, so that a core which another program uses holds up one piece and not its half of the work.
    // Every thread calls it in the same order, with a barrier after it.
    template <class Work> void split(int t, int total, int unit, Work work) {
        const unsigned step = seats_[t].step++;
        if (t == 0)
            next_[(step + 1) % 3].store(0, std::memory_order_relaxed);  // nobody is there yet, or still there
        const int units = (total + unit - 1) / unit, pieces = size == 1 ? 1 : size * PIECES;
        for (;;) {
            const int piece = next_[step % 3].fetch_add(1, std::memory_order_relaxed);
            if (piece >= pieces)
                return;
            const int begin = units * piece / pieces * unit, end = units * (piece + 1) / pieces * unit;
            if (begin < end)
                work(begin, end < total ? end : total);
        }
    }

    const int size;
    Barrier barrier;

  private:
    static constexpr int PIECES = 4;  // for each thread
    struct alignas(64) Seat {
        unsigned step = 0;
    };

    void end() {
        run(nullptr);
        for (auto &thread : threads_)
            thread.join();
    }

    void serve(int t) {
        for (unsigned done = 0;;) {
            std::function<void(int)> work;
            {
                std::unique_lock<std::mutex> lock(mutex_);
                wake_.wait(lock, [&] { return jobs_ != done; });
                done = jobs_;
                work = work_;
            }
            if (!work)
                return;
            work(t);
            barrier.wait();
        }
    }

    std::vector<Seat> seats_{(size_t)size};
    std::atomic<int> next_[3] = {};
    std::vector<std::thread> threads_;
    std::mutex mutex_;
    std::condition_variable wake_;
    std::function<void(int)> work_;
    unsigned jobs_ = 0;
};

}  // namespace csm
